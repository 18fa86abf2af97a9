"""The map: embeddings, or descriptors where there are none, on the plane where they vary most."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass

import numpy as np

from pipeline.report.overview import LEAST_ON_MAP, Overview

POINTS = 5_000
"""Most points on the map: beyond, a browser is slow, and the eye sees no more."""


@dataclass
class Map:
    """Where tracks lie on the map.

    Args:
        source: ``embeddings``, ``descriptors``, or empty where there is neither.
        columns: what the vectors consist of.
        seen: tracks that have such a vector.
        ids: contents on the map, at most `POINTS`.
        places: ``[n, 2]``, the first two principal components.
        explained: share of the variance that each of the two holds.
    """

    source: str
    columns: list[str]
    seen: int
    ids: np.ndarray
    places: np.ndarray
    _: KW_ONLY
    explained: tuple[float, float]


def embedding_map(found: Overview) -> Map:
    """The map of a dataset. Fewer than three tracks with a vector make none."""
    ids, vectors = found.embeddings.result()
    source, columns, seen = "embeddings", [found.embedding], found.embeddings.seen
    if len(ids) < LEAST_ON_MAP:
        ids, vectors = found.descriptors.result()
        source, columns, seen = "descriptors", list(found.groups), found.descriptors.seen
        if len(ids) >= LEAST_ON_MAP:
            vectors = standardised(vectors, list(found.groups.values()))
    if len(ids) < LEAST_ON_MAP:
        return Map("", [], 0, np.empty(0, np.uint64), np.empty((0, 2)), explained=(0.0, 0.0))
    axes, explained = principal_axes(vectors)
    places = (vectors[:POINTS] - vectors.mean(axis=0)) @ axes.T
    return Map(source, columns, seen, ids[:POINTS], places, explained=explained)


def standardised(vectors: np.ndarray, widths: list[int]) -> np.ndarray:
    """Each column with mean 0 and variance 1, and each group of columns with the same say whatever its width.

    Args:
        vectors: ``[n, sum(widths)]``.
        widths: columns of each group, side by side.
    """
    centred = vectors - vectors.mean(axis=0)
    spread = centred.std(axis=0)
    scaled = np.divide(centred, spread, out=np.zeros_like(centred), where=spread > 1e-6)
    return scaled / np.sqrt(np.repeat(widths, widths)).astype(np.float32)


def principal_axes(vectors: np.ndarray) -> tuple[np.ndarray, tuple[float, float]]:
    """The two orthonormal axes with the largest variance, ``[2, size]``, and its shares on them.

    An axis along which nothing varies may be zero.
    """
    centred = np.asarray(vectors, float) - vectors.mean(axis=0)
    variances, found = np.linalg.eigh(centred.T @ centred)  # the largest comes last
    total = variances.sum()
    axes = np.zeros((2, vectors.shape[1]), np.float32)
    largest = found[:, ::-1][:, : min(2, *vectors.shape)].T
    # Of the two ways round: that with the largest entry above zero, so that equal data gives an equal map.
    signs = np.sign(largest[np.arange(len(largest)), np.abs(largest).argmax(axis=1)])
    axes[: len(largest)] = largest * signs[:, None]
    # Of tracks that are all the same no axis has a share.
    shares = [*(variances[::-1][: len(largest)] / total if total > 0 else ()), 0.0, 0.0]
    return axes, (float(shares[0]), float(shares[1]))
