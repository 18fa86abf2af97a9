"""The gain with which a song meets its loudness behind the limiter, found without rendering the song again.

The limiter's gain follows from the levels of blocks alone, and it changes slowly against what K-weighting hears. So the
loudness of what comes out is that of K-weighted energies in steps of 5 ms, each times the mean square of the gain in
it. Both are measured once; each gain that is tried then costs some 0.1 ms per second of a song.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from pipeline.dsp.bs1770 import (
    LOWEST_RATE,
    Steps,
    channel_weights,
    integrated_loudness,
    k_weighting,
)
from pipeline.dsp.recursive import BLOCK, RecursiveFilter
from pipeline.late import torch
from pipeline.mastering.limiter import Limiting, Windows, gain_curve
from pipeline.mastering.peak_envelope import PeakEnvelope, level_db
from pipeline.mastering.processor import Grid

FINE_PER_STEP = 20
"""Fine steps, 5 ms, in one of `pipeline.dsp.bs1770`."""

# Samples that are K-weighted at once, always the same ones of a song: the filter's last bits hang on where it begins.
# Each time all that rings is added to the parts that run side by side; with fewer that would be most of the work.
_WEIGHTED = 2048 * BLOCK
# Steps of 100 ms whose gain is in memory at once.
_STRETCH = 100
# LU within which a target is met, and how often a gain is tried for it.
_TOLERANCE_LU = 0.003
_TRIES = 40
# The longest way from one gain that is tried to the next, and the LU per dB below which more gain is no use.
_STRIDE_DB, _WORTHWHILE = 3.0, 0.05


@dataclass(frozen=True)
class Settled:
    """A gain, and what it comes to.

    Args:
        gain_db: before the limiter.
        lufs: integrated loudness behind it, None where it has none.
        max_gain_reduction_db: the largest reduction by the limiter, at least 0.
        limited_by: why ``lufs`` is not the target: ``ceiling`` (more gain does not make it louder), ``max_gr_db`` (the
            limiter would reduce more than it may), ``silence`` (nothing is above -70 LUFS), ``no loudness`` (less than
            400 ms, or a rate at which none is defined); None where it is.
    """

    gain_db: float
    lufs: float | None
    max_gain_reduction_db: float
    limited_by: str | None


class LoudnessProfile:
    """What decides how loud a song can become: levels of blocks and K-weighted energies, measured as it streams by.

    It measures the signal in front of the limiter, from the beginning of the song. An hour takes some 16 MB.

    Args:
        sample_rate: Hz; below `pipeline.dsp.bs1770.LOWEST_RATE` there are levels, but no loudness.
        channels: in the order of `pipeline.dsp.bs1770.channel_weights`.
        limiting: for its look-ahead and hold: loudness can be told for these and for longer holds.
    """

    def __init__(self, sample_rate: int, channels: int, limiting: Limiting) -> None:
        self.sample_rate = sample_rate
        self.windows = Windows.of(limiting, sample_rate)
        self._meter = PeakEnvelope(self.windows.block, self.windows.hold, channels)
        self._energy = _FineEnergy(sample_rate, channels) if sample_rate >= LOWEST_RATE else None
        self._parts: list[np.ndarray] = []

    def push(self, samples: np.ndarray) -> None:
        """Measure the next samples, float32 ``[channels, n]``.

        Raises:
            ValueError: a sample is no number.
        """
        self._parts.append(self._meter.push(samples))
        if self._energy is not None:
            self._energy.push(samples)

    def finish(self) -> None:
        """Nothing is pushed any more; only now can be asked what there is below."""
        self._parts.append(self._meter.finish())
        if self._energy is not None:
            self._energy.finish()
        self._parts = [np.concatenate(self._parts)]

    def lufs_so_far(self) -> float | None:
        """Integrated loudness in front of the limiter of what was measured up to now; None where it has none. May be
        asked for while more is pushed, by the thread that pushes it."""
        return None if self._energy is None else integrated_loudness(self._steps_of(self._energy.so_far()))

    @property
    def levels(self) -> np.ndarray:
        """Levels of all blocks of the song, as a `Limiter` takes them, uint16."""
        return self._parts[0]

    @property
    def highest_db(self) -> float:
        """The song's true peak, dBTP, 8x oversampled; -inf in silence."""
        highest = int(self.levels.max(initial=0))
        return float(level_db(np.array(highest))) if highest else -math.inf

    def steps(self, gain_db: float, limiting: Limiting | None = None) -> Steps:
        """K-weighted energies behind gain and limiter; without ``limiting``, behind the gain alone.

        Raises:
            ValueError: the limiter's hold is shorter than that of the profile.
        """
        if self._energy is None:
            return Steps.joined([])
        energy = self._energy.fine()
        if limiting is not None:
            energy = np.concatenate([*self._reduced(energy, gain_db, limiting), np.zeros(0)])
        return self._steps_of(energy, gain_db)

    def lufs(self, gain_db: float, limiting: Limiting | None = None) -> float | None:
        """Integrated loudness behind gain and limiter; None where it has none."""
        return integrated_loudness(self.steps(gain_db, limiting))

    def over_time(self, gain_db: float, limiting: Limiting | None = None, *, steps: int = 30) -> np.ndarray:
        """Loudness of each ``steps`` · 100 ms, one every 100 ms, LUFS: 30 for short-term, 4 for momentary loudness.

        Silence is -inf.
        """
        powers = self.steps(gain_db, limiting).powers(steps)
        with np.errstate(divide="ignore"):
            return -0.691 + 10.0 * np.log10(powers)

    def _steps_of(self, energy: np.ndarray, gain_db: float = 0.0) -> Steps:
        """Those of 100 ms, of energies in fine steps."""
        count = len(energy) // FINE_PER_STEP
        bounds = _fine_start(FINE_PER_STEP * np.arange(count + 1), self.sample_rate)
        whole = energy.reshape(-1, FINE_PER_STEP).sum(axis=1) * 10.0 ** (gain_db / 10.0)
        return Steps(whole, np.diff(bounds))

    def _reduced(self, energy: np.ndarray, gain_db: float, limiting: Limiting) -> Iterator[np.ndarray]:
        """Energies times the mean square of the limiter's gain in each fine step."""
        windows = Windows.of(limiting, self.sample_rate)
        if windows.hold < self.windows.hold:
            raise ValueError("the loudness profile was measured for a longer hold than the limiter's")
        threshold = limiting.threshold_db(gain_db)
        for start in range(0, len(energy), _STRETCH * FINE_PER_STEP):
            count = min(_STRETCH * FINE_PER_STEP, len(energy) - start)
            bounds = _fine_start(np.arange(start, start + count + 1), self.sample_rate)
            first, last = int(bounds[0]) // windows.block, -(-int(bounds[-1]) // windows.block)
            behind = max(0, first - windows.before)
            near = self.levels[behind : last + windows.ahead]
            if float(level_db(near.max(initial=0))) <= threshold:
                yield energy[start : start + count]
                continue
            curve = gain_curve(near, windows, threshold)
            gains = 10.0 ** (curve[first - behind : last - behind + 1] / 20.0)
            # The gain is a straight line within a block.
            squares = (gains[1:] ** 2 + gains[1:] * gains[:-1] + gains[:-1] ** 2) * (windows.block / 3.0)
            borders = np.arange(first, last + 1) * windows.block
            integral = np.interp(bounds, borders, np.concatenate([[0.0], np.cumsum(squares)]))
            yield energy[start : start + count] * np.diff(integral) / np.diff(bounds)


