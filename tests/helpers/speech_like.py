"""Signals that networks take for speech, made here; and the weights that tests of speech need."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
from scipy.signal import lfilter

from pipeline.errors import UserError
from pipeline.models import weights

SAMPLE_RATE = 16_000


@lru_cache
def syllables(seconds: float, seed: int = 7) -> np.ndarray:
    """A buzz of 100 to 150 Hz through changing formants, in syllables with a second of silence every few; 16 kHz."""
    rng = np.random.default_rng(seed)
    pieces: list[np.ndarray] = []
    while sum(map(len, pieces)) < seconds * SAMPLE_RATE:
        length = int(rng.uniform(0.12, 0.3) * SAMPLE_RATE)
        pitch = np.linspace(*rng.uniform(100, 150, 2), length)
        buzz = np.diff(np.floor(np.cumsum(pitch) / SAMPLE_RATE), prepend=0.0)
        for low, high in ((300, 800), (900, 2200), (2300, 3000)):
            angle, radius = 2 * np.pi * rng.uniform(low, high) / SAMPLE_RATE, 0.97
            buzz = lfilter([1.0], [1.0, -2 * radius * np.cos(angle), radius**2], buzz)
        pieces.append(buzz / np.abs(buzz).max() * np.sin(np.linspace(0, np.pi, length)) ** 0.5)
        pause = 1.0 if rng.uniform() < 0.15 else rng.uniform(0.02, 0.08)
        pieces.append(np.zeros(int(pause * SAMPLE_RATE)))
    signal = np.concatenate(pieces)[: int(seconds * SAMPLE_RATE)]
    return (0.3 * signal + 1e-4 * rng.standard_normal(len(signal))).astype(np.float32)


def stored(name: str) -> Path:
    """The weights called ``name``, fetched once; skips where they cannot be had."""
    try:
        return weights.find(name) or weights.fetch(name, print)
    except UserError as error:
        pytest.skip(str(error))
