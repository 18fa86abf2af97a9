from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from pipeline.models.separation.stem_levels import StemFold, StemStatistics


def fold(blocks: list[np.ndarray], sources: tuple[str, ...]) -> StemStatistics:
    found = StemFold(sources)
    for block in blocks:
        found.add(torch.from_numpy(block))
    return found.statistics()


def test_statistics_of_known_levels():
    time = np.arange(44100) / 44100
    sine = np.sin(2 * np.pi * 441 * time)
    stems = np.stack([np.stack([sine, sine]), np.stack([sine, sine]) / 10]).astype(np.float32)
    shares, levels = fold(np.split(stems, 10, axis=-1), ("vocals", "rest"))
    assert shares["vocals"] == pytest.approx(100 / 101, abs=1e-6)
    assert sum(shares.values()) == pytest.approx(1.0, abs=1e-12)
    assert levels["vocals"] == pytest.approx(-10 * math.log10(2), abs=1e-4)
    assert levels["rest"] == pytest.approx(-10 * math.log10(2) - 20, abs=1e-4)


def test_blocks_do_not_change_the_statistics():
    stems = np.random.default_rng(0).standard_normal((2, 2, 5000)).astype(np.float32)
    whole = fold([stems], ("a", "b"))
    parts = fold(np.split(stems, [1, 7, 4096], axis=-1), ("a", "b"))
    assert parts.shares == pytest.approx(whole.shares, rel=1e-12)
    assert parts.rms_dbfs == pytest.approx(whole.rms_dbfs, rel=1e-12)


def test_silence_has_no_shares_and_no_level():
    nothing = {"a": None, "b": None}
    assert fold([np.zeros((2, 2, 9), np.float32)], ("a", "b")) == (nothing, nothing)
    assert fold([], ("a", "b")) == (nothing, nothing)
    half = np.zeros((2, 2, 9), np.float32)
    half[0] = 0.5
    shares, levels = fold([half], ("a", "b"))
    assert shares == {"a": 1.0, "b": 0.0}
    assert levels["a"] == pytest.approx(20 * math.log10(0.5))
    assert levels["b"] is None


def test_statistics_refuse_what_they_cannot_sum():
    with pytest.raises(ValueError, match="NaN"):
        fold([np.full((2, 2, 3), np.nan, np.float32)], ("a", "b"))
    with pytest.raises(ValueError, match="not one of the stems"):
        fold([np.zeros((3, 2, 3), np.float32)], ("a", "b"))
