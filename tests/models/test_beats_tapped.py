"""Which tempo is tapped: its accents are those of the extractor, and a path of another octave gives way to it."""

from __future__ import annotations

import numpy as np
import pytest
from helpers.heard import heard

from pipeline.audio import synth
from pipeline.audio.reader import ArrayReader
from pipeline.dsp.onsets import OnsetCurve
from pipeline.features.spectra import SharedSpectra
from pipeline.models.beats import tapped as module
from pipeline.models.beats.rhythm import rhythm
from pipeline.models.beats.tapped import TappedTempi, accents, tapped

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


def test_the_tempo_of_drums_is_tapped():
    found = tapped(reader(synth.drum_pattern(100, 12, RATE, seed=1)), 40.0, 300.0)
    assert found.likeliest == pytest.approx(100, rel=0.01)
    assert found.confidence(100.0) > 0.7 > 0.5 > found.confidence(50.0)
    assert found.confidence(77.7) == 0.0


@pytest.mark.parametrize("samples", [0, 1, 600, 3000])
def test_of_next_to_nothing_no_tempo_is_tapped(samples):
    found = tapped(reader(np.ones(samples)), 40.0, 300.0)
    assert found.likeliest is None
    assert found.confidence(120.0) == 0.0


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
