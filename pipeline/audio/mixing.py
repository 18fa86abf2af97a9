"""Whether the mono mix of a track says anything of it: channels of opposite sign cancel."""

from __future__ import annotations

import numpy as np

CANCELS_DB = -20.0
"""A mix has cancelled that lies this far below what channels with nothing in common would leave. One channel of several
alone is at 0 dB, two that are alike at 3 dB, and of 62 recordings of music the lowest at -2 dB. Of a song as ``R = -L``
lossless files leave nothing, 8 bit -25 dB and Vorbis -29 dB, which is all rounding. Above the bound the mix still holds
what is heard, and is taken as it is."""

# Samples per channel and step: what stays in the cache of a core.
_STEP = 1 << 15


class MixMeter:
    """Measures the mono mix of a signal that comes in blocks against its channels.

    Args:
        channels: number of channels.
    """

    def __init__(self, channels: int) -> None:
        self._channels = np.zeros(channels)
        self._mix = 0.0

    def add(self, block: np.ndarray) -> None:
        """The next samples, float32 ``[channels, n]``."""
        if len(self._channels) == 1:
            return
        for start in range(0, block.shape[1], _STEP):
            piece = block[:, start : start + _STEP]
            # What each channel has in common with each: one product in float32, good to -60 dB of what cancels.
            with np.errstate(over="ignore", invalid="ignore"):
                products = (piece @ piece.T).astype(np.float64)
            if not np.isfinite(products).all():  # of samples beyond 1e18
                wide = piece.astype(np.float64)
                products = wide @ wide.T
            self._channels += np.diag(products)
            self._mix += max(0.0, float(products.sum())) / len(products) ** 2

    def channel(self) -> int | None:
        """The loudest channel, the first of equals, where the mix cancels; None where it does not."""
        unrelated = float(self._channels.sum()) / len(self._channels) ** 2
        if not unrelated > 0.0 or self._mix > unrelated * 10.0 ** (CANCELS_DB / 10.0):
            return None
        return int(np.argmax(self._channels))


def channel_of_mix(samples: np.ndarray) -> int | None:
    """`MixMeter.channel` of a whole track, float32 ``[channels, samples]``."""
    meter = MixMeter(len(samples))
    meter.add(samples)
    return meter.channel()


def for_mono(samples: np.ndarray, channel: int | None) -> np.ndarray:
    """What a mono view is made of: all channels, or that one, ``[1, n]``."""
    return samples if channel is None else samples[channel : channel + 1]
