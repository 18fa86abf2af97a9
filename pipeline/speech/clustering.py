"""Groups of voice embeddings, one for each speaker, and how many there are.

Few embeddings are grouped from below (average linkage). Of more, normalized maximum eigengap spectral clustering
chooses how many neighbours count and how many groups there are (NME-SC; Park et al., "Auto-Tuning Spectral Clustering
for Speaker Diarization Using Normalized Maximum Eigengap", IEEE SPL 2020). What the two leave apart although its mean
voices are the same is put together. Everything is deterministic.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.linalg import eigh
from scipy.spatial.distance import squareform

FEW = 150
"""Below so many embeddings eigenvalues say little: of 50 to 90 linkage finds the number of speakers more often, of 250
NME-SC does."""
MOST = 500
"""Of more embeddings, near ones are averaged first: time and memory grow with the square."""
WINDOWS_PER_SPEAKER = 8
MOST_SPEAKERS = 20

_FEWEST = 3
_LEAST_SHARE = 0.01
_ROUNDS = 50


@dataclass(frozen=True, kw_only=True)
class Cosines:
    """What the similarities of voice embeddings mean, which is another thing for each network; here those of CAM++.

    Args:
        alike: of stretches of 1.5 s of one speaker in clean recordings; noise makes it less.
        alike_least, alike_most: what that is taken to lie in, whatever a recording says.
        stop: groups that are alike by less than this part of what one speaker's stretches are, are two speakers.
        same: groups whose means are alike by this are one speaker.
        trust: two local speakers of a chunk are two people unless their voices say otherwise by more than this.
        against: a stretch speaks against its local speaker's being one person when it is nearer to another by more
            than this.
        unlike: of stretches of two speakers: what takes the place of the second speaker's where there is one only.
        steepness: of confidence by the difference of cosines: with 10, 0.2 gives 0.88.
    """

    alike: float = 0.5
    alike_least: float = 0.3
    alike_most: float = 0.7
    stop: float = 0.7
    same: float = 0.62
    trust: float = 0.2
    against: float = 0.1
    unlike: float = 0.2
    steepness: float = 10.0


CAMPPLUS = Cosines()


@dataclass(frozen=True)
class SpeakerCounts:
    """What is known of how many people speak.

    Args:
        num: exactly so many, as far as there are embeddings for them; None where nobody knows.
        minimum: at least so many.
        maximum: at most so many; None for one speaker per `WINDOWS_PER_SPEAKER` embeddings, and `MOST_SPEAKERS`.

    Raises:
        ValueError: a number below 1, or a minimum above the maximum.
    """

    num: int | None = None
    minimum: int = 1
    maximum: int | None = None

    def __post_init__(self) -> None:
        for name in ("num", "minimum", "maximum"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} of speakers is at least 1: {value}")
        if self.maximum is not None and self.minimum > self.maximum:
            raise ValueError(
                f"at least {self.minimum} speakers and at most {self.maximum} exclude each other"
            )

    def bounds(self, embeddings: int) -> tuple[int, int]:
        """The least and the most groups that so many embeddings are put into."""
        if self.num is not None:
            return min(self.num, embeddings), min(self.num, embeddings)
        likely = max(1, embeddings // WINDOWS_PER_SPEAKER)
        most = min(self.maximum or MOST_SPEAKERS, max(likely, self.minimum), embeddings)
        return min(self.minimum, most), most


def unit(vectors: np.ndarray) -> np.ndarray:
    """Vectors ``[..., d]`` of length one; what is zero stays so."""
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)


def cluster(
    embeddings: np.ndarray,
    counts: SpeakerCounts | None = None,
    *,
    alike: float | None = None,
    cosines: Cosines = CAMPPLUS,
) -> np.ndarray:
    """Which speaker each embedding is of.

    Args:
        embeddings: ``[n, d]`` of stretches of about the same length, any n.
        counts: what is known of the number of speakers.
        alike: how similar (cosine) embeddings of one speaker are in this recording; None where nobody knows.
        cosines: what similarities mean.

    Returns:
        int64 ``[n]``: groups from 0 in the order in which they first appear.

    Raises:
        ValueError: another shape, or numbers that are not finite.
    """
    embeddings = np.asarray(embeddings, np.float64)
    if embeddings.ndim != 2 or not np.isfinite(embeddings).all():
        raise ValueError(f"embeddings are finite numbers [n, d], not {list(embeddings.shape)}")
    least, most = (counts or SpeakerCounts()).bounds(len(embeddings))
    if most <= 1:
        return np.zeros(len(embeddings), np.int64)
    vectors = unit(embeddings)
    groups = condensed(vectors, MOST)
    means = unit(centroids(vectors, groups))
    sizes = np.bincount(groups)
    stop = (cosines.alike if alike is None else alike) * cosines.stop
    labels = agglomerative(means, least, most, stop) if len(means) < FEW else spectral(means, least, most)
    labels = merged(means, labels, sizes, least, same=cosines.same)
    labels = without_strays(means, labels, sizes, least)
    return renumbered(labels[groups])


def renumbered(labels: np.ndarray) -> np.ndarray:
    """Labels from 0 in the order in which they first appear."""
    _, first, inverse = np.unique(labels, return_index=True, return_inverse=True)
    order = np.empty(len(first), np.int64)
    order[np.argsort(first)] = np.arange(len(first))
    return order[inverse]


def centroids(vectors: np.ndarray, labels: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """The sum of the vectors of each label, ``[labels, d]``, weighted if told so."""
    sums = np.zeros((int(labels.max(initial=-1)) + 1, vectors.shape[1]))
    np.add.at(sums, labels, vectors if weights is None else vectors * weights[:, None])
    return sums


def condensed(vectors: np.ndarray, most: int) -> np.ndarray:
    """Groups of near vectors, at most so many: int64 ``[n]``. One each where there are no more vectors.

    Blocks of consecutive vectors, which are near in time, are grouped on their own.
    """
    groups = np.arange(len(vectors))
    while (count := int(groups.max(initial=-1)) + 1) > most:
        means = unit(centroids(vectors, groups))
        next_groups, at = np.empty(count, np.int64), 0
        for first in range(0, count, most):
            block = means[first : first + most]
            # By half only, again and again: fewer groups at a time would put two speakers into one.
            labels = (
                renumbered(_cut(_tree(block), -(-len(block) // 2))) if len(block) > 1 else np.zeros(1, int)
            )
            next_groups[first : first + len(block)] = at + labels
            at += int(labels.max()) + 1
        groups = next_groups[groups]
    return groups


def _tree(vectors: np.ndarray) -> np.ndarray:
    """Average linkage of unit vectors by cosine distance, as scipy has it; one of zeros is 1 from all."""
    apart = np.clip(1 - vectors @ vectors.T, 0.0, 2.0)
    np.fill_diagonal(apart, 0.0)
    return linkage(squareform(apart, checks=False), "average")


def _cut(tree: np.ndarray, groups: int) -> np.ndarray:
    """Labels from 0 of exactly so many groups, also where heights are equal."""
    n = len(tree) + 1
    parent = np.arange(2 * n - 1)
    for row in range(n - groups):
        parent[tree[row, :2].astype(int)] = n + row
    for node in range(2 * n - 2, -1, -1):
        parent[node] = parent[parent[node]]
    return np.unique(parent[:n], return_inverse=True)[1]


def agglomerative(vectors: np.ndarray, least: int, most: int, stop: float) -> np.ndarray:
    """Labels by average linkage: groups less alike than ``stop`` stay apart, within the bounds."""
    tree = _tree(vectors)
    found = len(np.unique(fcluster(tree, 1 - stop, "distance")))
    return _cut(tree, int(np.clip(found, least, most)))


def spectral(vectors: np.ndarray, least: int, most: int) -> np.ndarray:
    """Labels by NME-SC, within the bounds."""
    affinity = vectors @ vectors.T
    order = np.argsort(-affinity, axis=1, kind="stable")
    best: tuple[float, int, np.ndarray] | None = None
    for neighbours in _neighbour_counts(len(vectors)):
        values, eigenvectors, largest = _spectrum(order[:, :neighbours], max(MOST_SPEAKERS, most) + 1)
        gaps = np.diff(values)
        ratio = (neighbours / len(vectors)) / (gaps.max() / max(largest, 1e-12) + 1e-10)
        if best is None or ratio < best[0]:
            best = (ratio, int(np.clip(np.argmax(gaps) + 1, least, most)), eigenvectors)
    if best is None:
        raise ValueError("there is nothing to cluster")
    _, speakers, eigenvectors = best
    return k_means(eigenvectors[:, :speakers], speakers)


def _neighbour_counts(n: int) -> list[int]:
    """How many neighbours are tried, up to a quarter of all."""
    return sorted({max(2, round(share * n)) for share in np.linspace(0.02, 0.25, 8)})


def _spectrum(nearest: np.ndarray, few: int) -> tuple[np.ndarray, np.ndarray, float]:
    """The smallest eigenvalues of the Laplacian of a graph of neighbours, their vectors, and the largest eigenvalue."""
    n = len(nearest)
    graph = np.zeros((n, n))
    np.put_along_axis(graph, nearest, 1.0, axis=1)
    graph = (graph + graph.T) / 2
    np.fill_diagonal(graph, 0.0)
    degree = graph.sum(axis=1)
    laplacian = np.diag(degree) - graph
    few = min(few, n)
    values, vectors = eigh(laplacian, subset_by_index=(0, few - 1))
    # Of a Laplacian the largest is at most twice the largest degree, and near to it here.
    return values, vectors, float(degree.max())


def k_means(points: np.ndarray, groups: int) -> np.ndarray:
    """Labels of Lloyd's algorithm from centres that lie as far apart as they can."""
    centres = [points[np.argmax(np.linalg.norm(points - points.mean(axis=0), axis=1))]]
    nearest = np.full(len(points), np.inf)
    while len(centres) < groups:
        nearest = np.minimum(nearest, np.sum((points - centres[-1]) ** 2, axis=1))
        centres.append(points[np.argmax(nearest)])
    middle = np.stack(centres)
    labels = np.full(len(points), -1)
    for _ in range(_ROUNDS):
        distances = ((points[:, None] - middle[None]) ** 2).sum(axis=2)
        new = np.argmin(distances, axis=1)
        if np.array_equal(new, labels):
            break
        labels = new
        for group in range(groups):
            if (labels == group).any():
                middle[group] = points[labels == group].mean(axis=0)
    return np.unique(labels, return_inverse=True)[1]