class _FineEnergy:
    """K-weighted energy of a song in steps of 5 ms, weighted by channel."""

    def __init__(self, sample_rate: int, channels: int) -> None:
        self._sample_rate = sample_rate
        self._weights = channel_weights(channels)
        self._filter = RecursiveFilter(k_weighting(sample_rate), channels)
        self._grid = Grid(channels, _WEIGHTED)
        self._parts: list[np.ndarray] = []
        self._position, self._step, self._rest = 0, 0, 0.0

    def push(self, samples: np.ndarray) -> None:
        whole = self._grid.push(samples)
        for start in range(0, whole.shape[1], _WEIGHTED):
            self._weight(np.ascontiguousarray(whole[:, start : start + _WEIGHTED]), _WEIGHTED)

    def finish(self) -> None:
        rest = self._grid.finish()
        count = rest.shape[1]
        if count:
            self._weight(np.pad(rest, ((0, 0), (0, -count % BLOCK))), count)
        self._parts = [np.concatenate([*self._parts, np.zeros(0)])]

    def fine(self) -> np.ndarray:
        """Those that whole steps of 100 ms consist of, float64 ``[20 * steps]``, once all is there."""
        return _whole(self._parts[0])

    def so_far(self) -> np.ndarray:
        """Those of `fine` that are known by now."""
        return _whole(np.concatenate([*self._parts, np.zeros(0)]))

    def _weight(self, samples: np.ndarray, count: int) -> None:
        filtered = self._filter(torch.from_numpy(samples))[:, :count].numpy()
        squares = np.square(filtered[0]) * np.float32(self._weights[0])
        for weight, row in zip(self._weights[1:], filtered[1:], strict=True):
            if weight:
                squares += np.square(row) * np.float32(weight)
        stop = self._position + count
        last = stop * 10 * FINE_PER_STEP // self._sample_rate + 1
        while _fine_start(last, self._sample_rate) > stop:
            last -= 1
        # From the beginning of this piece, then from that of each step that begins in it.
        starts = np.array(_fine_start(np.arange(self._step + 1, last + 1), self._sample_rate), dtype=np.int64)
        places = np.concatenate([[0], starts - self._position])
        places = places[places < count]
        sums = np.add.reduceat(squares, places).astype(np.float64)
        if len(places) == last - self._step:  # the last step ends where this piece does
            sums = np.append(sums, 0.0)
        sums[0] += self._rest
        self._parts.append(sums[:-1])
        self._position, self._step, self._rest = stop, last, float(sums[-1])


