"""Bands of a song without delay or phase: zero-phase Linkwitz-Riley low passes, whose rest is the band above.

The gain of a band changes the song as ``out = in + Σ (gain - 1) * band``. That is right only where the bands are in
phase with the input and sum to the input. The usual Linkwitz-Riley pair sums to an all-pass: at its corner, half a
turn away from the input, taking away from a band would add. Here a second-order Butterworth low pass runs over the song
forwards and then backwards: its power response ``1 / (1 + (f / f0)^4)`` becomes the response, without any phase, and
what it leaves of the input is ``(f / f0)^4 / (1 + (f / f0)^4)``. Both are exactly the magnitudes of Linkwitz and Riley
(JAES 24(1), 1976) of the fourth order, 24 dB per octave. A linear-phase FIR of that response takes thousands of taps
for a corner of 100 Hz, and four times as many at four times the rate; here it is six multiplications a sample at any.
The poles have a Q of 0.71, so that hardly anything rings: 120 Hz fade to 1 % within 9 ms, before a sound as behind it.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np

from pipeline.dsp.jitted import jitted

LOWEST_CORNER_HZ = 20.0
HIGHEST_CORNER = 0.45
"""Of the sample rate: above it the bilinear transform leaves nothing of a band."""
# Time constants after which the low pass has faded to 1e-8, -160 dB.
_FADED = 18.4
_SHORTEST_BLOCK = 4096


class Crossover:
    """Low-passed copies of a song, in phase with it; a processor that gives each sample back with them.

    Args:
        corners_hz: where neighbouring bands are equal, -6 dB; ascending, from `LOWEST_CORNER_HZ` up to
            `HIGHEST_CORNER` times the rate.
        sample_rate: Hz.
        channels: of the song.

    The first sample lies on the song's grid, at a multiple of `block`; who begins inside a song gives `context` samples
    before what is wanted.

    Raises:
        ValueError: the corners are out of range or not ascending.
    """

    def __init__(self, corners_hz: Sequence[float], sample_rate: int, channels: int) -> None:
        check_corners(corners_hz)
        if any(hz > HIGHEST_CORNER * sample_rate for hz in corners_hz):
            raise ValueError(
                f"a crossover at {max(corners_hz)} Hz does not fit a sample rate of {sample_rate} Hz"
            )
        self._coefficients = np.array([_low_pass(hz / sample_rate) for hz in corners_hz])
        self._ahead = np.array([fading(hz, sample_rate) for hz in corners_hz], dtype=np.int64)
        longest = int(self._ahead.max())
        self.block = max(_SHORTEST_BLOCK, 2 ** math.ceil(math.log2(4 * longest)))
        """Samples per block of the song's grid; the backward pass of each begins anew behind it."""
        self.context = self.block + 2 * longest
        self._position = 0
        self._states = np.zeros((len(corners_hz), channels, 4))
        self._samples = np.empty((channels, 0), np.float32)
        self._forward = np.empty((len(corners_hz), channels, 0), np.float32)

    def push(self, samples: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The next samples, float32 ``[channels, n]``.

        Returns:
            whole blocks, ``[channels, m]``, and what each low pass leaves of them, ``[corners, channels, m]``; float32.
        """
        corners, channels = self._states.shape[:2]
        samples = np.ascontiguousarray(samples, np.float32)
        forward = np.empty((corners, channels, samples.shape[1]), np.float32)
        jitted(_forwards)(samples, self._position, self._coefficients, self._states, forward)
        self._position += samples.shape[1]
        self._samples = np.concatenate([self._samples, samples], axis=1)
        self._forward = np.concatenate([self._forward, forward], axis=2)
        there = self._samples.shape[1] - int(self._ahead.max())
        settled = max(0, there // self.block * self.block)
        whole, lows = self._samples[:, :settled], np.empty((corners, channels, settled), np.float32)
        if settled:
            jitted(_backwards)(self._forward, self._coefficients, self._ahead, self.block, lows)
            self._samples, self._forward = self._samples[:, settled:], self._forward[:, :, settled:].copy()
        return np.ascontiguousarray(whole), lows

    def finish(self) -> tuple[np.ndarray, np.ndarray]:
        """What is left, as `push`: silence follows it, with which the last block is filled up."""
        left = self._samples.shape[1]
        missing = -left % self.block + int(self._ahead.max())
        return self.push(np.zeros((self._samples.shape[0], missing), np.float32))


def check_corners(corners_hz: Sequence[float]) -> None:
    """Refuse corners that no crossover has.

    Raises:
        ValueError: they are too low, not finite, or not ascending.
    """
    if not all(math.isfinite(hz) and hz >= LOWEST_CORNER_HZ for hz in corners_hz):
        raise ValueError(f"crossovers lie at {LOWEST_CORNER_HZ:g} Hz or above, not at {list(corners_hz)}")
    if any(low >= high for low, high in itertools.pairwise(corners_hz)):
        raise ValueError(f"crossovers ascend, unlike {list(corners_hz)}")


def fading(corner_hz: float, sample_rate: int) -> int:
    """Samples in which the low pass fades to 1e-8."""
    return math.ceil(_FADED * math.sqrt(2.0) * sample_rate / (2.0 * math.pi * corner_hz))


def _low_pass(corner: float) -> tuple[float, float, float]:
    """Second-order Butterworth low pass by the bilinear transform; its zeros are both at Nyquist.

    Args:
        corner: cycles per sample.

    Returns:
        the gain, and what the last and the last but one output are multiplied with.
    """
    k = math.tan(math.pi * corner)
    a0 = 1.0 + math.sqrt(2.0) * k + k * k
    return k * k / a0, 2.0 * (1.0 - k * k) / a0, -(1.0 - math.sqrt(2.0) * k + k * k) / a0


def _forwards(
    samples: np.ndarray, position: int, coefficients: np.ndarray, states: np.ndarray, result: np.ndarray
) -> None:
    """Low passes of ``[channels, n]`` → ``[corners, channels, n]``; the states are carried on.

    The sum in brackets does not need the last output: one multiplication and addition a sample is all that waits.
    Every 64 samples of the song (of the song, so that pieces make no difference) what is below -400 dB becomes zero:
    left alone it would never get there, but stay among the smallest numbers, which are slow to compute with.
    """
    count = samples.shape[1]
    for corner in range(coefficients.shape[0]):
        gain, near, far = coefficients[corner, 0], coefficients[corner, 1], coefficients[corner, 2]
        for channel in range(samples.shape[0]):
            state = states[corner, channel]
            x1, x2, y1, y2 = state[0], state[1], state[2], state[3]
            start = 0
            while start < count:
                stop = min(count, start + 64 - (position + start) % 64)
                for i in range(start, stop):
                    x = np.float64(samples[channel, i])
                    y = near * y1 + (far * y2 + gain * (x + 2.0 * x1 + x2))
                    x2, x1, y2, y1 = x1, x, y1, y
                    result[corner, channel, i] = y
                if (position + stop) % 64 == 0 and abs(y1) < 1e-20 and abs(y2) < 1e-20:
                    y1, y2 = 0.0, 0.0
                start = stop
            state[0], state[1], state[2], state[3] = x1, x2, y1, y2


def _backwards(
    forward: np.ndarray, coefficients: np.ndarray, ahead: np.ndarray, block: int, result: np.ndarray
) -> None:
    """The same low passes from the end of each block to its beginning, from ``ahead`` samples behind it on."""
    for corner in range(coefficients.shape[0]):
        gain, near, far = coefficients[corner, 0], coefficients[corner, 1], coefficients[corner, 2]
        for channel in range(forward.shape[1]):
            row, low = forward[corner, channel], result[corner, channel]
            for start in range(0, result.shape[2], block):
                x1, x2, y1, y2 = 0.0, 0.0, 0.0, 0.0
                stop = start + block
                for i in range(stop + ahead[corner] - 1, stop - 1, -1):
                    x = np.float64(row[i])
                    y = near * y1 + (far * y2 + gain * (x + 2.0 * x1 + x2))
                    x2, x1, y2, y1 = x1, x, y1, y
                for last in range(stop - 1, start, -64):
                    for i in range(last, last - 64, -1):
                        x = np.float64(row[i])
                        y = near * y1 + (far * y2 + gain * (x + 2.0 * x1 + x2))
                        x2, x1, y2, y1 = x1, x, y1, y
                        low[i] = y
                    if abs(y1) < 1e-20 and abs(y2) < 1e-20:
                        y1, y2 = 0.0, 0.0
