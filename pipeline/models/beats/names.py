"""What processes without torch need of the beat tracker: its weights, its rate, and what it may be told."""

from __future__ import annotations

from dataclasses import dataclass

WEIGHTS = "beatnet"
SAMPLE_RATE = 22050
"""Hz; what the networks were trained on."""
METERS = (2, 3, 4, 6)
"""Beats of a bar that there can be."""
SLOWEST_BPM, FASTEST_BPM = 20.0, 375.0
"""Beyond these a beat is more than 150 or less than 8 frames, which the decoder has no states for."""


@dataclass(frozen=True)
class BeatOptions:
    """What the tracker may be told; the ``beats.*`` keys of the same names.

    Args:
        meters: beats of a bar that are considered, of `METERS`.
        min_bpm, max_bpm: tempi that are considered.
    """

    meters: tuple[int, ...] = (2, 3, 4)
    min_bpm: float = 40.0
    max_bpm: float = 300.0
