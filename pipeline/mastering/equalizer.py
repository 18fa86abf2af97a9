"""The equaliser: a curve as FIR filters of mid and side, and a song sent through them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache
from math import gcd
from typing import Literal

import numpy as np
from scipy import fft

from pipeline.mastering.curves import Curve

Phase = Literal["linear", "minimum"]

# Taps at 44.1 kHz, 2 ** k - 1 of them: the fewest that keep to the curve are taken.
_LEAST_POWER, _MOST_POWER = 10, 13
_ACCURACY_DB = 0.1
# Gains below it need not be met in dB: what is left of them is as much as this much is off.
_EXACT_ABOVE_DB = -40.0
_ACCURATE_FROM_HZ = 40.0
_LEAST_GAIN_DB = -120.0
_KAISER_BETA = 5.0
_CORRECTIONS = 4
# Points of the response per tap.
_OVERSAMPLED = 4
# Rows of a transform that scipy goes through at once; numbers of them that are no multiple take twice the time.
_LANES = 4


@dataclass(frozen=True, eq=False)
class Filters:
    """A designed curve.

    Args:
        mid, side: taps, float64 of one odd length; not to be written to.
        delay: samples by which they delay, which the equaliser takes back.
        flat: they change nothing.
        error_db: the most that either is off its curve at the curve's frequencies from 40 Hz to 0.45 of the rate.
    """

    mid: np.ndarray
    side: np.ndarray
    delay: int
    flat: bool
    error_db: float

    @property
    def taps(self) -> int:
        """Length of either filter."""
        return len(self.mid)

    @cached_property
    def transforms(self) -> np.ndarray:
        """Of both at half their gain, for sum and difference, complex64 ``[2, bins]`` of ``4 * (taps + 1)`` samples."""
        both = 0.5 * np.stack([self.mid, self.side])
        return fft.rfft(both, 4 * (self.taps + 1), axis=1).astype(np.complex64)


@lru_cache(maxsize=64)
def design(curve: Curve, sample_rate: int, phase: Phase = "linear") -> Filters:
    """FIR filters of ``curve``, within 0.1 dB of it at its own frequencies from 40 Hz on where the taps suffice: what
    is steep below 100 Hz may be off by some 0.4 dB, as `Filters.error_db` says.

    1023 to 8191 taps at 44.1 kHz, in proportion at other rates: as few as are that accurate. Linear phase delays by
    half the taps; minimum phase, of the same magnitude, does not, and nothing of it comes before its cause. There mid
    and side have phases of their own where their curves differ, which moves what lies beside the middle. The last 64
    designs are kept.

    Raises:
        ValueError: ``phase`` is neither.
    """
    if phase not in ("linear", "minimum"):
        raise ValueError(f"the phase is linear or minimum, not {phase}")
    if curve.flat:
        one = np.ones(1)
        one.flags.writeable = False
        return Filters(one, one, 0, True, 0.0)
    scale = round(np.log2(sample_rate / 44100))
    for power in range(_LEAST_POWER + scale, _MOST_POWER + scale + 1):
        taps = 2 ** max(4, power) - 1
        grid = _OVERSAMPLED * (taps + 1)
        rows = curve.at(np.maximum(fft.rfftfreq(grid, 1.0 / sample_rate), 1e-3))
        found = [_designed(row, taps, phase) for row in rows[: 1 if curve.side_db is None else 2]]
        error = max(_error_db(one, curve, sample_rate, number) for number, one in enumerate(found))
        if error <= _ACCURACY_DB:
            break
    for one in found:
        one.flags.writeable = False
    return Filters(found[0], found[-1], taps // 2 if phase == "linear" else 0, False, error)


def _designed(decibels: np.ndarray, taps: int, phase: Phase) -> np.ndarray:
    """Taps of a gain that is given at all points of the response, dB."""
    wanted = 10.0 ** (np.maximum(decibels, _LEAST_GAIN_DB) / 20.0)
    aim = wanted.copy()
    for _ in range(_CORRECTIONS):
        found = np.abs(fft.rfft(_cut(aim, taps, phase), 2 * (len(wanted) - 1)))
        aim *= np.clip(wanted / np.maximum(found, 1e-9), 0.7, 1.4)
    return _cut(aim, taps, phase)


def _cut(gain: np.ndarray, taps: int, phase: Phase) -> np.ndarray:
    half = taps // 2
    if phase == "linear":
        right = fft.irfft(gain)[: half + 1]
        right = right * np.kaiser(taps, _KAISER_BETA)[half:]
        return np.concatenate([right[:0:-1], right])
    # The minimum phase is the Hilbert transform of the log gain: the cepstrum folded onto positive times.
    cepstrum = fft.irfft(np.log(np.maximum(gain, 1e-9)))
    middle = len(cepstrum) // 2
    cepstrum[1:middle] *= 2.0
    cepstrum[middle + 1 :] = 0.0
    response = fft.irfft(np.exp(fft.rfft(cepstrum)))
    return response[:taps] * np.kaiser(2 * taps - 1, _KAISER_BETA)[taps - 1 :]


def _error_db(taps: np.ndarray, curve: Curve, sample_rate: int, row: int) -> float:
    """The most that the filter is off at the curve's own frequencies."""
    hz = np.array(curve.frequencies_hz)
    hz = hz[(hz >= _ACCURATE_FROM_HZ) & (hz <= 0.45 * sample_rate)]
    if not len(hz):
        return 0.0
    wanted = 10.0 ** (curve.at(hz)[row] / 20.0)
    found = np.abs(np.exp(-2j * np.pi / sample_rate * np.outer(hz, np.arange(len(taps)))) @ taps)
    least = 10.0 ** (_EXACT_ABOVE_DB / 20.0)
    off = np.abs(found - wanted) / np.maximum(wanted, least)
    return float(20.0 * np.log10(1.0 + off.max()))


