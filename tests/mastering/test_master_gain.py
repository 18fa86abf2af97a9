"""The gain behind which a song has its loudness: told without rendering, and what stands in its way."""

from __future__ import annotations

import itertools
import math
from functools import cache

import numpy as np
import pytest
from helpers.signals import music  # noqa: F401  a fixture

from pipeline.dsp.bs1770 import integrated_loudness, measure_steps
from pipeline.mastering import gain as module
from pipeline.mastering.gain import LoudnessProfile, settle_gain
from pipeline.mastering.limiter import Limiter, Limiting
from pipeline.mastering.peak_envelope import level_db

RATE = 44100
LIMITING = Limiting()


@cache
def song(channels: int = 2, rate: int = RATE, seconds: float = 6.0) -> np.ndarray:
    """Beats over a quiet bed, with loud and quiet seconds, float32."""
    generator = np.random.default_rng(channels)
    time = np.arange(round(seconds * rate)) / rate
    beats = np.exp(-(time % 0.25) * 30.0) * np.where(time % 2.0 < 1.0, 1.0, 0.3)
    wave = 0.15 * generator.standard_normal((channels, len(time))) * beats
    wave += 0.02 * np.sin(2 * np.pi * 220.0 * time)
    return wave.astype(np.float32)


def profile(
    samples: np.ndarray, rate: int = RATE, size: int = 1 << 30, limiting: Limiting = LIMITING
) -> LoudnessProfile:
    found = LoudnessProfile(rate, len(samples), limiting)
    for start in range(0, samples.shape[1], size):
        found.push(samples[:, start : start + size])
    found.finish()
    return found


def rendered(samples: np.ndarray, gain_db: float, rate: int = RATE, limiting: Limiting = LIMITING) -> tuple:
    """What the limiter makes of it, measured: LUFS and the largest reduction."""
    limiter = Limiter(limiting, gain_db, rate, len(samples))
    pieces = [limiter.push(samples), limiter.finish()]
    return integrated_loudness(measure_steps(pieces, len(samples), rate)), limiter.max_gain_reduction_db


@pytest.mark.parametrize("rate", [8000, 11025, 44100, 192000])
@pytest.mark.parametrize("channels", [1, 2, 5, 8])
def test_loudness_without_limiter_is_the_measured_one(rate, channels):
    samples = song(channels, rate, 1.5)
    found, expected = profile(samples, rate), measure_steps([samples], channels, rate)
    np.testing.assert_array_equal(found.steps(0.0).samples, expected.samples)
    np.testing.assert_allclose(found.steps(0.0).energy, expected.energy, rtol=2e-5)
    assert found.lufs(-6.0) == pytest.approx(integrated_loudness(expected) - 6.0, abs=1e-4)


@pytest.mark.parametrize("size", [997, 44100, 131072])
def test_pieces_equal_the_whole_bit_for_bit(size):
    whole, found = profile(song()), profile(song(), size=size)
    np.testing.assert_array_equal(found.levels, whole.levels)
    np.testing.assert_array_equal(found.steps(0.0).energy, whole.steps(0.0).energy)
    np.testing.assert_array_equal(found.steps(9.0, LIMITING).energy, whole.steps(9.0, LIMITING).energy)


def test_told_loudness_of_music_is_that_of_what_is_rendered(music):  # noqa: F811
    for name, whole in music.items():
        samples = whole[:, 10 * RATE : 25 * RATE]
        found = profile(samples)
        for gain_db in (0.0, 6.0, 10.0):
            told = found.lufs(gain_db, LIMITING)
            assert told == pytest.approx(rendered(samples, gain_db)[0], abs=0.02), name
        # The limiter did something.
        assert told < found.lufs(gain_db) - 1.0


@pytest.mark.parametrize(("rate", "channels"), [(8000, 1), (44100, 2), (48000, 6)])
def test_target_is_met(rate, channels):
    samples = song(channels, rate)
    measured = profile(samples, rate)
    before = measured.lufs(0.0)
    # As loud as it gets without the limiter.
    free = before - 1.0 - measured.highest_db
    # One that the limiter has nothing to do with, and two that it has.
    needed = []
    for target in (free - 0.1, free + 3.0, free + 6.0):
        found = settle_gain(measured, target, LIMITING)
        assert found.limited_by is None
        assert found.lufs == pytest.approx(target, abs=0.005)
        lufs, reduction = rendered(samples, found.gain_db, rate)
        assert lufs == pytest.approx(target, abs=0.03)
        assert found.max_gain_reduction_db == pytest.approx(reduction, abs=1e-6)
        needed.append(found.gain_db - (target - before))
    assert needed[0] == pytest.approx(0.0, abs=1e-3)
    assert needed[1] > 0.02
    assert needed[2] > needed[1] + 0.1


def test_reduction_allowed_is_kept_to():
    measured = profile(song())
    free = settle_gain(measured, -13.0, LIMITING, 60.0)
    assert free.limited_by is None
    found = settle_gain(measured, -13.0, LIMITING, 3.0)
    assert found.limited_by == "max_gr_db"
    assert found.max_gain_reduction_db == pytest.approx(3.0, abs=1e-6)
    assert rendered(song(), found.gain_db)[1] == pytest.approx(3.0, abs=1e-6)
    assert found.lufs == pytest.approx(rendered(song(), found.gain_db)[0], abs=0.03)
    assert found.lufs < -13.5
    none = settle_gain(measured, -13.0, LIMITING, 0.0)
    assert none.max_gain_reduction_db == pytest.approx(0.0, abs=1e-6)
    assert none.gain_db == pytest.approx(-1.0 - measured.highest_db, abs=0.01)


