"""Small networks with random weights, seeded: they say nothing about quality, everything about arithmetic."""

from __future__ import annotations

from fractions import Fraction

import torch

RATE = 8000
SEGMENT = 12_000  # samples of a window of `small_htdemucs`
SOURCES = ["drums", "bass", "other", "vocals"]


def small_htdemucs(seed: int = 0, segment: Fraction = Fraction(3, 2)) -> torch.nn.Module:
    from demucs.htdemucs import HTDemucs

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return HTDemucs(
            SOURCES,
            channels=8,
            nfft=2048,
            segment=segment,
            t_layers=1,
            t_heads=2,
            bottom_channels=0,
            samplerate=RATE,
        ).eval()
