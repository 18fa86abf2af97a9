"""How the long-term spectrum of a song is measured, and what its bands hold: music, noise or nothing."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy import fft

from pipeline.mastering.spectrum import BANDS_PER_OCTAVE, LOWEST_EDGE_HZ, Spectrum, band_centres, decibels

# Level below which a band of any song is rounding: dither of 16 bit leaves some -105 dB in a sixth of an octave.
_NOTHING_DB = -100.0
_NOTHING_BELOW_LOUDEST_DB = -85.0
# A fall by this much within two thirds of an octave, from which the spectrum does not recover, is a filter's edge.
_EDGE_DB = 24.0
_EDGE_BANDS = 8
# An edge of a low-pass lies above the first, one of a high-pass below the second.
_LOW_PASS_FROM_HZ, _HIGH_PASS_TO_HZ = 2000.0, 200.0
# Noise stands still (the first) where the song moves (the second): loudest parts against quiet ones.
_NOISE_MOVES_DB, _SONG_MOVES_DB = 2.0, 10.0
_QUIET_PERCENTILE = 10.0
_INAUDIBLE_ROOT = 10.0 ** (-60.0 / 40.0)

# Of longer songs, every second part behind these (some 45 s) stands for two: that costs half as much.
_ALL_PARTS = 64
# About this many seconds per transform: bins of 2.7 Hz resolve third-octave bands from 30 Hz on.
_WINDOW_S = 0.37
# Transforms per part of the song; scipy goes through four rows at once.
_FRAMES = 4
# Parts that are remembered; of longer songs two neighbours become one, again and again.
_MOST_PARTS = 4096


class SpectrumMeter:
    """Measures the `Spectrum` of a song that comes in pieces; the same whatever the pieces.

    Hann windows of some 0.37 s, half overlapping, four to a part. Of a part only the bands are kept, and of at most
    4096 parts: memory does not grow with the song.

    Args:
        sample_rate: Hz.
        channels: number of channels; two are taken for stereo.
    """

    def __init__(self, sample_rate: int, channels: int) -> None:
        self._stereo = channels == 2
        self._n_fft = 2 ** max(6, round(math.log2(_WINDOW_S * sample_rate)))
        self._hop = self._n_fft // 2
        self._bands = _Bands(sample_rate, self._n_fft)
        self._window = np.hanning(self._n_fft + 1)[:-1].astype(np.float32)
        # Frame number k is centred on sample k * hop, and a part is cut where its frames lie: half a hop early.
        self._buffer = np.zeros((channels, (_FRAMES + 1) * self._hop), np.float32)
        self._filled = self._hop
        # Kept, for fresh memory costs more than what is done in it. Of each bin the squares of its two parts, side by
        # side as the transform leaves them, and one bin of zeros behind.
        self._windows = np.empty((_FRAMES, self._n_fft), np.float32)
        self._squares = np.zeros((2, self._n_fft + 4), np.float32)
        self._samples = 0
        self._frames = 0
        self._parts = _Parts()

    def add(self, samples: np.ndarray) -> None:
        """The next samples, float32 ``[channels, n]``.

        Raises:
            ValueError: they hold NaN or infinity, or are beyond 1e15.
        """
        at, count = 0, samples.shape[1]
        while at < count:
            step = min(count - at, self._buffer.shape[1] - self._filled)
            self._buffer[:, self._filled : self._filled + step] = samples[:, at : at + step]
            self._filled, at, self._samples = self._filled + step, at + step, self._samples + step
            if self._filled == self._buffer.shape[1]:
                self._take_part()
                self._buffer[:, : self._hop] = self._buffer[:, -self._hop :]
                self._filled = self._hop

    def _take_part(self) -> None:
        """Measure the part in the buffer, or let it be stood for by the one before."""
        number = self._frames // _FRAMES
        if number < _ALL_PARTS:
            self._parts.add(*self._measured())
        elif number % 2:
            self._frames += _FRAMES
        else:
            power, weight = self._measured()
            self._parts.add(power, 2.0 * weight)

    def result(self) -> Spectrum:
        """The spectrum of all that was added; more may follow."""
        parts = self._parts.copy()
        if self._filled > self._hop or not self._frames:
            kept = self._buffer.copy(), self._frames
            self._buffer[:, self._filled :] = 0.0
            parts.add(*self._measured())
            self._buffer, self._frames = kept
        power, weight = parts.all()
        return _spectrum(self._bands.centres_hz, power if self._stereo else power[:, :1], weight)

    def _measured(self) -> tuple[np.ndarray, float]:
        """Power per band of the part in the buffer, ``[2, bands]``, and how many samples it stands for."""
        squares = self._squares
        squares[:] = 0.0
        for number, row in enumerate(self._buffer):
            for frame, window in enumerate(self._windows):
                seen = slice(frame * self._hop, frame * self._hop + self._n_fft)
                if self._stereo:
                    (np.subtract if number else np.add)(*self._buffer[:, seen], out=window)
                    window *= self._window
                else:
                    np.multiply(row[seen], self._window, out=window)
            parts = fft.rfft(self._windows, axis=1).view(np.float32)
            squares[number if self._stereo else 0, :-2] += np.einsum("fb,fb->b", parts, parts)
        if not np.isfinite(squares.sum()):
            raise ValueError("the samples hold NaN, infinity or values beyond 1e15")
        first = max(0.0, (self._frames - 0.5) * self._hop)
        self._frames += _FRAMES
        last = min(float(self._samples), (self._frames - 0.5) * self._hop)
        weight = max(1.0, last - first)
        # Both halves of the spectrum; the mean over a frame's window (a Hann window's squares add up to 3/8 of its
        # length), each frame for its hop of samples.
        scale = 2.0 * self._hop / weight / self._n_fft / (0.375 * self._n_fft)
        # Mid and side are half the sum and half the difference.
        return self._bands.sums(squares) * (scale / (4 if self._stereo else len(self._buffer))), weight


class _Bands:
    """Sums of bins over bands, a bin that two bands share divided between them."""

    def __init__(self, sample_rate: int, n_fft: int) -> None:
        count = max(0, math.floor(BANDS_PER_OCTAVE * math.log2(sample_rate / 2 / LOWEST_EDGE_HZ) + 1e-9))
        edges = LOWEST_EDGE_HZ * 2.0 ** (np.arange(count + 1) / BANDS_PER_OCTAVE)
        self.centres_hz = band_centres(count)
        # Where the edges lie among the bins, bin b reaching from b to b + 1 here.
        at = np.minimum(edges * n_fft / sample_rate + 0.5, n_fft // 2 + 1)
        self._bin = at.astype(np.int64)
        self._share = at - self._bin
        self._within_one = np.diff(self._bin) == 0

    def sums(self, squares: np.ndarray) -> np.ndarray:
        """``[rows, 2 * bins + 2]``, a pair to a bin and the last pair 0 → ``[rows, bands]``."""
        whole = np.add.reduceat(squares, 2 * self._bin, axis=1, dtype=np.float64)[:, :-1]
        whole[:, self._within_one] = 0.0
        # What the first bin of a band does not give it, the band before has got.
        shared = (squares[:, 2 * self._bin] + squares[:, 2 * self._bin + 1]) * self._share
        return np.maximum(0.0, whole + np.diff(shared, axis=1))


class _Parts:
    """Power per band of each part of a song, and the samples it stands for."""

    def __init__(self) -> None:
        self._power: list[np.ndarray] = []
        self._weight: list[float] = []
        self._together = 1
        self._open: list[tuple[np.ndarray, float]] = []

    def add(self, power: np.ndarray, weight: float) -> None:
        self._open.append((power, weight))
        if len(self._open) < self._together:
            return
        self._keep(*_joined(self._open))
        self._open = []
        if len(self._power) == _MOST_PARTS:
            pairs = list(zip(self._power, self._weight, strict=True))
            self._power, self._weight = [], []
            self._together *= 2
            for at in range(0, _MOST_PARTS, 2):
                self._keep(*_joined(pairs[at : at + 2]))

    def copy(self) -> _Parts:
        other = _Parts()
        other._power, other._weight = list(self._power), list(self._weight)
        other._together, other._open = self._together, list(self._open)
        return other

    def all(self) -> tuple[np.ndarray, np.ndarray]:
        """``[parts, 2, bands]``, ``[parts]``."""
        power, weight = list(self._power), list(self._weight)
        if self._open:
            last = _joined(self._open)
            power.append(last[0])
            weight.append(last[1])
        return np.stack(power).astype(np.float64), np.array(weight)

    def _keep(self, power: np.ndarray, weight: float) -> None:
        self._power.append(power.astype(np.float32))
        self._weight.append(weight)


def _joined(parts: list[tuple[np.ndarray, float]]) -> tuple[np.ndarray, float]:
    total = sum(weight for _, weight in parts)
    return sum(power * (weight / total) for power, weight in parts), total


def _spectrum(centres_hz: tuple[float, ...], power: np.ndarray, weight: np.ndarray) -> Spectrum:
    """Of the parts' power, ``[parts, 1 or 2, bands]``, and their samples, ``[parts]``."""
    loudness = _loudness(power)
    # A part as loud as the mean counts, which in an even song all parts are.
    loud = weight * (loudness >= np.average(loudness, weights=weight) * (1.0 - 1e-6))
    loudest = [decibels(row) for row in np.tensordot(loud, power, 1) / loud.sum()]
    mean = [decibels(row) for row in np.tensordot(weight, power, 1) / weight.sum()]
    level = power.sum(axis=(1, 2))
    sounding = level >= level.max() * 1e-6
    quiet = [decibels(row) for row in np.percentile(power[sounding], _QUIET_PERCENTILE, axis=0)]
    moves = decibels(np.average(level, weights=loud)) - decibels(
        np.percentile(level[sounding], _QUIET_PERCENTILE)
    )
    held = [
        _holds_signal(centres_hz, *row, song_moves_db=float(moves))
        for row in zip(loudest, quiet, strict=True)
    ]
    side = len(loudest) == 2
    return Spectrum(
        frequencies_hz=centres_hz,
        mid_db=tuple(loudest[0].tolist()),
        side_db=tuple(loudest[1].tolist()) if side else None,
        mean_mid_db=tuple(mean[0].tolist()),
        mean_side_db=tuple(mean[1].tolist()) if side else None,
        quiet_db=tuple(quiet[0].tolist()),
        mid_signal=tuple(held[0].tolist()),
        side_signal=tuple(held[1].tolist()) if side else None,
    )


