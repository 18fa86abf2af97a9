"""The period that a listener would tap, of curves whose beat is known."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.dsp.beat_period import (
    LAGS_PER_FRAME,
    ODDS,
    RELATIVES,
    PeriodOdds,
    TempoSearch,
    correlations,
    estimate_tempo,
    periods,
)

RATE = 22050 / 512


def pulses(
    bpm: float, seconds: float, strengths: tuple[float, ...] = (1.0,), per_beat: int = 1
) -> np.ndarray:
    """Accents of these ``strengths`` in turn, so many for a beat, as an envelope of ``RATE``."""
    curve = np.zeros(round(seconds * RATE))
    at = np.arange(0.1, seconds - 0.1, 60.0 / bpm / per_beat)
    for number, second in enumerate(at):
        place, share = divmod(second * RATE, 1.0)
        curve[int(place)] += strengths[number % len(strengths)] * (1.0 - share)
        curve[int(place) + 1] += strengths[number % len(strengths)] * share
    return curve


def found(curve: np.ndarray, search: TempoSearch | None = None) -> float | None:
    """The tempo of a curve that is both strength and accents."""
    tempo = estimate_tempo(curve, curve, np.flatnonzero(curve > 0.2), RATE, search or TempoSearch())
    return tempo.bpm if tempo else None


@pytest.mark.parametrize("bpm", [70.0, 97.3, 131.0])
def test_correlations_of_pulses_are_high_at_multiples_and_low_at_parts(bpm):
    fine = correlations(pulses(bpm, 30), RATE)
    heard = periods(fine, RATE, TempoSearch())
    assert fine[0] == pytest.approx(1.0)
    nearest = int(np.argmin(np.abs(heard.seconds - 60.0 / bpm)))
    assert heard.seconds[nearest] == pytest.approx(60.0 / bpm, abs=1.0 / RATE / LAGS_PER_FRAME)
    evidence = dict(zip(RELATIVES, heard.evidence[nearest], strict=True))
    assert min(evidence[k] for k in (1, 2, 3, 4)) > 0.9
    assert max(evidence[k] for k in (1 / 2, 1 / 3, 1 / 4, 2 / 3, 3 / 4, 3 / 2)) < 0.1


@pytest.mark.parametrize(
    ("strengths", "per_beat"),
    [
        ((1.0, 0.3), 2),  # off-beats
        ((1.0, 0.2, 0.2), 3),  # triplets
        ((1.0, 0.2, 0.3, 0.2), 4),  # sixteenths
    ],
)
@pytest.mark.parametrize("bpm", [84.0, 108.0, 126.0])
def test_what_lies_between_the_beats_is_not_taken_for_them(strengths, per_beat, bpm):
    assert found(pulses(bpm, 30, strengths, per_beat)) == pytest.approx(bpm, rel=0.005)


def test_chances_and_that_of_no_beat_add_up_to_one():
    heard = periods(correlations(pulses(120, 20, (1.0, 0.3), 2), RATE), RATE, TempoSearch())
    sure, unsure = (
        PeriodOdds(ODDS.weights, no_beat).likelihood(heard, TempoSearch()) for no_beat in (-50, 50)
    )
    assert sure.sum() == pytest.approx(1.0)
    assert unsure.sum() == pytest.approx(0.0)
    assert np.argmax(sure) == np.argmax(unsure)
    assert ODDS.confidence(0.0) == 0.0
    assert ODDS.confidence(0.5) > 0.5
    assert ODDS.confidence(1.0) == 1.0


def test_the_prior_decides_between_octaves():
    curve = pulses(150, 30, (1.0, 0.9))
    assert found(curve, TempoSearch(prior_bpm=75, prior_octaves=0.2)) == pytest.approx(75, rel=0.005)
    assert found(curve, TempoSearch(prior_bpm=150, prior_octaves=0.2)) == pytest.approx(150, rel=0.005)


@pytest.mark.parametrize("frames", [0, 1, 2, 10, 90])
def test_short_and_constant_curves_have_no_period(frames):
    for curve in (np.zeros(frames), np.ones(frames), (np.arange(frames) == 0).astype(float)):
        fine = correlations(curve, RATE, np.flatnonzero(curve)[:1])
        assert fine is None or periods(fine, RATE, TempoSearch()) is None
