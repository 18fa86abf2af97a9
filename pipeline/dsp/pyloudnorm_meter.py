"""Integrated loudness by pyloudnorm, for those who want the figures of that package and not our own."""

from __future__ import annotations

import math

import numpy as np

from pipeline.dsp.bs1770 import channel_weights
from pipeline.optional import look_up

# The weights that pyloudnorm gives the channels by their position, whatever these are.
_POSITIONS = np.array([1.0, 1.0, 1.0, 1.41, 1.41])

_BLOCK_STEPS = 4


def pyloudnorm_obstacle(channels: int) -> str | None:
    """Why pyloudnorm cannot measure a track of so many channels here, or None."""
    found = look_up("pyloudnorm", load=True)
    if not found.available:
        return found.reason
    heard = int(np.count_nonzero(channel_weights(channels)))
    if heard > len(_POSITIONS):
        return f"pyloudnorm measures at most {len(_POSITIONS)} channels, not {heard}"
    return None


def pyloudnorm_loudness(native: np.ndarray, sample_rate: int) -> float | None:
    """Programme loudness, LUFS, by ``pyloudnorm.Meter`` with its default filter.

    That filter is not quite the one of the standard: white noise at 48 kHz reads 0.04 LU lower.

    pyloudnorm weights channels by position, L R C Ls Rs, and knows no others. Each channel is scaled so that
    position times scale is its weight in `pipeline.dsp.bs1770.channel_weights`, and one of weight 0 (the
    LFE of 5.1) is left out. An incomplete last step of 100 ms is cut off, as BS.1770 has it: pyloudnorm would
    round the number of blocks, and so measure up to half a step beyond the end.

    The track is held in float64 as a whole, twice.

    Args:
        native: float ``[channels, samples]``; `pyloudnorm_obstacle` has no objection to so many channels.
        sample_rate: Hz.

    Returns:
        None for a track of less than 400 ms, and where no block passes the absolute gate of -70 LUFS.
    """
    import pyloudnorm

    steps = native.shape[1] * 10 // sample_rate
    if steps < _BLOCK_STEPS:
        return None
    weights = channel_weights(native.shape[0])
    heard = np.flatnonzero(weights)
    scale = np.sqrt(weights[heard] / _POSITIONS[: len(heard)])
    # Rounded up, or pyloudnorm takes a track of 400 ms at 11025 Hz for a shorter one.
    stop = min(math.ceil(steps * sample_rate / 10), native.shape[1])
    samples = native[heard, :stop].T * scale
    loudness = float(pyloudnorm.Meter(sample_rate).integrated_loudness(samples))
    return loudness if math.isfinite(loudness) else None