def _loudness(power: np.ndarray) -> np.ndarray:
    """Of each part, ``[parts, rows, bands]`` → ``[parts]``: what an equaliser changes of all parts alike.

    Each band counts by the fourth root of its power (Stevens' law, nearly), less that of what is 60 dB below the
    loudest band of all. Plain power would be that of the bass.
    """
    highest = float(power.max(initial=0.0))
    if highest == 0.0:
        return np.zeros(len(power))
    return np.maximum(0.0, np.sqrt(np.sqrt(power / highest)) - _INAUDIBLE_ROOT).sum(axis=(1, 2))


def _holds_signal(
    centres_hz: Sequence[float], loudest: np.ndarray, quiet: np.ndarray, *, song_moves_db: float
) -> np.ndarray:
    """Which bands are neither empty, nor beyond a filter's edge, nor filled with noise that never moves."""
    if not len(loudest):
        return np.zeros(0, bool)
    held = loudest > max(_NOTHING_DB, float(loudest.max()) + _NOTHING_BELOW_LOUDEST_DB)
    centres = np.array(centres_hz)
    held &= ~(_beyond_edge(loudest) & (centres > _LOW_PASS_FROM_HZ))
    held &= ~(_beyond_edge(loudest[::-1])[::-1] & (centres < _HIGH_PASS_TO_HZ))
    if song_moves_db > _SONG_MOVES_DB:
        held &= loudest - quiet > _NOISE_MOVES_DB
    return held


def _beyond_edge(levels: np.ndarray) -> np.ndarray:
    """Bands from which on all lie far below the middle one of the bands just before."""
    beyond = np.zeros(len(levels), bool)
    highest = -math.inf
    # From the end: `highest` is that of this band and of all behind it.
    for band in range(len(levels) - 1, _EDGE_BANDS - 1, -1):
        highest = max(highest, float(levels[band]))
        beyond[band] = highest < np.median(levels[band - _EDGE_BANDS : band]) - _EDGE_DB
    # Between the edge and the first band that is that far below, the filter falls.
    return np.logical_or.accumulate(beyond)