def merged(
    vectors: np.ndarray, labels: np.ndarray, sizes: np.ndarray, least: int, *, same: float = CAMPPLUS.same
) -> np.ndarray:
    """Labels from 0 in which no two groups have means alike by ``same``, unless that leaves too few."""
    labels = np.unique(labels, return_inverse=True)[1]
    while (groups := int(labels.max()) + 1) > least:
        means = unit(centroids(vectors, labels, sizes))
        alike = means @ means.T
        np.fill_diagonal(alike, -1.0)
        one, other = divmod(int(np.argmax(alike)), groups)
        if alike[one, other] < same:
            break
        labels = np.unique(np.where(labels == other, one, labels), return_inverse=True)[1]
    return labels


def without_strays(vectors: np.ndarray, labels: np.ndarray, sizes: np.ndarray, least: int) -> np.ndarray:
    """Labels from 0 in which groups of fewer than `_FEWEST` embeddings, or of one in a hundred, belong to the nearest
    other one, the smallest first, unless that leaves too few."""
    fewest = max(_FEWEST, sizes.sum() * _LEAST_SHARE)
    while (groups := int(labels.max()) + 1) > least:
        counts = np.bincount(labels, sizes, groups)
        stray = int(np.argmin(counts))
        if counts[stray] >= fewest:
            break
        means = unit(centroids(vectors, labels, sizes))
        alike = means @ means[stray]
        alike[stray] = -2.0
        labels = np.where(labels == stray, int(np.argmax(alike)), labels)
        labels = np.unique(labels, return_inverse=True)[1]
    return labels
