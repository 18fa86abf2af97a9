"""From a sample to the whole: which files to look at, and how far what they say can be trusted.

All of it is deterministic: the same files and the same seed give the same sample and the same range.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

CONFIDENCE = 0.9
Z = 1.6448536269514722
"""Of a two-sided interval with `CONFIDENCE` under the normal distribution."""

RESAMPLES = 400
SIZE_CLASSES = 3


@dataclass(frozen=True)
class Range:
    """An estimate with the interval that holds the truth in `CONFIDENCE` of all samples."""

    low: float
    expected: float
    high: float

    def times(self, low: float, high: float) -> Range:
        """Wider: the ends multiplied by factors of at most and at least 1."""
        return Range(self.low * low, self.expected, self.high * high)


def wilson(hits: int, n: int, z: float = Z) -> tuple[float, float]:
    """Wilson's score interval for a rate of which ``hits`` of ``n`` were seen; (0, 1) where nothing was."""
    if n == 0:
        return 0.0, 1.0
    rate, square = hits / n, z * z
    middle = (rate + square / (2 * n)) / (1 + square / n)
    half = z / (1 + square / n) * math.sqrt(rate * (1 - rate) / n + square / (4 * n * n))
    # The ends are exact where the rate is 0 or 1; rounding may put them beyond.
    low = 0.0 if hits == 0 else max(0.0, middle - half)
    return low, 1.0 if hits == n else min(1.0, middle + half)


def strata(kinds: Sequence[Hashable], sizes: Sequence[int | None]) -> list[np.ndarray]:
    """Members of each stratum: files of one kind, by thirds of their size. Each index is in exactly one.

    Args:
        kinds: of each file, such as its suffix.
        sizes: bytes of each; files of unknown size are a stratum of their own kind.
    """
    groups: dict[tuple[Hashable, bool], list[int]] = {}
    for index, (kind, size) in enumerate(zip(kinds, sizes, strict=True)):
        groups.setdefault((kind, size is None), []).append(index)
    found = []
    for (_, unknown), members in groups.items():
        if unknown or len(members) < 2 * SIZE_CLASSES:
            found.append(np.array(members))
            continue
        ordered = np.array(sorted(members, key=lambda i: (sizes[i], i)))
        found += [part for part in np.array_split(ordered, SIZE_CLASSES) if len(part)]
    return found


def choose(
    groups: Sequence[np.ndarray], sizes: Sequence[int | None], names: Sequence[str], count: int, seed: int
) -> list[int]:
    """At most ``count`` files: from each stratum by its share of files and of bytes alike, one at least of the
    largest strata where there are more strata than ``count``.

    Args:
        groups: as `strata` gives them.
        sizes: bytes of each file.
        names: of each file; which of a stratum are taken depends on them and on ``seed`` alone.

    Returns:
        indexes in an order whose beginnings are samples, too: strata take turns.
    """
    if count <= 0 or not groups:
        return []
    members = np.array([len(g) for g in groups], float)
    volume = np.array([sum(sizes[i] or 0 for i in g) for g in groups], float)
    share = members / members.sum()
    if volume.sum() > 0:
        share = (share + volume / volume.sum()) / 2
    quota = _quotas(share, members.astype(int), count)
    rows: list[tuple[float, int, int]] = []
    for number, (group, wanted) in enumerate(zip(groups, quota, strict=True)):
        ranked = sorted((int(i) for i in group), key=lambda i: _rank(seed, names[i]))
        rows += [((k + 0.5) / wanted, number, i) for k, i in enumerate(ranked[:wanted])]
    return [index for _, _, index in sorted(rows)]


def _quotas(share: np.ndarray, members: np.ndarray, count: int) -> list[int]:
    """Whole numbers that add up to ``count`` (or to all members): one each first, the rest by largest remainder."""
    count = min(count, int(members.sum()))
    quota = np.zeros(len(share), int)
    for stratum in np.argsort(-share, kind="stable")[:count]:
        quota[stratum] = 1
    while quota.sum() < count:
        behind = np.where(quota < members, share * count - quota, -np.inf)
        quota[int(np.argmax(behind))] += 1
    return quota.tolist()


def _rank(seed: int, name: str) -> str:
    return hashlib.sha256(f"{seed}:{name}".encode("utf-8", "backslashreplace")).hexdigest()


def extrapolate(
    groups: Sequence[np.ndarray], sizes: Sequence[int | None], known: Mapping[int, float], seed: int = 0
) -> Range:
    """The sum of a quantity over all files, from the files of which it is known: by bytes within each stratum.

    What is known is counted as it is; exact where all of it is known. A stratum of which fewer than two are known
    takes the ratio of all strata. The range is a bootstrap over the known files.

    Args:
        groups: strata; files outside of them do not count.
        sizes: bytes of each file; where they are unknown, files count alike.
        known: file → the quantity.
    """
    rng = np.random.default_rng(seed)
    everywhere = [i for g in groups for i in g.tolist() if i in known]
    exact, expected, spread = 0.0, 0.0, np.zeros(RESAMPLES)
    for group in groups:
        seen = [i for i in group.tolist() if i in known]
        exact += sum(known[i] for i in seen)
        unseen = [i for i in group.tolist() if i not in known]
        if not unseen or not everywhere:
            continue
        basis = seen if len(seen) >= 2 else everywhere
        by_bytes = all(sizes[i] is not None for i in (*unseen, *basis))
        weights = np.array([sizes[i] if by_bytes else 1 for i in basis], float)
        values = np.array([known[i] for i in basis])
        volume = float(sum(sizes[i] if by_bytes else 1 for i in unseen))
        expected += volume * _ratio(values.sum(), weights.sum())
        picks = rng.integers(0, len(basis), (RESAMPLES, len(basis)))
        totals = values[picks].sum(axis=1), weights[picks].sum(axis=1)
        spread += volume * np.divide(*totals, out=np.zeros(RESAMPLES), where=totals[1] > 0)
    low, high = np.quantile(spread, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Range(exact + min(low, expected), exact + expected, exact + max(high, expected))


def _ratio(value: float, weight: float) -> float:
    return value / weight if weight > 0 else 0.0
