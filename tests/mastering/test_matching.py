"""Matching: a known equaliser is found again, real songs come near each other, and what must not be boosted is not."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from helpers.signals import music, one_thread  # noqa: F401  fixtures

from pipeline.mastering.curves import Curve, high_shelf, tilt, width
from pipeline.mastering.equalizer import Equalizer, design
from pipeline.mastering.matching import COMMERCIAL, Target, match, toward
from pipeline.mastering.spectrum import Spectrum, band_centres, spectral_distance_db
from pipeline.mastering.spectrum_meter import SpectrumMeter

RATE = 44100


def measured(samples: np.ndarray) -> Spectrum:
    meter = SpectrumMeter(RATE, len(samples))
    meter.add(samples)
    return meter.result()


def rendered(samples: np.ndarray, curve: Curve) -> np.ndarray:
    equalizer = Equalizer(design(curve, RATE), len(samples))
    return np.concatenate([equalizer.push(samples), equalizer.finish()], axis=1)


def spectrum(mid: np.ndarray, side: np.ndarray | None = None, held: np.ndarray | None = None) -> Spectrum:
    rows = [None if row is None else tuple(float(x) for x in row) for row in (mid, side)]
    signal = tuple(bool(x) for x in (np.ones(len(mid)) if held is None else held))
    return Spectrum(
        frequencies_hz=band_centres(len(mid)),
        mid_db=rows[0],
        side_db=rows[1],
        mean_mid_db=rows[0],
        mean_side_db=rows[1],
        quiet_db=rows[0],
        mid_signal=signal,
        side_signal=None if side is None else signal,
    )


PINK = np.full(60, -30.0)


def gains(curve: Curve, low: float = 50.0, high: float = 15000.0) -> tuple[np.ndarray, np.ndarray]:
    hz = np.geomspace(low, high, 40)
    return curve.at(hz)


def test_a_known_equaliser_is_found_again(music):  # noqa: F811
    song = next(iter(music.values()))[:, : 20 * RATE]
    made = tilt(1.2).added(high_shelf(5000.0, -3.0)).added(width(2.0))
    found = match(measured(song), measured(rendered(song, made)))
    # Loudness is not the equaliser's: one constant, that of mid, lies between them.
    constant = float(np.mean(gains(made)[0] - gains(found)[0]))
    # A band of side may hold no more than the skirts of a note in the next one: here around 90 Hz.
    for row, low, within in ((0, 50.0, 1.0), (1, 125.0, 1.0), (1, 50.0, 2.0)):
        np.testing.assert_allclose(gains(found, low)[row] + constant, gains(made, low)[row], atol=within)
    half = match(measured(song), measured(rendered(song, made)), amount=0.5)
    np.testing.assert_allclose(half.mid_db, np.array(found.mid_db) / 2)


def test_one_song_comes_near_the_other(music):  # noqa: F811
    songs = [song[:, : 20 * RATE] for song in music.values()]
    spectra = [measured(song) for song in songs]
    for ours, theirs in ((0, 1), (1, 0)):
        before = spectral_distance_db(spectra[ours], spectra[theirs])
        master = measured(rendered(songs[ours], match(spectra[ours], spectra[theirs])))
        after = spectral_distance_db(master, spectra[theirs])
        # Twenty seconds of two songs, in other keys: further apart than the songs, and more than 12 dB in some bands.
        assert before.mid_db > 4.0
        assert after.mid_db < 0.3 * before.mid_db
        assert after.side_db < 0.55 * before.side_db


def test_a_song_that_is_its_own_reference_stays():
    song = spectrum(PINK + 5 * np.sin(np.arange(60)), PINK - 10)
    assert np.abs(match(song, song).mid_db).max() < 1e-6
    louder = spectrum(np.array(song.mid_db) + 7.0, PINK - 3)
    curve = match(song, louder)
    assert np.abs(curve.mid_db).max() < 1e-6
    assert np.abs(curve.side_db).max() < 1e-6


def test_the_width_follows_the_reference():
    narrow, wide = spectrum(PINK, PINK - 20.0), spectrum(PINK - 8.0, PINK - 8.0 - 14.0)
    curve = match(narrow, wide)
    assert np.abs(curve.mid_db).max() < 1e-6
    np.testing.assert_allclose(curve.side_db, 6.0, atol=1e-6)


@pytest.mark.parametrize("other", ["mono", "equal channels"])
def test_without_width_to_match_side_goes_with_mid(other):
    song = spectrum(PINK, PINK - 20.0)
    tilted = PINK + np.linspace(-3, 3, 60)
    reference = spectrum(tilted)
    if other == "equal channels":
        reference = dataclasses.replace(
            reference, side_db=(-200.0,) * 60, mean_side_db=(-200.0,) * 60, side_signal=(False,) * 60
        )
    curve = match(song, reference)
    assert np.ptp(curve.mid_db) > 4.0
    np.testing.assert_array_equal(gains(curve)[1], gains(curve)[0])
    assert match(reference, reference).mid_db == pytest.approx(
        [0.0] * len(match(reference, reference).mid_db)
    )


def test_gains_are_bounded():
    rng = np.random.default_rng(1)
    song, reference = (spectrum(PINK + rng.normal(0, 15, 60), PINK + rng.normal(0, 15, 60)) for _ in range(2))
    curve = match(song, reference, max_db=5.0, max_slope_db_per_octave=9.0)
    for row in (curve.mid_db, curve.side_db):
        assert np.abs(row).max() <= 5.0 + 1e-9
        assert np.abs(np.diff(row) / np.diff(np.log2(curve.frequencies_hz))).max() <= 9.0 + 1e-9


def test_no_boost_where_the_song_holds_nothing():
    held = np.array(band_centres(60)) < 10000.0
    song = spectrum(np.where(held, PINK, -95.0), None, held)
    brighter = spectrum(PINK + np.linspace(-4.0, 4.0, 60))
    curve = match(song, brighter)
    above = np.array(curve.frequencies_hz) > 12000.0
    assert (np.array(curve.mid_db)[above] <= 1e-9).all()
    assert max(curve.mid_db) > 1.5
    # And a reference that ends there takes nothing from what the song has above.
    kept = match(brighter, spectrum(np.where(held, PINK + np.linspace(-4.0, 4.0, 60), -95.0), None, held))
    assert np.abs(np.array(kept.mid_db)).max() < 1.0


def test_silence_and_other_rates_match_nothing_and_what_both_have():
    silent = spectrum(np.full(60, -200.0), np.full(60, -200.0), np.zeros(60))
    song = spectrum(PINK, PINK - 10)
    for curve in (match(silent, song), match(song, silent), toward(silent)):
        assert curve.flat
    low = spectrum(PINK[:47])
    assert match(song, low).frequencies_hz[-1] < 4000.0
    empty = spectrum(PINK[:0])
    assert match(empty, song).flat
    assert toward(empty).flat


def on_target(target: Target = COMMERCIAL) -> np.ndarray:
    return target.at(band_centres(60))[0] - 30.0


def test_nothing_is_done_where_nothing_is_needed():
    inside = on_target() + 2.0 * np.sin(np.arange(60) / 7)
    assert np.abs(toward(spectrum(inside)).mid_db).max() < 0.05


@pytest.mark.parametrize("excess", [8.0, -8.0])
def test_what_lies_beyond_comes_to_the_edge(excess):
    centres = np.array(band_centres(60))
    wrong = on_target() + excess * np.exp(-0.5 * (np.log2(centres / 1000.0) / 0.8) ** 2)
    curve = toward(spectrum(wrong), max_slope_db_per_octave=12.0)
    mid, side = curve.at([1000.0])
    assert side == mid
    assert np.sign(mid[0]) == -np.sign(excess)
    assert 1.0 < abs(mid[0]) < 5.0
    assert np.abs(curve.at([60.0, 15000.0])[0]).max() < 0.5
    assert toward(spectrum(wrong), amount=0.5).mid_db == pytest.approx(
        np.array(toward(spectrum(wrong)).mid_db) / 2
    )


def test_the_correction_is_bounded_and_leaves_empty_bands():
    dull = on_target() - np.linspace(0.0, 60.0, 60)
    held = np.array(band_centres(60)) < 7000.0
    curve = toward(spectrum(dull, None, held), max_db=4.0)
    assert np.abs(curve.mid_db).max() <= 4.0 + 1e-9
    assert max(np.array(curve.mid_db)[~held]) <= 1e-9


def test_real_songs_need_little(music):  # noqa: F811
    for song in music.values():
        assert np.abs(toward(measured(song[:, : 20 * RATE])).mid_db).max() < 6.0
