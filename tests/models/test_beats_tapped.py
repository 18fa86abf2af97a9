"""Which tempo is tapped: its accents are those of the extractor, and a path of another octave gives way to it."""

from __future__ import annotations

import numpy as np
import pytest
from helpers.heard import heard
from helpers.music_weights import beatnet  # noqa: F401  a fixture

from pipeline.audio import synth
from pipeline.audio.reader import ArrayReader
from pipeline.dsp.beat_period import TempoSearch
from pipeline.dsp.onsets import OnsetCurve
from pipeline.features.spectra import SharedSpectra
from pipeline.models.beats import tapped as module
from pipeline.models.beats.network import load_ensemble
from pipeline.models.beats.rhythm import rhythm
from pipeline.models.beats.tapped import (
    ACCENTS_PER_SECOND,
    ODDS,
    TappedTempi,
    accents,
    tapped,
    tapped_periods,
)
from pipeline.models.beats.tracker import BeatTracker

RATE = 22050


def reader(samples: np.ndarray) -> ArrayReader:
    return ArrayReader(np.asarray(samples, np.float32)[None])


@pytest.mark.parametrize("frames", [7, 1024])
def test_accents_are_those_of_the_extractor_however_they_are_read(monkeypatch, frames):
    monkeypatch.setattr(module, "_FRAMES", frames)
    samples = synth.drum_pattern(100, 5, RATE, seed=1).astype(np.float32)
    curve = OnsetCurve(2048, 512)
    curve.add(SharedSpectra(samples, RATE, samples[None], RATE).rises(2048, 512, 128))
    expected = curve.accents()[curve.delay :]
    found = accents(reader(samples))[: len(expected)]
    # Only the course counts: the extractor's are relative to the loudest.
    np.testing.assert_allclose(found / found.max(), expected / expected.max(), atol=1e-4)


def test_the_tempo_of_drums_is_tapped(beatnet):  # noqa: F811
    drums = reader(synth.drum_pattern(100, 12, RATE, seed=1))
    [known] = BeatTracker(load_ensemble()).hear([drums])
    found = tapped(drums, known, 40.0, 300.0)
    assert found.likeliest == pytest.approx(100, rel=0.01)
    assert found.confidence(100.0) > 0.7 > 0.5 > found.confidence(50.0)
    assert found.confidence(77.7) == 0.0


@pytest.mark.parametrize("samples", [0, 1, 600, 3000])
def test_of_next_to_nothing_no_tempo_is_tapped(samples):
    found = tapped(reader(np.ones(samples)), heard(np.zeros((-(-samples // 441), 2))), 40.0, 300.0)
    assert found.likeliest is None
    assert found.confidence(120.0) == 0.0


def test_turns_say_what_accents_do_not():
    """Even strokes twice a beat, and turns of the harmony as often or half as often."""
    strokes, curves = np.zeros(round(20 * ACCENTS_PER_SECOND)), []
    strokes[(np.arange(0.2, 19.9, 0.36) * ACCENTS_PER_SECOND).astype(int)] = 1.0
    for period in (0.36, 0.72):
        turns = np.zeros(1000)
        turns[np.round(np.arange(0.2, 19.9, period) * 50).astype(int)] = 0.5
        curves.append(turns)
    often, seldom = (tapped_periods(strokes, [turns, np.zeros(1000)], TempoSearch()) for turns in curves)
    assert often.evidence.shape == (len(often.seconds), len(ODDS.weights)) == (len(often.seconds), 3 * 12)
    assert (often.evidence[:, 24:] == 0).all(), "what does not vary says nothing"
    np.testing.assert_array_equal(often.evidence[:, :12], seldom.evidence[:, :12])
    slow, fast = (int(np.argmin(np.abs(often.seconds - seconds))) for seconds in (0.72, 0.36))
    assert often.evidence[fast, 12] > 0.9
    assert seldom.evidence[fast, 12] < 0.1
    assert min(often.evidence[slow, 12], seldom.evidence[slow, 12]) > 0.9


def odds(*bpm: float, seconds: float = 24.0) -> np.ndarray:
    """Odds of beats of these tempi one after the other, every fourth a downbeat; float32 ``[frames, 2]``."""
    found = np.full((round(seconds * 50 * len(bpm)), 2), 0.01, np.float32)
    for part, tempo in enumerate(bpm):
        for number, second in enumerate(np.arange(0.2, seconds, 60.0 / tempo)):
            frame = round((part * seconds + second) * 50)
            found[frame : frame + 1, int(number % 4 == 0)] = 0.9
    return found


def only(bpm: float) -> TappedTempi:
    return TappedTempi(np.array([bpm]), np.array([0.9]))


def test_a_steady_path_gives_way_to_the_octave_that_is_tapped():
    assert rhythm(heard(odds(150))).bpm == pytest.approx(150, rel=0.01)
    found = rhythm(heard(odds(150)), tempi=only(75))
    assert found.bpm == pytest.approx(75, rel=0.01)
    assert found.bpm_confidence > 0.9


def test_where_the_tempo_changes_no_one_tempo_stands_for_it():
    found = rhythm(heard(odds(75, 133)), tempi=only(133))
    intervals = np.diff(found.beats)
    assert np.sum(np.abs(intervals - 60 / 75) < 0.03) > 20
    assert np.sum(np.abs(intervals - 60 / 133) < 0.03) > 40


def test_nobody_knows_how_sure_a_tempo_is_that_nobody_taps():
    assert rhythm(heard(odds(120))).bpm_confidence is None
    none = TappedTempi(np.empty(0), np.empty(0))
    assert rhythm(heard(odds(120)), tempi=none).bpm_confidence == 0.0