def _whole(energy: np.ndarray) -> np.ndarray:
    return energy[: len(energy) // FINE_PER_STEP * FINE_PER_STEP]


def _fine_start(step: int | np.ndarray, sample_rate: int) -> int | np.ndarray:
    """The first sample of a step of 10 ms; each twentieth is where one of 100 ms begins, which round half to even."""
    per_second = 10 * FINE_PER_STEP
    down = step * sample_rate // per_second
    beyond = 2 * (step * sample_rate - down * per_second)
    return down + ((beyond > per_second) | ((beyond == per_second) & (down % 2 == 1)))


def settle_gain(
    measured: LoudnessProfile, target_lufs: float, limiting: Limiting, max_gr_db: float = math.inf
) -> Settled:
    """The gain with which a song is as loud as ``target_lufs`` behind the limiter, or as near as it may come.

    Args:
        measured: the song in front of the limiter, finished.
        target_lufs: integrated loudness to reach.
        limiting: the limiter's.
        max_gr_db: what the limiter may take away at the highest peak, at least 0.

    Raises:
        ValueError: the target is no number, or ``max_gr_db`` negative.
    """
    if not math.isfinite(target_lufs) or not max_gr_db >= 0.0:
        raise ValueError(f"a target of {target_lufs} LUFS with at most {max_gr_db} dB of reduction")
    before = measured.lufs(0.0)
    if before is None:
        undefined = measured.sample_rate < LOWEST_RATE or not len(measured.steps(0.0).powers(4))
        return Settled(
            0.0, None, _reduction(measured, limiting, 0.0), "no loudness" if undefined else "silence"
        )

    @functools.cache
    def missing(gain_db: float) -> float:
        found = measured.lufs(gain_db, limiting)
        return target_lufs - (-math.inf if found is None else found)

    allowed = max_gr_db - _reduction(measured, limiting, 0.0, signed=True)
    gain_db, limited_by = _searched(missing, min(target_lufs - before, allowed), allowed)
    lufs = target_lufs - missing(gain_db)
    return Settled(
        gain_db, lufs if math.isfinite(lufs) else None, _reduction(measured, limiting, gain_db), limited_by
    )


def _reduction(
    measured: LoudnessProfile, limiting: Limiting, gain_db: float, *, signed: bool = False
) -> float:
    """The largest reduction, dB: around the highest peak the gain is held for longer than it is smoothed.

    ``signed``: below 0 is what is left until the limiter has something to do.
    """
    above = measured.highest_db - limiting.threshold_db(gain_db)
    return above if signed else max(0.0, above)


def _searched(missing: Callable[[float], float], first: float, allowed: float) -> tuple[float, str | None]:
    """The gain where ``missing``, LU, is 0, from ``first`` on; and why there is none up to ``allowed``."""
    low, short = first, missing(first)
    while short < -_TOLERANCE_LU:  # limiting may raise the loudness a little: other blocks are gated then
        low -= 1.0
        short = missing(low)
    slope = 0.7
    while short > _TOLERANCE_LU:
        if low >= allowed:
            return low, "max_gr_db"
        high = min(low + min(_STRIDE_DB, max(0.2, 1.1 * short / slope)), allowed)
        still = missing(high)
        if still <= _TOLERANCE_LU:
            return _root(missing, (low, short), (high, still)), None
        slope = max((short - still) / (high - low), 1e-6)
        if slope < _WORTHWHILE:
            return _knee(missing, low), "ceiling"
        low, short = high, still
    return low, None


def _knee(missing: Callable[[float], float], near: float) -> float:
    """The gain from which on more of it is not worthwhile; the same for all targets that are out of reach."""

    def worthwhile(gain_db: float) -> bool:
        return not missing(gain_db) - missing(gain_db + 0.5) < 0.5 * _WORTHWHILE

    low, high = near, near + _STRIDE_DB
    while not worthwhile(low):
        low, high = low - _STRIDE_DB, low
    while high - low > 0.1:
        middle = (low + high) / 2.0
        low, high = (middle, high) if worthwhile(middle) else (low, middle)
    return low


def _root(missing: Callable[[float], float], low: tuple[float, float], high: tuple[float, float]) -> float:
    """Where ``missing`` is 0, between a place where it is positive and one where it is not (regula falsi, Illinois).

    ``low`` and ``high`` are a place and what is missing there, each.
    """
    (left, above), (right, below) = low, high
    best, nearest = (left, above) if abs(above) < abs(below) else (right, below)
    moved = ""
    for _ in range(_TRIES):
        if abs(nearest) <= _TOLERANCE_LU or right - left < 1e-6:
            break
        middle = (
            left + (right - left) * above / (above - below) if math.isfinite(above) else (left + right) / 2.0
        )
        found = missing(middle)
        if abs(found) < abs(nearest):
            best, nearest = middle, found
        # An end that stays for the second time counts half, and the next place lies nearer to it.
        if found > 0.0:
            below = below / 2.0 if moved == "left" else below
            left, above, moved = middle, found, "left"
        else:
            above = above / 2.0 if moved == "right" else above
            right, below, moved = middle, found, "right"
    return best
