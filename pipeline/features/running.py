"""Summaries of a series that comes in pieces, in bounded memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.features.statistics import PERCENTILES, statistics_of

# Values kept as they are, so that all but very long tracks have exact quantiles.
_EXACT_VALUES = 1 << 22


@dataclass(frozen=True)
class Grid:
    """Equal steps in which values are counted where there are too many to keep.

    Args:
        low: lower end; values below count as it.
        high: upper end; values above count as it.
        step: width of a step, which bounds the error of a quantile.
    """

    low: float
    high: float
    step: float

    @property
    def steps(self) -> int:
        """How many there are."""
        return int(np.ceil((self.high - self.low) / self.step))


class RunningSummary:
    """`statistics_of` over the pieces of a series.

    Up to 2^22 values it is exactly that of the whole. Beyond, means and deviations are merged (T. Chan, G. Golub
    and R. LeVeque, "Algorithms for computing the sample variance", 1983), which is exact but for rounding, and
    quantiles are read off counts: within a step of ``grid``, if they lie inside it.

    Args:
        statistics: names from `pipeline.features.statistics.STATISTICS`.
        grid: needed where a quantile is among them.
    """

    def __init__(self, statistics: Sequence[str], grid: Grid | None = None) -> None:
        self.statistics = tuple(statistics)
        if grid is None and PERCENTILES.keys() & set(statistics):
            raise ValueError("quantiles of a running series need a grid")
        self.grid = grid
        self.frames = 0
        self._pieces: list[np.ndarray] = []
        self._merged: _Merged | None = None

    def add(self, series: np.ndarray) -> None:
        """Take in the next piece, ``[rows, frames]``, or ``[frames]`` throughout."""
        if series.shape[-1] == 0:
            return
        self.frames += series.shape[-1]
        self._pieces.append(series)
        if self._merged is None:
            if len(self._pieces) == 1 or sum(piece.size for piece in self._pieces) <= _EXACT_VALUES:
                return
            self._merged = _Merged(series.shape[:-1], self.grid)
        for piece in self._pieces:
            self._merged.add(piece)
        self._pieces = []

    def values(self) -> dict[str, np.ndarray]:
        """Name → float64 ``[rows]``. Raises ``ValueError`` if there were no frames."""
        if self._merged is not None:
            return {name: self._merged.statistic(name) for name in self.statistics}
        if not self._pieces:
            raise ValueError("statistics of no frames are undefined")
        whole = self._pieces[0] if len(self._pieces) == 1 else np.concatenate(self._pieces, axis=-1)
        return statistics_of(whole, self.statistics)


class _Merged:
    """Moments, extrema and counts of a series, without the series."""

    def __init__(self, shape: tuple[int, ...], grid: Grid | None) -> None:
        self.count = 0
        self.mean, self.squares = np.zeros(shape), np.zeros(shape)
        self.low, self.high = np.full(shape, np.inf), np.full(shape, -np.inf)
        self.grid = grid
        if grid is not None:
            self.counts = np.zeros((int(np.prod(shape)), grid.steps), dtype=np.int64)

    def add(self, series: np.ndarray) -> None:
        frames = series.shape[-1]
        mean = series.mean(axis=-1, dtype=np.float64)
        squares = series.var(axis=-1, dtype=np.float64) * frames
        total = self.count + frames
        delta = mean - self.mean
        self.mean = self.mean + delta * (frames / total)
        self.squares = self.squares + squares + delta * delta * (self.count * frames / total)
        self.count = total
        self.low = np.minimum(self.low, series.min(axis=-1))
        self.high = np.maximum(self.high, series.max(axis=-1))
        if self.grid is not None:
            steps = (series.reshape(-1, frames) - self.grid.low) / self.grid.step
            indices = np.clip(steps, 0, self.grid.steps - 1).astype(np.int64)
            for row, index in zip(self.counts, indices, strict=True):
                row += np.bincount(index, minlength=self.grid.steps)

    def statistic(self, name: str) -> np.ndarray:
        if name == "mean":
            return self.mean
        if name == "std":
            return np.sqrt(self.squares / self.count)
        if name in ("min", "max"):
            return self.low if name == "min" else self.high
        # The value whose rank is that of the percentile, taken at the middle of its step.
        rank = PERCENTILES[name] / 100.0 * (self.count - 1)
        index = (self.counts.cumsum(axis=1) <= rank).sum(axis=1)
        value = self.grid.low + (index + 0.5) * self.grid.step
        return np.clip(value.reshape(self.low.shape), self.low, self.high)


class GroupMeans:
    """Means of consecutive groups of frames of a series that comes in pieces.

    Args:
        group: frames per group. Groups count from the first frame of the track; the last may be shorter.
    """

    def __init__(self, group: int) -> None:
        self.group = group
        self._done: list[np.ndarray] = []
        self._open: tuple[int, np.ndarray, int] | None = None

    def add(self, first: int, series: np.ndarray) -> None:
        """Take in the frames from number ``first`` on, ``[rows, frames]``."""
        if series.shape[-1] == 0:
            return
        bounds = np.arange(first // self.group * self.group, first + series.shape[-1], self.group) - first
        bounds[0] = 0
        sums = np.add.reduceat(series, bounds, axis=-1, dtype=np.float64)
        self.add_sums(first // self.group, sums, np.diff(np.append(bounds, series.shape[-1])))

    def add_sums(self, first_group: int, sums: np.ndarray, counts: np.ndarray) -> None:
        """Take in the sums ``[rows, groups]`` over ``counts`` frames of each group from ``first_group`` on."""
        counts = counts.copy()
        if self._open is not None:
            number, rest, frames = self._open
            if number == first_group:
                sums = np.concatenate([sums[:, :1] + rest, sums[:, 1:]], axis=1)
                counts[0] += frames
            else:
                self._close(rest / frames)
        self._close(sums[:, :-1] / counts[:-1])
        self._open = first_group + len(counts) - 1, sums[:, -1:], int(counts[-1])

    def _close(self, means: np.ndarray) -> None:
        self._done.append(means.astype(np.float32))

    def means(self) -> np.ndarray:
        """float32 ``[rows, groups]``. Raises ``ValueError`` if there were no frames."""
        if self._open is None:
            raise ValueError("means of no frames are undefined")
        _, rest, frames = self._open
        return np.concatenate([*self._done, (rest / frames).astype(np.float32)], axis=1)
