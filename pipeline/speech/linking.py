"""The same people in many recordings: one global number for all speakers whose mean voices are near.

Agglomerative clustering of mean voices, weighted by how long each was heard: pairs that are each other's nearest join,
until none is alike by the threshold. Speakers of one recording never do, since its diarization has told them apart.
Similarities are computed block by block, so 50,000 speakers need some 100 MB and not the 20 GB of all their pairs.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence

import numpy as np
from scipy import sparse

THRESHOLD = 0.65
"""Mean voices of one speaker in two recordings are alike by 0.78 in 95 of 100 cases, those of two by less than 0.6."""

_BLOCK = 512
_LEAST_S = 1e-3
_NUMBERED = re.compile(r"V([1-9][0-9]*)")


def link(
    centroids: Sequence[np.ndarray], seconds: Sequence[np.ndarray], *, threshold: float = THRESHOLD
) -> list[np.ndarray]:
    """A global number for each speaker of each recording.

    Args:
        centroids: of each recording the mean voices of its speakers, ``[speakers, d]``; one of zeros is nobody else's.
        seconds: of each recording how long each of them speaks, ``[speakers]``.
        threshold: the least similarity (cosine) of mean voices of one person, within -1..1.

    Returns:
        of each recording int64 ``[speakers]``: numbers from 0 in the order in which they first appear.

    Raises:
        ValueError: shapes that do not fit, numbers that are not finite, or a threshold out of range.
    """
    if not -1 <= threshold <= 1:
        raise ValueError(f"a threshold of cosines lies within -1..1: {threshold}")
    vectors, weights, recordings = _table(centroids, seconds)
    labels = _joined(vectors * weights[:, None], recordings, threshold)
    _, first, inverse = np.unique(labels, return_index=True, return_inverse=True)
    numbers = np.argsort(np.argsort(first))[inverse]
    bounds = np.cumsum([len(voices) for voices in centroids])[:-1]
    return [part.astype(np.int64) for part in np.split(numbers, bounds)] if len(centroids) else []


def names(
    people: Sequence[int], seconds: Sequence[float], before: Sequence[str | None], *, taken: int = 0
) -> list[str]:
    """A name for each speaker, ``V1``, ``V2``, …: equal where the person is. A person keeps the name that most of
    their time had before; of two who have it, that one with more. The others get numbers that nobody had.

    Args:
        people: a number of the person, of each speaker, as of `link`.
        seconds: how long each of them speaks.
        before: what each was called; None of one that is new.
        taken: the largest number that is a name already, beside those in ``before``.

    Raises:
        ValueError: lengths that differ.
    """
    heard: dict[tuple[int, str], float] = defaultdict(float)
    for person, length, name in zip(people, seconds, before, strict=True):
        if name is not None:
            heard[person, name] += length
    named: dict[int, str] = {}
    given: set[str] = set()
    for (person, name), _ in sorted(heard.items(), key=lambda item: (-item[1], item[0])):
        if person not in named and name not in given:
            named[person] = name
            given.add(name)
    numbers = (_NUMBERED.fullmatch(name or "") for name in before)
    last = max([taken, *(int(found[1]) for found in numbers if found)])
    for person in dict.fromkeys(people):
        if person not in named:
            last += 1
            named[person] = f"V{last}"
    return [named[person] for person in people]


def likeness(voices: np.ndarray, seconds: np.ndarray, people: np.ndarray) -> np.ndarray:
    """How like each speaker's voice is to all others of the same person together.

    Args:
        voices: mean voices, ``[n, d]``.
        seconds: ``[n]``, how long each was heard.
        people: int ``[n]``, a number of the person of each.

    Returns:
        float64 ``[n]``, cosines; NaN of one whom no other recording has, and of a voice of zeros.
    """
    units = _unit(np.asarray(voices, np.float64))
    weighted = units * np.maximum(np.asarray(seconds, np.float64), _LEAST_S)[:, None]
    whole = np.zeros((int(np.max(people, initial=-1)) + 1, units.shape[1]))
    np.add.at(whole, people, weighted)
    counts = np.bincount(people, minlength=len(whole))[people]
    alike = (units * _unit(whole[people] - weighted)).sum(axis=1)
    alike[(counts < 2) | ~units.any(axis=1)] = np.nan
    return np.clip(alike, -1.0, 1.0)


def _table(
    centroids: Sequence[np.ndarray], seconds: Sequence[np.ndarray]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """All mean voices of length one, their weights, and which recording each is of."""
    if len(centroids) != len(seconds):
        raise ValueError(f"centroids of {len(centroids)} recordings, seconds of {len(seconds)}")
    for voices, heard in zip(centroids, seconds, strict=True):
        if np.ndim(voices) != 2 or np.shape(heard) != (len(voices),):
            raise ValueError(f"centroids {list(np.shape(voices))} do not fit seconds {list(np.shape(heard))}")
    present = [np.asarray(voices, np.float32) for voices in centroids if len(voices)]
    vectors = np.concatenate(present) if present else np.zeros((0, 1), np.float32)
    weights = np.concatenate([np.zeros(0), *(np.asarray(heard, np.float64) for heard in seconds)])
    if not (np.isfinite(vectors).all() and np.isfinite(weights).all()):
        raise ValueError("centroids and seconds are finite numbers")
    recordings = np.repeat(np.arange(len(centroids)), [len(voices) for voices in centroids])
    # What was heard for no time at all still has a voice.
    weights = np.maximum(weights, _LEAST_S).astype(np.float32)
    return _unit(vectors), weights, recordings


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)


def _joined(sums: np.ndarray, recordings: np.ndarray, threshold: float) -> np.ndarray:
    """Labels of speakers, of the weighted sums of their voices ``[n, d]``."""
    labels = np.arange(len(sums))
    ones = np.ones(len(sums), np.float32)
    members = sparse.csr_matrix(
        (ones, (labels, recordings)), shape=(len(sums), int(recordings.max(initial=0)) + 1)
    )
    nearest, similar = np.zeros(len(sums), np.int64), np.full(len(sums), -2.0, np.float32)
    stale = np.arange(len(sums))
    while len(stale):
        _search(_unit(sums), members, stale, nearest, similar)
        mutual = nearest[nearest] == np.arange(len(sums))
        keep = np.flatnonzero(mutual & (similar >= threshold) & (np.arange(len(sums)) < nearest))
        gone = nearest[keep]
        if not len(keep):
            # Of equally near ones rounding can leave no pair that is each other's nearest.
            best = int(np.argmax(similar))
            if similar[best] < threshold:
                break
            keep, gone = np.sort([best, nearest[best]])[:, None]
        target = np.arange(len(sums))
        target[gone] = keep
        left = np.setdiff1d(target, gone)
        renamed = np.searchsorted(left, target)
        # Whoever was nearest to one of a pair looks again, and so does the pair.
        touched = np.zeros(len(sums), bool)
        touched[keep] = touched[gone] = True
        again = left[touched[left] | touched[nearest[left]]]
        join = sparse.csr_matrix((np.ones(len(sums), np.float32), (renamed, np.arange(len(sums)))))
        sums, members = join @ sums, join @ members
        labels = renamed[labels]
        nearest, similar = renamed[nearest[left]], similar[left]
        stale = renamed[again]
        _improve(_unit(sums), members, renamed[keep], nearest, similar)
    return labels


def _search(
    vectors: np.ndarray,
    members: sparse.csr_matrix,
    rows: np.ndarray,
    nearest: np.ndarray,
    similar: np.ndarray,
) -> None:
    """Find anew for these rows which other one is the nearest, and how near it is."""
    for first in range(0, len(rows), _BLOCK):
        block = rows[first : first + _BLOCK]
        alike = _similarities(vectors, members, block)
        nearest[block] = alike.argmax(axis=1)
        similar[block] = alike[np.arange(len(block)), nearest[block]]


def _improve(
    vectors: np.ndarray,
    members: sparse.csr_matrix,
    rows: np.ndarray,
    nearest: np.ndarray,
    similar: np.ndarray,
) -> None:
    """Give these rows, which are new, to all that they are nearer to than what was the nearest so far."""
    for first in range(0, len(rows), _BLOCK):
        block = rows[first : first + _BLOCK]
        alike = _similarities(vectors, members, block)
        best = alike.argmax(axis=0)
        value = alike[best, np.arange(len(vectors))]
        better = np.flatnonzero(value > similar)
        nearest[better], similar[better] = block[best[better]], value[better]


def _similarities(vectors: np.ndarray, members: sparse.csr_matrix, rows: np.ndarray) -> np.ndarray:
    """Cosines of these rows with all, -2 where both have a speaker of one recording, float32 ``[rows, n]``."""
    alike = vectors[rows] @ vectors.T
    together = (members[rows] @ members.T).tocoo()
    alike[together.row, together.col] = -2.0
    nobody = ~vectors.any(axis=1)
    alike[:, nobody] = -2.0
    alike[nobody[rows]] = -2.0
    return alike
