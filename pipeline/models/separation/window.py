"""What of a track a separation network reads at once, and the level that it reads it at."""

from __future__ import annotations

from typing import NamedTuple


class Window(NamedTuple):
    """One stretch of a track that the network sees at once, in samples at the backend's rate.

    Args:
        start, size: what it reads; zeros where the track has no samples.
        offset, length: which part of its output is kept.
    """

    start: int
    size: int
    offset: int
    length: int


class Level(NamedTuple):
    """Mean and standard deviation that the network expects to be taken out, and that are put back."""

    mean: float
    scale: float


UNTOUCHED = Level(0.0, 1.0)
