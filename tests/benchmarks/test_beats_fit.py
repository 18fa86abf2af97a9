"""What the rule for no beat is fitted by, on quantities that are known."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

sys.path.append(str(Path(__file__).resolve().parents[2] / "benchmarks"))

import beats_fit


def rows(strength: float, lack: float, unrest: float, count: int) -> np.ndarray:
    spread = np.random.default_rng(count).standard_normal((count, 3)) * [0.05, 0.03, 0.01]
    return np.add(spread, [strength, lack, unrest])


def test_the_fit_tells_apart_what_is_apart():
    music = rows(0.8, 0.2, 0.12, 300)
    others = {
        "speech": rows(0.5, 0.7, 0.24, 40),
        "noises": rows(0.2, 0.2, 0.15, 7),
        "bursts": rows(0.5, 0.7, 0.4, 90),
    }
    weights = beats_fit.fitted(music, others)
    assert weights[0] > 0 > max(weights[1:3])
    assert (music @ weights[:3] + weights[3] > 0).all()
    assert all((part @ weights[:3] + weights[3] < 0).all() for part in others.values())


def test_each_kind_counts_as_much_however_many_there_are():
    music, speech, noises = rows(0.8, 0.2, 0.12, 100), rows(0.5, 0.7, 0.24, 30), rows(0.2, 0.2, 0.15, 5)
    one, other = (
        beats_fit.fitted(music, {"speech": np.repeat(speech, count, axis=0), "noises": noises})
        for count in (1, 8)
    )
    # Not quite the same, as the scale of the quantities is that of all rows; were each row as much, the noises would
    # count for nothing.
    for weights in (one, other):
        refused = [float(-(part @ weights[:3] + weights[3]).mean()) for part in (speech, noises)]
        assert 0.8 < refused[0] / refused[1] < 1.25


def test_bursts_are_bursts():
    audio = beats_fit.bursts(np.random.default_rng(0), 2, 60)
    assert len(audio) == 20 * beats_fit.SAMPLE_RATE
    assert 0.001 < np.mean(audio != 0) < 0.05
