"""What is heard of a song before it is decided how its voice is taken out: how wide it is, and where it ends."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from pipeline.audio.reader import AudioReader
from pipeline.features.quality import Bandwidth
from pipeline.features.track import Axis

RANGE_DB = 50.0
"""As of ``quality_bandwidth_hz``."""


@dataclass(frozen=True)
class Heard:
    """A song, by windows that are spread over it.

    Args:
        side_db: level of the side, ``(L - R) / 2``, over that of the mid, ``(L + R) / 2``; ``-inf`` where both channels
            are the same; None for silence, and where there are not two.
        bandwidth_hz: the highest frequency with content, see `Bandwidth`; None for silence and under 256 samples.
    """

    side_db: float | None
    bandwidth_hz: float | None


def hear(audio: AudioReader, rate: int) -> Heard:
    """Listen to 24 s of a song, or to all of a shorter one.

    Args:
        rate: of ``audio``, Hz.
    """
    if not audio.samples:
        return Heard(None, None)
    bandwidth = Bandwidth(audio.samples)
    mid = side = 0.0
    for start in map(int, bandwidth.starts):
        window = audio.read(start, start + bandwidth.length)
        bandwidth.add(window, Axis(start, start, start + 1, False))  # one window begins in there
        if audio.channels == 2:
            left, right = window.astype(np.float64)
            mid += float(np.square(left + right).sum())
            side += float(np.square(left - right).sum())
    return Heard(_level(side, mid), bandwidth.hertz(rate, RANGE_DB))


def _level(energy: float, over: float) -> float | None:
    """The level of one energy over another, dB; None where both are none."""
    if not energy:
        return -math.inf if over else None
    return 10.0 * math.log10(energy / over) if over else math.inf
