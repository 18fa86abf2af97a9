"""How high the true peaks of a song are, block by block of some 0.7 ms: what a limiter's gain follows from.

Only those blocks are oversampled that can be the highest within a hold of the limiter; of music a fifth or fewer. Of
those, the ones that come near to it are oversampled again by filters four times as long, which count: near half the
rate, of which clipped and distorted songs are full, the shorter ones miss up to 0.15 dB.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from pipeline.dsp.compiled import LANES, Kernel, compiled
from pipeline.dsp.true_peak import PEAK_CONTEXT, block_extremes, interpolated_bound, interpolator

OVERSAMPLING = 8
"""At all rates: what is measured with 4x or 8x afterwards lies on the same points."""
LEVELS_PER_DB = 256
LOWEST_LEVEL_DB = -120.0
"""Levels are whole numbers: dBTP above this, times `LEVELS_PER_DB`, rounded up."""

_BLOCK_SECONDS = 0.75e-3
# Samples that the shorter interpolator sees on either side of a block, and the longer one.
_REACH = (PEAK_CONTEXT + 1) // 2
_LONG_REACH = 64
# Flat within 0.001 dB up to 0.48 of the rate, 21.1 kHz at 44.1 kHz; the shorter filters are 0.4 dB low at 0.45.
_LONG_BETA = 8.0
# How much higher the longer filters can find a peak than the shorter ones: 0.5 dB. White noise has no more, and songs
# had 0.14 dB at most.
_MISSED = 10.0 ** (0.5 / 20.0)
PEAK_REACH = _LONG_REACH
"""Samples on either side of a block that have a say in its level."""
# Blocks that are analysed at once, at least: each time their neighbours are, too. Longer pieces are cut to as many, so
# that what is worked on stays in the processor's cache.
_QUANTUM = 4096
Taps = Callable[[], np.ndarray]
"""Filters, float32 ``[OVERSAMPLING - 1, taps]``: a function, so that they are computed where they are used."""


def block_size(sample_rate: int) -> int:
    """Samples of a block: a power of two of at most 0.75 ms, but at least 8 (32 at 44.1 and 48 kHz)."""
    return max(LANES, 1 << int(math.log2(sample_rate * _BLOCK_SECONDS)) if sample_rate > 2000 else LANES)


def level_db(levels: np.ndarray) -> np.ndarray:
    """Levels of blocks in dBTP, float64; `LOWEST_LEVEL_DB` and what is below it are the same."""
    return levels / float(LEVELS_PER_DB) + LOWEST_LEVEL_DB


class PeakEnvelope:
    """A meter of the levels of blocks, `level_db`, on the grid of a song; uint16.

    A level is exact wherever it can be the highest of ``hold`` blocks in a row, so that the highest of as many or more
    always is; but what a loud block rings in its quiet neighbours, up to `PEAK_REACH` samples away, may be left out, as
    its own level is higher. Others may be those of the samples, which are lower. Beyond both ends there is silence.

    Args:
        block: samples per block, see `block_size`.
        hold: blocks.
        channels: all of them together have a level.
        origin: where in the song the first sample lies; the first level is that of the block in which it does.
    """

    def __init__(self, block: int, hold: int, channels: int, origin: int = 0) -> None:
        self._block, self._hold = block, hold
        # Blocks whose peaks have a say in one's level, and those that its bound is made of.
        self._bent = -(-_REACH // block)
        self._margin = hold - 1 + -(-_LONG_REACH // block)
        self._channels = channels
        before = self._margin * self._block + origin % self._block
        self._samples = np.zeros((channels, before), np.float32)

    def push(self, samples: np.ndarray) -> np.ndarray:
        """The levels that are settled by the next samples, float32 ``[channels, n]``.

        Raises:
            ValueError: a sample is no number.
        """
        # A sum of squares is far cheaper than a look at each sample; where it overflows, the samples are looked at.
        with np.errstate(over="ignore"):
            power = sum(float(row @ row) for row in samples)
        if not math.isfinite(power) and not np.isfinite(samples).all():
            raise ValueError("the limiter was given samples that are not finite")
        return np.concatenate([self._add(piece) for piece in pieces(samples, self._block)])

    def _add(self, samples: np.ndarray) -> np.ndarray:
        self._samples = np.concatenate([self._samples, samples], axis=1)
        ready = self._samples.shape[1] // self._block - 2 * self._margin - 1
        return self._settle(ready) if ready >= _QUANTUM else np.zeros(0, np.uint16)

    def finish(self) -> np.ndarray:
        """The rest of the levels; the last block may be incomplete."""
        behind = self._margin * self._block
        left = -(-(self._samples.shape[1] - behind) // self._block)
        missing = (left + 2 * self._margin + 1) * self._block - self._samples.shape[1]
        self._samples = np.pad(self._samples, ((0, 0), (0, missing)))
        return self._settle(left)

    def _settle(self, count: int) -> np.ndarray:
        if count <= 0:
            return np.zeros(0, np.uint16)
        blocks, margin = count + 2 * self._margin, self._margin
        peaks, bends = block_extremes(self._samples[:, : blocks * self._block + 2], self._block)
        peaks, bends = peaks[:, :blocks], bends[:, :blocks]
        inner = slice(margin, margin + count)
        known = peaks.max(axis=0)
        if float(known.max()) > 0.0:
            bound = self._bound(peaks, bends, count)
            least = _closed(known, self._hold)[inner]
            channel, number = np.nonzero(bound > least)
            known = known[inner].copy()
            short = self._between(channel, number + margin, _short_taps)
            near = np.maximum(short, peaks[channel, number + margin]) * np.float32(_MISSED) > least[number]
            channel, number = channel[near], number[near]
            np.maximum.at(known, number, self._between(channel, number + margin, _long_taps))
        else:
            known = known[inner]
        self._samples = self._samples[:, count * self._block :].copy()
        decibels = 20.0 * np.log10(np.maximum(known, 1e-9, dtype=np.float64)) - LOWEST_LEVEL_DB
        return np.ceil(np.clip(decibels * LEVELS_PER_DB, 0, 65535)).astype(np.uint16)

    def _bound(self, peaks: np.ndarray, bends: np.ndarray, count: int) -> np.ndarray:
        """What no true peak of a block and channel exceeds."""
        start, bent = self._margin, self._bent
        bends = sliding_extreme(np.maximum, bends[:, start - bent : start + count + bent], 2 * bent + 1)
        highest = np.maximum(peaks[:, start : start + count], peaks[:, start + 1 : start + count + 1])
        return highest * np.float32(1.0 + 1e-5) + bends * np.float32(_bend_weight())

    def _between(self, channel: np.ndarray, number: np.ndarray, taps: Taps) -> np.ndarray:
        """True peaks of the numbered blocks of the channels, by these filters."""
        first = channel * self._samples.shape[1] + number * self._block - taps().shape[1] // 2 + 1
        samples = np.ascontiguousarray(self._samples).reshape(-1)
        return _true_peaks(samples, np.ascontiguousarray(first, dtype=np.int64), self._block, taps)


def pieces(samples: np.ndarray, block: int) -> list[np.ndarray]:
    """``samples`` in at least one piece, none longer than what is analysed at once."""
    step = _QUANTUM * block
    return [samples[:, start : start + step] for start in range(0, max(1, samples.shape[1]), step)]


def _closed(peaks: np.ndarray, window: int) -> np.ndarray:
    """The least of the highest peaks of all windows that a block lies in: what is below it is never the highest."""
    padded = np.pad(peaks, window - 1)
    return sliding_extreme(np.minimum, sliding_extreme(np.maximum, padded, window), window)


def sliding_extreme(extreme: Callable, values: np.ndarray, window: int) -> np.ndarray:
    """`numpy.maximum` or `numpy.minimum` of each ``window`` values in a row.

    Shape: ``[..., n]`` → ``[..., n - window + 1]``.
    """
    covered = 1
    while covered < window:
        step = min(covered, window - covered)
        values = extreme(values[..., step:], values[..., :-step])
        covered += step
    return values


@functools.cache
def _short_taps() -> np.ndarray:
    return interpolator(OVERSAMPLING).numpy()


@functools.cache
def _long_taps() -> np.ndarray:
    return interpolator(OVERSAMPLING, _LONG_REACH, _LONG_BETA).numpy()


@functools.cache
def _bend_weight() -> float:
    """How far a true peak may lie above the samples for each unit that they bend, with a margin for rounding."""
    flat, bent = np.zeros((1, 2)), np.ones((1, 2))
    return float(interpolated_bound(interpolator(OVERSAMPLING), flat, bent)[0, 0]) * (1.0 + 1e-6)


def _true_peaks(samples: np.ndarray, starts: np.ndarray, block: int, taps: Taps) -> np.ndarray:
    """Largest interpolated value of blocks; ``starts`` are the first samples that their interpolators see."""
    peaks = np.empty(len(starts) + LANES - 1, np.float32)
    if not len(starts):
        return peaks[:0]
    kernel = _compiled_peaks(block, taps)
    if kernel is not None:
        kernel(samples.ctypes.data, starts.ctypes.data, peaks.ctypes.data, len(starts))
        return peaks[: len(starts)]
    filters = taps()
    frames = samples[starts[:, None] + np.arange(block + filters.shape[1] - 1)]
    # Tap by tap: a matrix product may round one and the same row differently among others.
    highest = np.zeros(len(starts), np.float32)
    for phase in filters:
        values = sum(tap * frames[:, place : place + block] for place, tap in enumerate(phase))
        np.maximum(highest, np.abs(values).max(axis=1), out=highest)
    return highest


@functools.lru_cache(maxsize=8)
def _compiled_peaks(block: int, taps: Taps) -> Callable[..., None] | None:
    """Addresses of samples, of starts (int64) and of the peaks, with `LANES` - 1 floats to spare, then how many."""
    filters = taps()

    def write(kernel: Kernel) -> None:
        build, index = kernel.build, kernel.index
        samples, starts, peaks, count = kernel.arguments

        def one_block(number: Any) -> None:
            start = kernel.load(starts, number, index)

            def one_vector(offset: Any, peak: Any) -> list[Any]:
                place = build.add(start, offset)
                sums = [kernel.constant(0.0)] * len(filters)
                for position in range(filters.shape[1]):
                    sample = kernel.load(samples, build.add(place, index(position)))
                    for phase, column in enumerate(filters[:, position]):
                        sums[phase] = kernel.multiply_add(sample, kernel.constant(float(column)), sums[phase])
                for value in sums:
                    peak = kernel.extreme(True, peak, kernel.absolute(value))
                return [peak]

            (peak,) = kernel.repeat(index(block), LANES, one_vector, [kernel.constant(0.0)])
            for distance in (1, 2, 4):
                turned = kernel.shuffle(peak, peak, [lane ^ distance for lane in range(LANES)])
                peak = kernel.extreme(True, peak, turned)
            # Same throughout: the next block goes over all but the first.
            kernel.store(peak, peaks, number)

        kernel.repeat(count, 1, one_block)

    return compiled(write, pointers=3, integers=1)
