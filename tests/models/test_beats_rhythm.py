"""Beats, bars and tempi of click tracks and of odds made by hand; nothing where there is no beat."""

from __future__ import annotations

import numpy as np
import pytest
from helpers.heard import heard
from helpers.music_weights import beatnet  # noqa: F401  a fixture

from pipeline.models.beats import BeatOptions, Beats, track_beats
from pipeline.models.beats.rhythm import beat_times, rhythm, stability, tempo

RATE = 22050


@pytest.fixture(scope="module", autouse=True)
def networks(beatnet):  # noqa: F811
    """The published networks."""


def drums(bpm: float, bar: int, seconds: float = 20.0, first: float = 0.4, rate: int = RATE) -> np.ndarray:
    """A kick on the first beat of each bar, a snare on the others, and hats between them where beats are quick: between
    slow ones they would be beats. Float32 ``[samples]``."""
    rng = np.random.default_rng(0)
    audio = np.zeros(int(seconds * rate), np.float32)
    fade = np.arange(int(0.12 * rate)) / rate
    kick = np.sin(2 * np.pi * (55 * fade + 3 * (1 - np.exp(-40 * fade)))) * np.exp(-25 * fade)
    snare = 0.4 * rng.standard_normal(len(fade)) * np.exp(-45 * fade)
    hat = 0.08 * rng.standard_normal(len(fade)) * np.exp(-120 * fade)
    for number in range(int((seconds - first) * bpm / 30)):
        beat, half = divmod(number, 2)
        if half and bpm < 110:
            continue
        sound = hat if half else (kick if beat % bar == 0 else snare)
        start = round((first + number * 30 / bpm) * rate)
        piece = audio[start : start + len(sound)]
        piece += 0.6 * sound[: len(piece)].astype(np.float32)
    return audio


def times(bpm: float, seconds: float = 20.0, first: float = 0.4) -> np.ndarray:
    return first + np.arange(int((seconds - first) * bpm / 60)) * 60 / bpm


def nearest(found: np.ndarray, true: np.ndarray) -> np.ndarray:
    """From each true time to the nearest that was found, s."""
    return found[np.abs(found[None] - true[:, None]).argmin(axis=1)] - true


@pytest.mark.parametrize(("bpm", "bar"), [(90, 4), (120, 4), (137.3, 4)])
def test_beats_bars_and_tempo_of_drums(bpm, bar):
    found = track_beats(drums(bpm, bar), RATE)
    assert found.bpm == pytest.approx(bpm, rel=2e-3)
    assert found.meter == bar
    true = times(bpm)[4:-2]
    away = nearest(found.beats, true)
    assert np.abs(away).max() < 0.025, "one frame is 0.02"
    assert np.abs(np.median(away)) < 0.012
    assert np.abs(nearest(found.downbeats, times(bpm)[bar:-bar:bar])).max() < 0.03
    assert found.stability > 0.95
    assert 0 < found.bpm_confidence <= 1
    assert 0 <= found.second_odds <= 0.5
    assert min(abs(found.second_bpm / bpm - 2), abs(found.second_bpm / bpm - 0.5)) < 0.1


@pytest.mark.parametrize(("rate", "channels"), [(8000, 1), (44100, 2), (48000, 8), (192_000, 1)])
def test_any_rate_and_any_number_of_channels_are_the_same_music(rate, channels):
    audio = np.repeat(drums(120, 4, 10.0, rate=rate)[None], channels, axis=0)
    found = track_beats(audio, rate)
    assert found.bpm == pytest.approx(120, rel=5e-3)
    assert np.abs(nearest(found.beats, times(120, 10.0)[4:-2])).max() < 0.025


def test_how_loud_it_is_does_not_matter():
    soft, loud = (track_beats(gain * drums(120, 4, 10.0), RATE) for gain in (0.02, 1.0))
    np.testing.assert_allclose(soft.beats, loud.beats, atol=1e-4)
    assert soft.bpm == pytest.approx(loud.bpm, rel=1e-4)


