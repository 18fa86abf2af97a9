"""Curves: their makers by formula, their bounds by property, and what masking leaves of boosts."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

from pipeline.mastering.curves import (
    GRID_HZ,
    Curve,
    bark_of,
    bounded,
    flat,
    high_shelf,
    low_shelf,
    masked,
    masked_threshold_db,
    tilt,
    width,
)
from pipeline.mastering.spectrum import Spectrum, band_centres

OCTAVES = np.log2(GRID_HZ)


def at(curve: Curve, hz: float) -> tuple[float, float]:
    mid, side = curve.at([hz])
    return float(mid[0]), float(side[0])


def test_a_tilt_is_straight_and_ends_with_hearing():
    curve = tilt(-1.5, pivot_hz=2000.0)
    assert at(curve, 2000.0)[0] == pytest.approx(0.0, abs=1e-3)
    assert at(curve, 8000.0)[0] == pytest.approx(-3.0, abs=1e-3)
    assert at(curve, 125.0)[0] == pytest.approx(6.0, abs=1e-3)
    assert at(curve, 5.0) == at(curve, 18.5)
    assert curve.side_db is None
    assert at(curve, 400.0)[1] == at(curve, 400.0)[0]


def test_shelves():
    low, high = low_shelf(120.0, 4.0), high_shelf(6000.0, -3.0)
    assert at(low, 120.0)[0] == pytest.approx(2.0, abs=0.02)
    assert at(low, 19.0)[0] == pytest.approx(4.0, abs=0.15)
    assert abs(at(low, 3000.0)[0]) < 0.01
    assert at(high, 6000.0)[0] == pytest.approx(-1.5, abs=0.02)
    assert at(high, 19000.0)[0] == pytest.approx(-3.0, abs=0.3)
    assert abs(at(high, 300.0)[0]) < 0.01


def test_the_bass_becomes_mono_and_the_rest_wide():
    curve = width(3.0, from_hz=300.0, mono_below_hz=120.0)
    assert set(curve.mid_db) == {0.0}
    assert at(curve, 60.0)[1] < -59.0
    assert at(curve, 30.0)[1] == pytest.approx(-90.0)
    assert at(curve, 120.0)[1] == pytest.approx(-3.01 + 3.0 / (1 + (300 / 120) ** 2), abs=0.2)
    assert at(curve, 5000.0)[1] == pytest.approx(3.0, abs=0.02)
    side = np.array(curve.side_db)
    assert (np.diff(side) >= -1e-9).all()
    assert set(width(0.0).side_db) == {0.0}


def test_sums_and_shares():
    both = tilt(1.0).added(width(2.0))
    for hz in (50.0, 700.0, 9000.0):
        assert at(both, hz)[0] == pytest.approx(at(tilt(1.0), hz)[0], abs=1e-4)
        assert at(both, hz)[1] == pytest.approx(at(tilt(1.0), hz)[0] + at(width(2.0), hz)[1], abs=1e-4)
        assert at(both.scaled(0.25), hz)[1] == pytest.approx(at(both, hz)[1] / 4, abs=1e-4)
    assert both.scaled(0.0).flat
    assert flat().flat
    assert not both.flat
    assert both.added(flat()).mid_db == pytest.approx(
        [at(both, hz)[0] for hz in both.added(flat()).frequencies_hz], abs=1e-9
    )


def test_json_keeps_every_number():
    for curve in (tilt(0.7), width(1.0, mono_below_hz=90.0)):
        assert Curve.from_dict(json.loads(json.dumps(curve.to_dict()))) == curve
        assert hash(curve) == hash(Curve.from_dict(curve.to_dict()))


@pytest.mark.parametrize(
    "values",
    [((), ()), ((1.0, 2.0), (0.0,)), ((2.0, 1.0), (0.0, 0.0)), ((0.0,), (1.0,)), ((1.0,), (float("nan"),))],
)
def test_what_is_no_curve_is_refused(values):
    with pytest.raises(ValueError, match=r"a curve has|frequencies"):
        Curve(*values)


@pytest.mark.parametrize("seed", range(3))
def test_bounds_hold_for_any_curve(seed):
    rng = np.random.default_rng(seed)
    wild = Curve(GRID_HZ, tuple(rng.normal(0, 20, 61).tolist()), tuple(rng.normal(0, 20, 61).tolist()))
    curve = bounded(wild, max_db=5.0, max_slope_db_per_octave=6.0)
    for row in (np.array(curve.mid_db), np.array(curve.side_db)):
        assert np.abs(row).max() <= 5.0 + 1e-9
        assert np.abs(np.diff(row) / np.diff(OCTAVES)).max() <= 6.0 + 1e-9
        assert np.abs(row).max() > 0.5


def test_bounds_leave_gentle_curves_and_narrow_ones_are_not_shaped():
    gentle = tilt(1.0)
    np.testing.assert_allclose(
        bounded(gentle, max_db=12.0, max_slope_db_per_octave=6.0).mid_db, gentle.mid_db, atol=0.3
    )
    kept = bounded(gentle, max_db=12.0, max_slope_db_per_octave=6.0, hearing_bands=False)
    np.testing.assert_allclose(kept.mid_db, gentle.mid_db, atol=1e-9)
    spike = np.zeros(61)
    spike[12] = 6.0
    assert max(bounded(Curve(GRID_HZ, tuple(spike)), max_db=12.0, max_slope_db_per_octave=100.0).mid_db) < 3.5


def spectrum(levels: np.ndarray, held: np.ndarray | None = None) -> Spectrum:
    row = tuple(float(x) for x in levels)
    signal = tuple(bool(x) for x in (np.ones(len(row)) if held is None else held))
    return Spectrum(band_centres(len(row)), row, row, row, row, row, signal, signal)


BOOST = Curve(GRID_HZ, (4.0,) * 61, (4.0,) * 61)


def test_where_all_is_heard_boosts_stay():
    assert masked(BOOST, spectrum(np.full(61, -30.0))) == BOOST


def test_no_boost_behind_a_low_pass_and_cuts_stay():
    held = np.array(GRID_HZ) < 10000.0
    curve = masked(BOOST, spectrum(np.full(61, -30.0), held), max_slope_db_per_octave=12.0)
    gains = np.array(curve.mid_db)
    assert (gains[~held] == 0.0).all()
    assert (gains[np.array(GRID_HZ) < 7000.0] == 4.0).all()
    assert np.abs(np.diff(gains) / np.diff(OCTAVES)).max() <= 12.0 + 1e-9
    cut = Curve(GRID_HZ, (-4.0,) * 61)
    assert masked(cut, spectrum(np.full(61, -30.0), held)).mid_db == cut.mid_db


def test_no_boost_beside_a_masker():
    levels = np.full(61, -70.0)
    levels[34] = -10.0
    curve = masked(BOOST, spectrum(levels))
    masker = np.argmin(np.abs(np.array(GRID_HZ) - GRID_HZ[34]))
    # Upwards masking reaches further than downwards, and neither reaches far away.
    assert max(curve.mid_db[masker + 4 : masker + 8]) == 0.0
    assert curve.mid_db[masker] > 1.0
    assert curve.mid_db[0] == 4.0
    threshold = masked_threshold_db(band_centres(61), levels)
    assert threshold[masker + 8] > threshold[masker - 8] + 8.0


def test_masking_falls_by_the_slopes_of_schroeder():
    levels = np.full(61, -200.0)
    levels[34] = 0.0
    threshold = masked_threshold_db(band_centres(61), levels)
    centres = np.array(band_centres(61))
    bark = bark_of(centres)
    density = threshold - 10 * np.log10(
        np.minimum(bark_of(centres * 2 ** (1 / 12)) - bark_of(centres * 2 ** (-1 / 12)), 1.0)
    )
    up = np.flatnonzero(bark > bark[34] + 3)
    down = np.flatnonzero(bark < bark[34] - 3)
    assert np.polyfit(bark[up], density[up], 1)[0] == pytest.approx(-10.0, abs=0.5)
    assert np.polyfit(bark[down], density[down], 1)[0] == pytest.approx(25.0, abs=0.5)


def test_mono_songs_are_masked_in_mid_only():
    mono = dataclasses.replace(spectrum(np.full(61, -30.0), np.zeros(61)), side_db=None, side_signal=None)
    curve = masked(BOOST, mono)
    assert set(curve.mid_db) == {0.0}
    assert curve.side_db == BOOST.side_db
