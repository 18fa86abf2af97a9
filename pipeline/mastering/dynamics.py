"""The compressor: one band or several, linked channels, attack and release that last as long as they say.

**Level.** The mean square of all channels under a Hann window of `WINDOW_MS`, in dB: 0 dBFS is a square wave at full
scale on all channels, a sine at full scale has -3.01. It takes such a window not to follow the wave of a bass note, but
it would see a sound 24 ms too early or too late. Hence there are two, one behind a moment and one before it. The one
behind is believed up to the loudest short run of samples (0.5 to 1.5 ms) of late, the one before up to the loudest that
is still to come; the larger of the two counts. So a steady tone has its exact level, and where a sound begins or ends,
its level does, too.

**Gain.** Threshold, ratio and a quadratic knee as in Giannoulis, Massberg and Reiss, "Digital dynamic range compressor
design", JAES 60(6), 2012, then their smooth branching one-pole on the reduction in dB: after an attack (release) time a
step of the wanted reduction is done (undone) to 63 %. The release follows the programme: the part of the reduction that
has lasted, which is its own average over one release time, is undone in the set time, and what exceeds that average in
``peak_release`` times the set time. After a drum beat the gain is soon back, after a loud passage it comes up as set.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import TypeAlias

import numpy as np

from pipeline.dsp.jitted import jitted
from pipeline.mastering import dynamics_loops as loops
from pipeline.mastering.crossover import HIGHEST_CORNER, Crossover, check_corners
from pipeline.mastering.processor import Grid

WINDOW_MS = 24.0
"""Length of the window under which levels are measured."""
PerBand: TypeAlias = "float | tuple[float, ...]"
"""One number for all bands, or one for each, from the lowest band up."""

# Short blocks per step, of which the window has some 16. At 44.1 kHz a short block has 8 samples.
_BLOCKS_PER_STEP = loops.BLOCKS_PER_STEP
_BLOCK_AT_44100 = 8
# A run by whose loudness a beginning is told: blocks at least (half a wave of 1 kHz), and share of the attack time.
_SHORTEST_RUN, _RUN = 3, 0.3
# Release times after which two compressors that differed by 60 dB agree to 1e-6: e^-16, and a little more, since the
# average that the release goes by is itself still settling.
_SETTLED = 20.0


@dataclass(frozen=True)
class Compression:
    """Setting of a compressor. It has no make-up gain: what follows sets the loudness.

    Args:
        threshold_db: dBFS (a sine at full scale has -3.01), -100 to 20; may be one per band.
        ratio: dB more in for one dB more out above the threshold, 1 to 1000; may be one per band.
        knee_db: width of the knee, which begins half of it below the threshold; 0 to 40.
        attack_ms: to 63 % of a step of the wanted reduction, 0.1 to 1000; may be one per band.
        release_ms: the same of its end, where it lasted some release times, 1 to 5000; may be one per band.
        crossovers_hz: where the bands meet; empty for one band. See `pipeline.mastering.crossover`.
        max_reduction_db: the most that is taken away, 0 to 60.
        mix: 1 is compressed, 0 not at all, between them both are added (parallel compression).
        peak_release: share of ``release_ms`` that the end of a short peak takes, 0.05 to 1; 1 for a fixed release.
    """

    threshold_db: PerBand = -18.0
    ratio: PerBand = 2.0
    knee_db: float = 6.0
    attack_ms: PerBand = 20.0
    release_ms: PerBand = 150.0
    crossovers_hz: tuple[float, ...] = ()
    max_reduction_db: float = 12.0
    mix: float = 1.0
    peak_release: float = 0.25

    def __post_init__(self) -> None:
        # Lists come from JSON.
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, list):
                object.__setattr__(self, field.name, tuple(value))

    @property
    def bands(self) -> int:
        """How many there are."""
        return len(self.crossovers_hz) + 1

    def per_band(self, name: str) -> tuple[float, ...]:
        """The values of a field, one for each band."""
        value = getattr(self, name)
        return value if isinstance(value, tuple) else (value,) * self.bands

    def check(self) -> None:
        """Refuse what cannot be.

        Raises:
            ValueError: one line that says what.
        """
        check_corners(self.crossovers_hz)
        for name, (low, high) in _RANGES.items():
            value = getattr(self, name)
            values = value if isinstance(value, tuple) else (value,)
            if isinstance(value, tuple) and (name not in _MAY_BE_PER_BAND or len(value) != self.bands):
                asked = self.bands if name in _MAY_BE_PER_BAND else 1
                raise ValueError(f"{name} has {len(value)} values, not {asked}")
            wrong = [value for value in values if not low <= value <= high]
            if wrong:
                raise ValueError(f"{name} is {wrong[0]:g}, not within {low:g} to {high:g}")


_RANGES = {
    "threshold_db": (-100.0, 20.0),
    "ratio": (1.0, 1000.0),
    "knee_db": (0.0, 40.0),
    "attack_ms": (0.1, 1000.0),
    "release_ms": (1.0, 5000.0),
    "max_reduction_db": (0.0, 60.0),
    "mix": (0.0, 1.0),
    "peak_release": (0.05, 1.0),
}
_MAY_BE_PER_BAND = ("threshold_db", "ratio", "attack_ms", "release_ms")


@dataclass(frozen=True)
class Reduction:
    """What a compressor took away, dB ≥ 0, with ``mix`` applied.

    Args:
        max_db: at most, per band.
        mean_db: on average, per band.
        curve_db: mean of each 100 ms of the song, float64 ``[bands, steps]``, from that of the first sample on.
    """

    max_db: tuple[float, ...]
    mean_db: tuple[float, ...]
    curve_db: np.ndarray


class Compressor:
    """Compression of a song that comes in pieces; a `pipeline.mastering.processor.Processor`.

    Channels are linked: they share one gain per band, so that nothing moves between them. Crossovers above 0.45 of the
    sample rate are left out with the bands above them, which hold nothing. What is to change nothing (ratio 1, mix 0, a
    gain of 1) gives the very bits it was given. Silence stays zero; beside a sound, several bands ring into it as their
    crossovers do.

    Args:
        setting: checked here.
        sample_rate: Hz.
        channels: 1 or more.
        origin: where in the song the first sample lies. The first gain is what the first sound there wants, by a level
            at most 3 dB too low: a song that begins loud does not begin too loud.

    Raises:
        ValueError: the setting cannot be.
    """

    def __init__(self, setting: Compression, sample_rate: int, channels: int, origin: int = 0) -> None:
        setting.check()
        self._rate, self._channels = sample_rate, channels
        self._block = max(1, 2 ** round(math.log2(_BLOCK_AT_44100 * sample_rate / 44100)))
        self._step = _BLOCKS_PER_STEP * self._block
        corners = [hz for hz in setting.crossovers_hz if hz <= HIGHEST_CORNER * sample_rate]
        self._bands = len(corners) + 1
        self._window = _hann(round(WINDOW_MS * sample_rate / 1000.0 / self._step))
        # Steps that the level of one needs before and behind it.
        self._margin = self._window.shape[1] + 1
        blocks = [
            _RUN * attack * sample_rate / 1000.0 / self._block for attack in setting.per_band("attack_ms")
        ]
        self._runs = np.clip(np.round(blocks), _SHORTEST_RUN, _BLOCKS_PER_STEP).astype(np.int64)
        self._table = _table(setting, self._bands, self._block / sample_rate)
        self._idle = not (setting.mix and setting.max_reduction_db and (self._table[:, 1] > 0.0).any())
        crossover = Crossover(corners, sample_rate, channels) if corners else None
        grid = crossover.block if crossover else self._step
        self.context = self._settling(setting) + (crossover.context if crossover else grid)
        """Samples after which a compressor begun inside a song does what it does in the whole song."""
        # The song is entered at the grid: silence fills it up to where the first sample lies.
        self._lead = origin % grid
        self._start, self._given, self._returned = origin, 0, 0
        self._intake = crossover or Grid(channels, grid)
        self._samples = np.empty((channels, 0), np.float32)
        self._lows = np.empty((len(corners), channels, 0), np.float32)
        self._powers = np.zeros((self._bands, self._margin * _BLOCKS_PER_STEP))
        self._state = np.zeros((self._bands, 4))
        self._entering = self._lead // self._block
        self._entered = False
        self._position = origin - self._lead
        self._curve = _Curve(self._bands, origin * 10 // sample_rate)

    def push(self, samples: np.ndarray) -> np.ndarray:
        """The next samples, float32 ``[channels, n]``, n ≥ 0 → those that are settled, some 25 ms (bands: 0.2 s) less.

        Raises:
            ValueError: another number of channels, or a value that is not finite, by `finish` at the latest.
        """
        samples = np.asarray(samples, np.float32)
        if samples.ndim != 2 or samples.shape[0] != self._channels:
            raise ValueError(f"[{self._channels}, n] samples are compressed, not {list(samples.shape)}")
        if self._idle:
            self._given += samples.shape[1]
            return samples
        if not self._given and samples.shape[1]:
            samples = np.concatenate([np.zeros((self._channels, self._lead), np.float32), samples], axis=1)
            self._given -= self._lead
        self._given += samples.shape[1]
        return self._settled(*self._taken(self._intake.push(samples)))

    def finish(self) -> np.ndarray:
        """What is left, float32 ``[channels, m]``."""
        if self._idle or not self._given:
            return np.empty((self._channels, 0), np.float32)
        samples, lows = self._taken(self._intake.finish())
        behind = -samples.shape[1] % self._step + self._margin * self._step
        samples, lows = (np.pad(x, ((0, 0),) * (x.ndim - 1) + ((0, behind),)) for x in (samples, lows))
        return self._settled(samples, lows)

    def reduction(self) -> Reduction:
        """What was taken away from what has come out so far."""
        if self._idle:
            steps = -(-(self._start + self._given) * 10 // self._rate) - self._start * 10 // self._rate
            return Reduction((0.0,) * self._bands, (0.0,) * self._bands, np.zeros((self._bands, steps)))
        return self._curve.reduction(self._state[:, 3])

    def _settling(self, setting: Compression) -> int:
        """Samples in which gains forget."""
        slowest = max(*setting.per_band("release_ms"), *setting.per_band("attack_ms")) / 1000.0
        return math.ceil(max(_SETTLED * slowest, 1.0) * self._rate) + 2 * self._margin * self._step

    def _taken(self, piece: np.ndarray | tuple[np.ndarray, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """Samples and their low-passed copies, of which one band has none."""
        if isinstance(piece, tuple):
            return piece
        return np.ascontiguousarray(piece), np.empty((0, *piece.shape), np.float32)

    def _settled(self, samples: np.ndarray, lows: np.ndarray) -> np.ndarray:
        """Takes whole steps; compresses those which have a window of steps behind them."""
        if not samples.shape[1]:
            return samples
        powers = np.empty((self._bands, samples.shape[1] // self._block))
        jitted(loops.measure)(samples, lows, self._block, powers)
        if not np.isfinite(powers).all():
            raise ValueError("samples that are not finite cannot be compressed")
        if not self._entered:
            # Only a part of the short block in which the song is entered is there.
            powers[:, self._entering] *= self._block / (self._block - self._lead % self._block)
            self._entered = True
        self._powers = np.concatenate([self._powers, powers], axis=1)
        self._samples = np.concatenate([self._samples, samples], axis=1)
        self._lows = np.concatenate([self._lows, lows], axis=2)
        blocks = self._powers.shape[1] - 2 * self._margin * _BLOCKS_PER_STEP
        if blocks <= 0:
            return samples[:, :0]
        return self._compressed(blocks)

    def _compressed(self, blocks: int) -> np.ndarray:
        levels = np.empty((self._bands, blocks))
        gains, reduction = found = np.empty((2, self._bands, blocks + 1))
        jitted(loops.detect)(self._powers, self._window, self._runs, levels)
        jitted(loops.follow)(levels, self._table, self._entering, self._state, found)
        self._powers = self._powers[:, blocks:].copy()
        self._entering -= blocks
        count = blocks * self._block
        result = np.empty((self._channels, count), np.float32)
        jitted(loops.apply)(self._samples, self._lows, gains, self._block, result)
        self._samples, self._lows = self._samples[:, count:].copy(), self._lows[:, :, count:].copy()
        return self._within_the_song(result, reduction[:, :-1])

    def _within_the_song(self, result: np.ndarray, reduction: np.ndarray) -> np.ndarray:
        """Without the silence that fills up the grid before and behind the song."""
        first = max(0, self._start - self._position)
        first = min(first, result.shape[1])
        last = min(result.shape[1], first + self._given - self._returned)
        steps = np.arange(first // self._step, -(-last // self._step))
        of_steps = reduction.reshape(self._bands, -1, _BLOCKS_PER_STEP).mean(axis=2)
        self._curve.add((self._position + steps * self._step) * 10 // self._rate, of_steps[:, steps])
        self._position += result.shape[1]
        self._returned += last - first
        return result[:, first:last]


class _Curve:
    """Collects the reduction of steps into 100 ms each.

    Args:
        bands: of the reduction.
        first: the 100 ms of the song in which it begins.
    """

    def __init__(self, bands: int, first: int) -> None:
        self._first, self._used = first, 0
        self._sums, self._counts = np.zeros((16, bands)), np.zeros(16)

    def add(self, numbers: np.ndarray, reduction: np.ndarray) -> None:
        """Steps ``[bands, n]`` and which 100 ms of the song each belongs to."""
        if not len(numbers):
            return
        places = np.maximum(numbers - self._first, 0)
        self._used = int(places[-1]) + 1
        if self._used > len(self._counts):
            more = 2 * self._used - len(self._counts)
            self._sums, self._counts = (
                np.pad(self._sums, ((0, more), (0, 0))),
                np.pad(self._counts, (0, more)),
            )
        # One after the other, so that pieces make no difference.
        np.add.at(self._sums, places, reduction.T)
        np.add.at(self._counts, places, 1.0)

    def reduction(self, largest: np.ndarray) -> Reduction:
        """Of everything so far, with the largest of each band."""
        sums, counts = self._sums[: self._used], self._counts[: self._used]
        means = sums.sum(axis=0) / max(1.0, counts.sum())
        curve = (sums / np.maximum(counts, 1.0)[:, None]).T
        return Reduction(tuple(largest.tolist()), tuple(means.tolist()), curve)


def _hann(steps: int) -> np.ndarray:
    """The window of `loops.detect`: a Hann window in straight lines."""
    borders = np.sin(np.pi * np.arange(steps + 1) / steps) ** 2
    means, rises = (borders[1:] + borders[:-1]) / 2.0, np.diff(borders)
    return np.stack([means, rises]) / means.sum()


def _table(setting: Compression, bands: int, block_seconds: float) -> np.ndarray:
    """What `follow` needs of each band."""
    block_ms = 1000.0 * block_seconds

    def share(milliseconds: float) -> float:
        return -math.expm1(-block_ms / milliseconds)

    columns = (setting.per_band(name) for name in _MAY_BE_PER_BAND)
    return np.array(
        [
            [
                threshold,
                1.0 - 1.0 / ratio,
                setting.knee_db,
                setting.max_reduction_db,
                # A beginning is known half a block late, on average.
                share(max(attack - block_ms / 2.0, attack / 2.0)),
                share(release),
                share(release * setting.peak_release),
                setting.mix,
            ]
            for threshold, ratio, attack, release in zip(*columns, strict=True)
        ][:bands]
    )