def is_nothing(found: Beats) -> bool:
    values = (
        found.bpm,
        found.bpm_confidence,
        found.meter,
        found.stability,
        found.second_bpm,
        found.second_odds,
    )
    return not len(found.beats) and not len(found.downbeats) and all(value is None for value in values)


@pytest.mark.parametrize("samples", [0, 1, 441, 22050])
@pytest.mark.parametrize("level", [0.0, 0.5])
def test_the_shortest_and_the_silent_have_no_beat(samples, level):
    assert is_nothing(track_beats(np.full(samples, level, np.float32), RATE))


def test_noise_and_a_steady_tone_have_no_beat():
    time = np.arange(10 * RATE) / RATE
    noise = np.random.default_rng(0).standard_normal(len(time)).astype(np.float32)
    assert is_nothing(track_beats(0.1 * noise, RATE))
    assert is_nothing(track_beats(0.3 * np.sin(2 * np.pi * 440 * time), RATE))


def odds_of(period: float, frames: int = 1500, bar: int = 4, first: float = 10.0) -> np.ndarray:
    """Peaks three frames wide, wherever between frames they lie: float32 ``[frames, 2]``."""
    odds = np.full((frames, 2), 0.01)
    for number, centre in enumerate(np.arange(first, frames - 5, period)):
        shape = 0.8 * np.exp(-0.5 * ((np.arange(frames) - centre) / 1.0) ** 2)
        odds[:, 1 if number % bar == 0 else 0] += shape
    return np.minimum(odds, 0.9).astype(np.float32)


@pytest.mark.parametrize("period", [24.0, 25.37, 31.7])
def test_times_are_finer_than_frames(period):
    found = rhythm(heard(odds_of(period)))
    assert found.bpm == pytest.approx(3000 / period, rel=1e-3)
    true = np.arange(10.0, 1495, period) / 50
    assert np.abs(nearest(found.beats, true)).max() < 0.004
    assert found.meter == 4


def test_only_the_tempi_and_meters_that_were_asked_for():
    odds = heard(odds_of(25.0, bar=3))
    assert (rhythm(odds).meter, round(rhythm(odds).bpm)) == (3, 120)
    slow = rhythm(odds, BeatOptions(meters=(4,), min_bpm=40, max_bpm=100))
    assert (slow.meter, round(slow.bpm)) == (4, 60)
    assert slow.second_bpm is None, "120 is too fast, and 30 too slow"


def test_tempo_is_of_the_steady_part():
    beats = np.concatenate(
        [np.arange(20) * 0.5, 10 + np.array([0.3, 1.1, 1.9, 2.2]), 13 + np.arange(6) * 0.5]
    )
    assert tempo(beats) == pytest.approx(120, rel=1e-6)
    assert stability(np.arange(10) * 0.5) == pytest.approx(1)
    assert stability(np.cumsum([0.2, 0.9] * 8)) < 0.7


def test_a_beat_before_the_first_frame_has_no_time():
    found, strengths = beat_times(np.full((20, 2), 0.2), np.array([[-9, 0, 10], [1, 1, 10], [11, 2, 10]]))
    assert np.isnan(found[0])
    assert np.isfinite(found[1:]).all()
    np.testing.assert_allclose(strengths[1:], 0.4)


@pytest.mark.parametrize(("first", "then", "each"), [(0.4, 0.52, 4), (0.4, 0.5, 30), (0.6, 0.46, 4)])
def test_a_track_of_two_tempi_in_equal_parts_has_one_of_them(first, then, each):
    beats = np.cumsum([0.0] + [first] * each + [then] * each)
    assert tempo(beats) in (pytest.approx(60 / first), pytest.approx(60 / then))


def test_odds_that_are_no_numbers_are_no_beats():
    odds = np.full((300, 2), 0.1, np.float32)
    odds[100] = np.nan
    with pytest.raises(ValueError, match="NaN"):
        rhythm(heard(odds))
    with pytest.raises(ValueError, match="NaN"):
        track_beats(np.full(RATE, np.nan, np.float32), RATE)