class Equalizer:
    """Sends a song through `Filters`: mid and side of stereo, else mid's on every channel. A `Processor`.

    Overlap-save in blocks of a fixed number of transforms, which lie on the song's grid: the bits do not depend on the
    pieces, nor on ``origin``, once the context has passed. What the filters delay is taken back. A flat curve gives
    back what came in; where the filters see only zeros, the output is exactly zero.

    Args:
        filters: from `design`, for the song's rate.
        channels: number of channels.
        origin: where in the song the first sample lies.
    """

    def __init__(self, filters: Filters, channels: int, origin: int = 0) -> None:
        self._filters = filters
        self._channels = channels
        self._hop = 3 * (filters.taps + 1)
        self._blocks = _LANES // gcd(channels, _LANES)
        step = self._hop * self._blocks
        self.context = 0 if filters.flat else step + filters.taps
        """Of these, the taps are heard; the rest is for the same bits, of a whole block of transforms."""
        # Sample 0 of the buffer is the first that the block's first output depends on.
        start = origin // step * step
        self._skipped = origin - start
        self._buffer = np.zeros((channels, step if filters.flat else step + filters.taps - 1), np.float32)
        self._filled = origin - (start + filters.delay - (filters.taps - 1))
        self._due = 0
        # Kept, for fresh memory costs more than what is done in it; the last two samples of each stay zero.
        self._windows = np.zeros(
            (self._blocks, channels, 0 if filters.flat else self._hop + filters.taps + 1), np.float32
        )

    def push(self, samples: np.ndarray) -> np.ndarray:
        """The next samples, float32 ``[channels, n]`` → float32 ``[channels, m]``.

        Raises:
            ValueError: NaN or infinity, unless the curve is flat, which keeps nothing.
        """
        if self._filters.flat:
            return samples.astype(np.float32, copy=False)
        done, at = [], 0
        self._due += samples.shape[1]
        while at < samples.shape[1]:
            step = min(samples.shape[1] - at, self._buffer.shape[1] - self._filled)
            self._buffer[:, self._filled : self._filled + step] = samples[:, at : at + step]
            self._filled, at = self._filled + step, at + step
            if self._filled == self._buffer.shape[1]:
                done.append(self._next())
        return self._joined(done)

    def finish(self) -> np.ndarray:
        """What is left, float32 ``[channels, m]``: behind the end the filters see zeros.

        Raises:
            ValueError: as `push`.
        """
        done = []
        while self._due > 0:
            self._buffer[:, self._filled :] = 0.0
            done.append(self._next())
        if self._due < 0:
            done[-1] = done[-1][:, : self._due]
            self._due = 0
        return self._joined(done)

    def _next(self) -> np.ndarray:
        """The outputs of the buffer, which is full; it goes on by as many."""
        step = self._hop * self._blocks
        done = self._filtered()
        if not np.isfinite(done.sum()):
            raise ValueError("the samples hold NaN or infinity, or overflow")
        self._buffer[:, :-step] = self._buffer[:, step:]
        self._filled = self._buffer.shape[1] - step
        done, self._skipped = done[:, self._skipped :], 0
        self._due -= done.shape[1]
        return done

    def _filtered(self) -> np.ndarray:
        taps, hop, stereo = self._filters.taps, self._hop, self._channels == 2
        if not self._buffer.any():
            return np.zeros((self._channels, hop * self._blocks), np.float32)
        windows = self._windows
        for block, window in enumerate(windows):
            seen = self._buffer[:, block * hop : (block + 1) * hop + taps - 1]
            if stereo:
                np.add(seen[0], seen[1], out=window[0, :-2])
                np.subtract(seen[0], seen[1], out=window[1, :-2])
            else:
                window[:, :-2] = seen
        spectrum = fft.rfft(windows, axis=2)
        spectrum *= self._filters.transforms if stereo else 2.0 * self._filters.transforms[0]
        blocks = fft.irfft(spectrum, hop + taps + 1, axis=2, overwrite_x=True)[
            :, :, taps - 1 : taps - 1 + hop
        ]
        done = np.empty((self._channels, self._blocks, hop), np.float32)
        if stereo:
            np.add(blocks[:, 0], blocks[:, 1], out=done[0])
            np.subtract(blocks[:, 0], blocks[:, 1], out=done[1])
        else:
            done[:] = blocks.transpose(1, 0, 2)
        done = done.reshape(self._channels, -1)
        self._silence(done)
        return done

    def _silence(self, done: np.ndarray) -> None:
        """Exact zeros where the filters see only zeros; the transform leaves rounding of what sounds beside them."""
        taps = self._filters.taps
        # Any stretch of zeros as long as the filters holds one of these columns, of which music leaves few silent.
        if self._buffer[:, :: max(1, taps // 2)].any(axis=0).all():
            return
        sounding = np.zeros(self._buffer.shape[1] + 1, np.int64)
        np.cumsum(self._buffer.any(axis=0), out=sounding[1:])
        done[:, sounding[taps:] == sounding[:-taps]] = 0.0

    def _joined(self, done: list[np.ndarray]) -> np.ndarray:
        if not done:
            return np.empty((self._channels, 0), np.float32)
        return done[0] if len(done) == 1 else np.concatenate(done, axis=1)
