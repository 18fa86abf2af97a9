"""Samples to integers with dither: the error of rounding becomes noise that does not follow the signal."""

from __future__ import annotations

import numpy as np

_STRIDE = np.uint64(0x9E3779B97F4A7C15)
_LOW = np.uint64(0xFFFFFFFF)


class Quantizer:
    """Float samples to integers of ``bits`` bits, block after block.

    Triangular dither of two steps from end to end (TPDF: Lipshitz, Wannamaker and Vanderkooy, JAES 40(5), 1992) makes
    mean and power of the error independent of the signal. It is a function of channel and position alone, so that the
    same track gives the same integers, however it is cut into blocks. Digital silence stays silent: a sample that is
    exactly 0 gets none. A track that has no more than ``bits`` bits gets none either and passes unchanged; the dither
    begins with the first sample that has more.

    Args:
        bits: 16 or 24.

    ``clipped`` counts samples beyond ±1, which come out as the largest integers.
    """

    def __init__(self, bits: int) -> None:
        self.scale = float(1 << (bits - 1))
        self.clipped = 0
        self._position = 0
        self._exact = True

    def integers(self, block: np.ndarray) -> np.ndarray:
        """Float ``[channels, n]`` to int32 of the same shape, right-justified."""
        channels, count = block.shape
        scaled = block.astype(np.float64) * self.scale
        self.clipped += int(np.count_nonzero(np.abs(scaled) > self.scale))
        dithered = count if self._exact else 0
        if self._exact:
            rough = (scaled != np.rint(scaled)).any(axis=0)
            if rough.any():
                self._exact, dithered = False, int(np.argmax(rough))
        if dithered < count:
            part = scaled[:, dithered:]
            noise = triangular(self._position + dithered, channels, count - dithered)
            part += np.where(part == 0.0, 0.0, noise)
        self._position += count
        return np.clip(np.rint(scaled), -self.scale, self.scale - 1.0).astype(np.int32)


def triangular(start: int, channels: int, count: int) -> np.ndarray:
    """Noise between -1 and 1 with a triangular density, float64 ``[channels, count]``, of positions from ``start`` on.

    Every value is a hash (splitmix64: Steele, Lea and Flood, OOPSLA 2014) of its channel and position.
    """
    number = np.arange(start, start + count, dtype=np.uint64)[None, :] * np.uint64(64)
    state = (number + np.arange(channels, dtype=np.uint64)[:, None] + np.uint64(1)) * _STRIDE
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    state ^= state >> np.uint64(31)
    return ((state & _LOW).astype(np.float64) - (state >> np.uint64(32)).astype(np.float64)) / 2.0**32
