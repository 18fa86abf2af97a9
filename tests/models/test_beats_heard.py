"""What rises of the sound say of beats: music without drums has them, and what begins at random has none."""

from __future__ import annotations

import numpy as np
import pytest
from helpers.music_weights import beatnet  # noqa: F401  a fixture

from pipeline.audio.reader import ArrayReader
from pipeline.models.beats import heard as module
from pipeline.models.beats import track_beats
from pipeline.models.beats.heard import Heard
from pipeline.models.beats.network import load_ensemble
from pipeline.models.beats.rhythm import LEAST_UNREST, is_beat, rhythm
from pipeline.models.beats.tracker import BeatTracker

RATE = 22050


def heard_of(odds: np.ndarray, rises: np.ndarray, level: float) -> Heard:
    return Heard(odds, rises, np.zeros(len(odds), np.float32), level)


def unsure(frames: int = 1000, period: int = 25) -> Heard:
    """The same odds in each frame, and rises at the beats."""
    rises = np.full(frames, 0.01, np.float32)
    rises[10::period] = 0.4
    return heard_of(np.full((frames, 2), [0.1, 0.05], np.float32), rises, 0.4)


def test_where_odds_are_all_alike_rises_tell_the_beats():
    heard = unsure()
    found = heard.activations()
    at = np.zeros(len(found), bool)
    at[10::25] = True
    assert found[at].sum(axis=1).min() > 0.9
    assert found[~at].sum(axis=1).max() < 0.1
    np.testing.assert_allclose(found[:, 0] / found[:, 1], 2.0, rtol=1e-4)
    assert rhythm(heard).bpm == pytest.approx(120, rel=0.01)
    assert rhythm(heard_of(heard.odds, np.full(1000, 0.05, np.float32), 0.4)).bpm is None


def test_odds_with_rises_are_odds_and_do_not_depend_on_pieces_or_levels(monkeypatch):
    rng = np.random.default_rng(0)
    odds = rng.dirichlet([1, 1, 3], 700)[:, :2].astype(np.float32)
    odds[:3] = [[0, 0], [1, 0], [0, 1]]
    rises = rng.exponential(0.1, 700).astype(np.float32)
    whole = heard_of(odds, rises, 0.5).activations()
    assert whole.dtype == np.float32
    assert whole.min() >= 0
    assert whole.sum(axis=1).max() <= 1 + 1e-6
    np.testing.assert_allclose(heard_of(odds, 7 * rises, 3.5).activations(), whole, atol=1e-3)
    monkeypatch.setattr(module, "_PIECE", 64)
    np.testing.assert_array_equal(heard_of(odds, rises, 0.5).activations(), whole)


@pytest.mark.parametrize("frames", [0, 1, 2, 50])
def test_few_frames_and_silence(frames):
    heard = heard_of(np.full((frames, 2), 0.1, np.float32), np.zeros(frames, np.float32), 0.0)
    assert heard.activations().shape == (frames, 2)
    assert heard.unrest == 0.0


def test_unrest_is_the_share_that_rises():
    assert unsure().unrest == pytest.approx((0.04 * 0.39 + 0.01) / 0.4, rel=1e-3)


def test_what_is_too_steady_or_too_restless_has_no_beat():
    assert is_beat(0.6, 0.2, 0.12)
    assert not is_beat(0.6, 0.2, LEAST_UNREST / 2), "a tone whose odds ripple"
    assert not is_beat(0.6, 0.7, 0.25), "speech"
    assert not is_beat(0.2, 0.2, 0.15), "noise"


def chords(bpm: float, seconds: float = 20.0) -> np.ndarray:
    """Soft chords, a new one each beat, with an attack of 60 ms and no drum; float32 ``[samples]``."""
    rng = np.random.default_rng(1)
    audio = np.zeros(int((seconds + 2) * RATE))
    length = 60 / bpm
    time = np.arange(int(1.3 * length * RATE)) / RATE
    shape = np.minimum(time / 0.06, 1) * np.clip((1.25 * length - time) / (0.3 * length), 0, 1)
    for number in range(int(seconds / length)):
        notes = 220 * 2 ** (rng.choice([0, 2, 4, 5, 7, 9, 11, 12], 4, replace=False) / 12)
        chord = sum(np.sin(2 * np.pi * note * part * time) / part**2 for note in notes for part in (1, 2, 3))
        start = int(number * length * RATE)
        audio[start : start + len(time)] += 0.05 * shape * chord
    return audio[: int(seconds * RATE)].astype(np.float32)


@pytest.mark.parametrize("bpm", [84, 110])
def test_chords_without_drums_have_the_beats_they_begin_at(beatnet, bpm):  # noqa: F811
    audio = chords(bpm)
    found = track_beats(audio, RATE)
    assert found.bpm == pytest.approx(bpm, rel=0.01)
    true = np.arange(4, int(19 * bpm / 60)) * 60 / bpm
    away = np.abs(found.beats[None] - true[:, None]).min(axis=1)
    assert np.median(away) < 0.05
    [heard] = BeatTracker(load_ensemble()).hear([ArrayReader(audio[None])])
    alone = rhythm(heard_of(heard.odds, np.full(len(heard.rises), heard.rises.mean()), heard.level))
    assert alone.strength < found.strength


def test_what_begins_at_random_has_no_beat(beatnet):  # noqa: F811
    rng = np.random.default_rng(5)
    for each_s in (2, 6):
        audio = np.zeros(20 * RATE, np.float32)
        burst = np.exp(-np.arange(2000) / 400)
        for start in rng.integers(0, len(audio) - 2000, 20 * each_s):
            audio[start : start + 2000] += 0.4 * rng.random() * burst * rng.standard_normal(2000)
        assert track_beats(audio, RATE).bpm is None