def test_a_song_above_the_ceiling_is_turned_down_where_nothing_may_be_reduced():
    measured = profile(song() * np.float32(8.0))
    found = settle_gain(measured, 0.0, LIMITING, 0.0)
    assert found.gain_db < -3.0
    assert found.limited_by == "max_gr_db"


def test_ceiling_ends_it():
    measured = profile(song())
    found = settle_gain(measured, 10.0, LIMITING)
    assert found.limited_by == "ceiling"
    assert -20.0 < found.lufs < 0.0
    # Twice as loud in front brings less than a tenth of that.
    assert measured.lufs(found.gain_db + 6.0, LIMITING) < found.lufs + 0.6
    assert found.lufs == pytest.approx(rendered(song(), found.gain_db)[0], abs=0.05)
    # However far away the target is, it ends there.
    for target in (-3.0, 0.0, 30.0):
        other = settle_gain(measured, target, LIMITING)
        assert other.limited_by == "ceiling"
        assert other.gain_db == pytest.approx(found.gain_db, abs=0.5)
    # Below what the ceiling allows all is met.
    assert settle_gain(measured, found.lufs - 0.1, LIMITING).limited_by is None


def test_more_gain_is_never_less_loud_while_gates_pass_the_same():
    steps = [profile(song()).steps(gain_db, LIMITING).energy for gain_db in (0.0, 6.0, 12.0, 24.0)]
    for less, more in itertools.pairwise(steps):
        assert (more >= less * (1.0 - 1e-9)).all()
        assert more.sum() > less.sum()


@pytest.mark.parametrize(
    ("samples", "rate", "reason"),
    [
        (np.zeros((2, RATE), np.float32), RATE, "silence"),
        (1e-5 * song(), RATE, "silence"),
        (song()[:, : RATE // 3], RATE, "no loudness"),
        (song()[:, :0], RATE, "no loudness"),
        (song()[:, :1], RATE, "no loudness"),
        (song(), 3999, "no loudness"),
    ],
)
def test_without_a_loudness_there_is_no_gain(samples, rate, reason):
    found = settle_gain(profile(samples, rate), -14.0, LIMITING)
    assert (found.gain_db, found.lufs, found.limited_by) == (0.0, None, reason)


def test_the_limiter_guards_the_ceiling_of_what_has_no_loudness():
    short = np.ones((1, 2000), np.float32) * 2.0
    found = settle_gain(profile(short), -14.0, LIMITING)
    assert found.limited_by == "no loudness"
    assert found.max_gain_reduction_db == pytest.approx(rendered(short, 0.0)[1], abs=1e-6)
    assert found.max_gain_reduction_db > 6.0


def test_loudness_over_time():
    measured = profile(song())
    assert measured.over_time(0.0, steps=4) == pytest.approx(
        -0.691 + 10 * np.log10(measure_steps([song()], 2, RATE).powers(4)), abs=1e-3
    )
    short_term = measured.over_time(3.0)
    assert len(short_term) == 60 - 30 + 1
    assert short_term == pytest.approx(measured.over_time(0.0) + 3.0)
    behind = measured.over_time(12.0, LIMITING)
    assert (behind < measured.over_time(12.0) - 0.5).all()
    assert (profile(np.zeros((1, 4 * RATE), np.float32)).over_time(0.0) == -np.inf).all()


def test_levels_of_the_profile_are_those_that_a_limiter_takes():
    measured = profile(song())
    limiter = Limiter(LIMITING, 9.0, RATE, 2, levels=measured.levels)
    found = np.concatenate([limiter.push(song()), limiter.finish()], axis=1)
    other = Limiter(LIMITING, 9.0, RATE, 2)
    np.testing.assert_array_equal(found, np.concatenate([other.push(song()), other.finish()], axis=1))
    assert measured.highest_db == level_db(measured.levels).max()


def test_a_longer_hold_than_measured_for_is_served_and_a_shorter_one_refused():
    longer = Limiting(hold_ms=60.0, sustained_release_ms=400.0)
    measured = profile(song())
    assert measured.lufs(9.0, longer) == pytest.approx(rendered(song(), 9.0, limiting=longer)[0], abs=0.03)
    with pytest.raises(ValueError, match="longer hold"):
        measured.lufs(9.0, Limiting(hold_ms=12.0))


def test_stretches_of_a_song_change_nothing(monkeypatch):
    measured = profile(song())
    expected = measured.steps(9.0, LIMITING).energy
    monkeypatch.setattr(module, "_STRETCH", 7)
    np.testing.assert_allclose(measured.steps(9.0, LIMITING).energy, expected, rtol=1e-9)


@pytest.mark.parametrize(
    ("target", "allowed"), [(math.nan, 3.0), (-math.inf, 3.0), (-14.0, -1.0), (-14.0, math.nan)]
)
def test_wrong_targets_are_refused(target, allowed):
    with pytest.raises(ValueError, match="target"):
        settle_gain(profile(song()), target, LIMITING, allowed)


def test_what_is_no_number_is_refused():
    with pytest.raises(ValueError, match="finite"):
        profile(np.full((1, 5000), np.nan, np.float32))
