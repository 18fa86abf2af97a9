"""A true-peak limiter with look-ahead whose gain at any place follows from the song around it, and from nothing else.

The gain lives on a grid of blocks of some 0.7 ms. Three steps lead to it:

1. The level of each block is its largest true peak in any channel, 8x oversampled
   (`pipeline.mastering.peak_envelope`).
2. What the levels ask for is held (sliding minimum), let go as fast as the reduction lasted (moving averages of two
   lengths), and smoothed over the look-ahead (`gain_curve`). All memory is finite: what lies further back than
   `Windows.before` blocks changes no bit. That the curve is nowhere above what a block asks for holds by construction:
   each average is taken of values none of which is.
3. Between the borders of blocks the gain is a straight line (`Limiter`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from pipeline.mastering.peak_envelope import (
    PEAK_REACH,
    PeakEnvelope,
    block_size,
    level_db,
    pieces,
    sliding_extreme,
)

# For what is rounded afterwards. That the gain bends between samples lifts nothing that could be measured.
_MARGIN_DB = 0.005
_STEPS_PER_SECOND = 10


@dataclass(frozen=True)
class Limiting:
    """What a limiter keeps to; times in ms.

    Args:
        ceiling_dbtp: the highest true peak, dB; at most a few hundredths are above it.
        lookahead_ms: over which the gain falls before a peak.
        hold_ms: the longest period of a tone whose gain stands still; at least twice the look-ahead.
        release_ms: after a short peak the gain is back by then.
        sustained_release_ms: after as long a reduction as this or longer ones it takes this time.
    """

    ceiling_dbtp: float = -1.0
    lookahead_ms: float = 5.0
    hold_ms: float = 25.0
    release_ms: float = 40.0
    sustained_release_ms: float = 150.0

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not math.isfinite(value):
                raise ValueError(f"{name} is {value}, not a number")
        if not 0.5 <= self.lookahead_ms <= 100.0:
            raise ValueError(f"lookahead_ms is {self.lookahead_ms}, not from 0.5 to 100")
        if not 2.0 * self.lookahead_ms <= self.hold_ms <= 500.0:
            raise ValueError(f"hold_ms is {self.hold_ms}, not from twice the look-ahead to 500")
        if not 0.0 <= self.release_ms <= self.sustained_release_ms <= 2000.0:
            raise ValueError("release_ms is not between 0 and sustained_release_ms, which is at most 2000")

    def threshold_db(self, gain_db: float) -> float:
        """The level in front of the gain, dBTP, above which the limiter reduces."""
        return self.ceiling_dbtp - _MARGIN_DB - gain_db


@dataclass(frozen=True)
class Windows:
    """Lengths of the limiter's windows in blocks of ``block`` samples; the ``smoothing`` ones follow one another."""

    block: int
    ahead: int
    hold: int
    releases: tuple[int, int]
    smoothing: tuple[int, int, int]

    @property
    def before(self) -> int:
        """Blocks before a border of blocks that its gain depends on."""
        return self.ahead + self.hold + max(self.releases)

    @classmethod
    def of(cls, limiting: Limiting, sample_rate: int) -> Windows:
        """Those at a rate, Hz."""
        block = block_size(sample_rate)
        per_ms = sample_rate / 1000.0 / block
        ahead = max(2, round(limiting.lookahead_ms * per_ms))
        third = (ahead + 2) // 3
        smoothing = (third, (ahead + 2 - third) // 2, ahead + 2 - third - (ahead + 2 - third) // 2)
        # Two blocks more: the peaks of a tone lie anywhere in theirs, and a border belongs to two.
        hold = max(ahead + 1, math.ceil(limiting.hold_ms * per_ms) + 2)
        releases = (max(1, round(ms * per_ms)) for ms in (limiting.release_ms, limiting.sustained_release_ms))
        return cls(block, ahead, hold, tuple(releases), smoothing)


def _sliding_sum(values: np.ndarray, window: int) -> np.ndarray:
    """Sum of each ``window`` values in a row, always added in the same order: no bit depends on what lies before."""
    count = len(values) - window + 1
    total, covered, width = None, 0, 1
    while True:
        if window & width:
            part = values[covered : covered + count]
            total, covered = (part if total is None else total + part), covered + width
        width *= 2
        if width > window:
            return total
        values = values[width // 2 :] + values[: -(width // 2)]


def gain_curve(levels: np.ndarray, windows: Windows, threshold_db: float) -> np.ndarray:
    """Gain of the limiter at the borders of blocks, dB: 0 where nothing is to be done, negative otherwise.

    Args:
        levels: of n blocks, see `PeakEnvelope`; before and behind them nothing asks for anything. The gain at a border
            depends on the `Windows.before` blocks before it and the ``ahead`` ones behind it.
        threshold_db: the level, dBTP, above which the gain has to fall: the ceiling less the gain before it.

    Returns:
        float64 ``[n + 1]``: before the first block, between each two, and behind the last.
    """
    ahead, hold = windows.ahead, windows.hold
    # The minimum at border j is that of the blocks from j - (hold - ahead) on to j + ahead - 1.
    padded = np.pad(levels, (hold - ahead + windows.ahead + max(windows.releases), ahead))
    highest = sliding_extreme(np.maximum, padded, hold)
    held = np.minimum(0.0, threshold_db - level_db(highest))
    released = held[max(windows.releases) - 1 :]
    for window in windows.releases:
        average = _sliding_sum(held, window) * (1.0 / window)
        released = np.minimum(released, average[len(average) - len(released) :])
    for window in windows.smoothing:
        released = _sliding_sum(released, window) * (1.0 / window)
    return released[len(released) - len(levels) - 1 :]


class Limiter:
    """Gain and limiter: a `Processor` whose look-ahead is hidden, as it gives out no sample before it is settled.

    Args:
        limiting: what it keeps to.
        gain_db: before the limiter.
        sample_rate: Hz.
        channels: all have the same gain.
        origin: where in the song the first sample lies.
        levels: of all blocks of the song, where they are known, e.g. from `LoudnessProfile`: nothing is measured then,
            and rendering may begin anywhere without context.
    """

    def __init__(
        self,
        limiting: Limiting,
        gain_db: float,
        sample_rate: int,
        channels: int,
        origin: int = 0,
        *,
        levels: np.ndarray | None = None,
    ) -> None:
        self._windows = windows = Windows.of(limiting, sample_rate)
        if not math.isfinite(gain_db):
            raise ValueError(f"a gain of {gain_db} dB")
        self.gain_db = gain_db
        self._threshold_db = limiting.threshold_db(gain_db)
        self._sample_rate = sample_rate
        self._meter = (
            None if levels is not None else PeakEnvelope(windows.block, windows.hold, channels, origin)
        )
        # Levels from the block of this number on.
        self._first = 0 if levels is not None else origin // windows.block
        self._levels = np.zeros(0, np.uint16) if levels is None else levels
        self._position = origin
        self._waiting = np.zeros((channels, 0), np.float32)
        self._reductions: dict[int, float] = {}
        self.context = 0 if levels is not None else (windows.before + 4) * windows.block + 2 * PEAK_REACH

    @property
    def max_gain_reduction_db(self) -> float:
        """The largest reduction so far, at least 0."""
        return max(self._reductions.values(), default=0.0)

    def reduction_db(self) -> np.ndarray:
        """The largest reduction in each 100 ms of the song up to here, float32; 0 before the origin."""
        steps = np.zeros(max(self._reductions, default=-1) + 1, np.float32)
        steps[list(self._reductions)] = list(self._reductions.values())
        return steps

    def max_reduction_since(self, step: int) -> float:
        """The largest reduction from the 100 ms of that number on, at least 0."""
        latest = max(self._reductions, default=-1)
        return max((self._reductions.get(one, 0.0) for one in range(step, latest + 1)), default=0.0)

    def push(self, samples: np.ndarray) -> np.ndarray:
        """As `Processor`.

        Raises:
            ValueError: a sample is no number (where the levels were given nobody looks), or the song is longer than
                the levels that were given.
        """
        outputs = [self._push(piece) for piece in pieces(samples, self._windows.block)]
        return outputs[0] if len(outputs) == 1 else np.concatenate(outputs, axis=1)

    def _push(self, samples: np.ndarray) -> np.ndarray:
        self._waiting = np.concatenate([self._waiting, samples], axis=1) if self._waiting.size else samples
        if self._meter is None:
            if self._position + self._waiting.shape[1] > len(self._levels) * self._windows.block:
                raise ValueError("the limiter was given the levels of a shorter song")
            return self._render((self._position + self._waiting.shape[1]) // self._windows.block)
        self._add(self._meter.push(samples))
        return self._render(self._first + len(self._levels) - self._windows.ahead)

    def finish(self) -> np.ndarray:
        """As `Processor`."""
        if self._meter is not None:
            self._add(self._meter.finish())
        return self._render(-(-(self._position + self._waiting.shape[1]) // self._windows.block))

    def _add(self, levels: np.ndarray) -> None:
        if len(levels):
            settled = max(0, self._position // self._windows.block - self._windows.before - self._first)
            self._levels = np.concatenate([self._levels[settled:], levels])
            self._first += settled

    def _render(self, stop: int) -> np.ndarray:
        """The samples of the blocks up to that of the number ``stop``, without it."""
        windows, block = self._windows, self._windows.block
        start = self._position // block
        count = min(stop * block - self._position, self._waiting.shape[1])
        if count <= 0:
            self._waiting = (
                self._waiting.copy()
            )  # what the caller does to its piece afterwards is its business
            return np.zeros((len(self._waiting), 0), np.float32)
        behind, begin = max(0, start - windows.before - self._first), start - self._first
        near = self._levels[behind : stop + windows.ahead - self._first]
        curve = gain_curve(near, windows, self._threshold_db)[begin - behind :][: stop - start + 1]
        self._report(start, curve)
        gains = _between_borders(10.0 ** ((curve + self.gain_db) / 20.0), block)
        skipped = self._position - start * block
        output = self._waiting[:, :count] * gains[skipped : skipped + count]
        self._waiting = self._waiting[:, count:].copy()
        self._position += count
        return output

    def _report(self, start: int, curve: np.ndarray) -> None:
        steps = (
            (start + np.arange(len(curve))) * (self._windows.block * _STEPS_PER_SECOND) // self._sample_rate
        )
        firsts = np.flatnonzero(np.diff(steps, prepend=-1))
        for step, gain in zip(
            steps[firsts].tolist(), np.minimum.reduceat(curve, firsts).tolist(), strict=True
        ):
            self._reductions[step] = max(self._reductions.get(step, 0.0), -gain)


def _between_borders(gains: np.ndarray, block: int) -> np.ndarray:
    """Straight lines between gains, float64 ``[n + 1]`` → float32 ``[n * block]``."""
    gains = gains.astype(np.float32)
    ramp = np.arange(block, dtype=np.float32) / np.float32(block)
    lines = np.diff(gains)[:, None] * ramp
    lines += gains[:-1, None]
    return lines.reshape(-1)
