"""The long-term spectrum: known levels, any pieces, what counts as loud, and bands that hold nothing or noise."""

from __future__ import annotations

import json

import numpy as np
import pytest
from helpers.signals import music, one_thread  # noqa: F401  fixtures

from pipeline.mastering import spectrum_meter as module
from pipeline.mastering.spectrum import (
    SILENT_DB,
    Spectrum,
    average,
    spectral_distance_db,
    third_octave_db,
)
from pipeline.mastering.spectrum_meter import SpectrumMeter

RATE = 44100


def measured(samples: np.ndarray, rate: int = RATE, piece: int | None = None) -> Spectrum:
    meter = SpectrumMeter(rate, len(samples))
    for start in range(0, samples.shape[1], piece or max(1, samples.shape[1])):
        meter.add(samples[:, start : start + (piece or samples.shape[1])])
    return meter.result()


def noise(channels: int, samples: int, seed: int = 0) -> np.ndarray:
    return (0.1 * np.random.default_rng(seed).standard_normal((channels, samples))).astype(np.float32)


@pytest.mark.parametrize(("rate", "channels"), [(8000, 1), (44100, 2), (48000, 8), (192000, 2)])
def test_pieces_change_no_bit(rate, channels):
    samples = noise(channels, 2 * rate + 17)
    whole = measured(samples, rate)
    for piece in (1237, 65536):
        assert measured(samples, rate, piece) == whole


@pytest.mark.parametrize("rate", [8000, 44100, 96000])
def test_a_sine_has_its_level_in_its_band(rate):
    hz = 1000.0 * 2.0 ** (1 / 12)
    tone = 0.5 * np.sin(2 * np.pi * hz * np.arange(8 * rate) / rate)
    # Faded, for a tone that breaks off is heard in all bands.
    tone *= np.clip(np.minimum(np.arange(8 * rate), np.arange(8 * rate)[::-1]) / rate, 0.0, 1.0)
    spectrum = measured(np.stack([tone, tone]).astype(np.float32), rate)
    band = int(np.argmin(np.abs(np.log(np.array(spectrum.frequencies_hz) / hz))))
    assert spectrum.frequencies_hz[band] == pytest.approx(hz)
    assert spectrum.mid_db[band] == pytest.approx(-9.03, abs=0.2)
    assert max(np.delete(spectrum.mid_db, [band - 1, band, band + 1])) < -60.0
    # Equal channels have no side at all.
    assert set(spectrum.side_db) == {SILENT_DB}
    assert not any(spectrum.side_signal)


def test_mid_and_side_are_half_the_sum_and_half_the_difference():
    one, other = noise(1, RATE, 1)[0], noise(1, RATE, 2)[0]
    stereo = measured(np.stack([one, other]))
    mid, side = (measured(row[None]) for row in ((one + other) / 2, (one - other) / 2))
    np.testing.assert_allclose(stereo.mean_mid_db, mid.mean_mid_db, atol=1e-3)
    np.testing.assert_allclose(stereo.mean_side_db, side.mean_mid_db, atol=1e-3)
    assert mid.side_db is None
    assert measured(noise(3, 1000)).side_db is None


def test_bands_of_white_noise_add_up_to_its_power():
    samples = noise(1, 20 * RATE)
    spectrum = measured(samples)
    edges = np.array(spectrum.frequencies_hz)[[0, -1]] * 2.0 ** (np.array([-1, 1]) / 12)
    power = np.sum(10.0 ** (np.array(spectrum.mean_mid_db) / 10.0))
    assert power == pytest.approx(np.square(samples).mean() * np.diff(edges)[0] / (RATE / 2), rel=0.01)
    # Three dB per octave in bands of constant relative width, and independent of the resolution at the lowest.
    octaves = np.log2(spectrum.frequencies_hz)
    assert np.polyfit(octaves[12:], spectrum.mean_mid_db[12:], 1)[0] == pytest.approx(3.01, abs=0.05)


def test_quiet_parts_do_not_count_among_the_loudest():
    time = np.arange(10 * RATE) / RATE
    loud, quiet = 0.5 * np.sin(2 * np.pi * 440 * time), 0.05 * np.sin(2 * np.pi * 3000 * time)
    spectrum = measured(np.concatenate([loud, quiet])[None].astype(np.float32))
    at = [int(np.argmin(np.abs(np.array(spectrum.frequencies_hz) - hz))) for hz in (440, 3000)]
    assert spectrum.mid_db[at[0]] == pytest.approx(spectrum.mean_mid_db[at[0]] + 3.01, abs=0.4)
    assert spectrum.mean_mid_db[at[1]] == pytest.approx(-29.03 - 3.01, abs=0.4)
    assert spectrum.mid_db[at[1]] < spectrum.mean_mid_db[at[1]] - 5.0


def test_silence_nothing_and_one_sample():
    for samples in (np.zeros((2, 3 * RATE), np.float32), np.zeros((2, 0), np.float32)):
        spectrum = measured(samples)
        assert set(spectrum.mid_db + spectrum.side_db + spectrum.quiet_db) == {SILENT_DB}
        assert not any(spectrum.mid_signal + spectrum.side_signal)
        assert spectral_distance_db(spectrum, spectrum) == (None, None)
    one = measured(np.ones((1, 1), np.float32))
    # The spectrum of a click is white.
    octaves = np.log2(one.frequencies_hz)
    assert np.polyfit(octaves, one.mid_db, 1)[0] == pytest.approx(3.01, abs=0.1)


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e25])
def test_what_is_no_number_is_refused(bad):
    samples = noise(2, 3 * RATE)
    samples[1, 1000] = bad
    with np.errstate(all="ignore"), pytest.raises(ValueError, match="NaN, infinity"):
        measured(samples)


def test_long_songs_keep_a_bounded_number_of_parts(monkeypatch):
    samples = noise(2, 30 * 8000) * np.linspace(0.1, 1.0, 30 * 8000, dtype=np.float32)
    before = measured(samples, 8000)
    monkeypatch.setattr(module, "_MOST_PARTS", 8)
    meter = SpectrumMeter(8000, 2)
    for start in range(0, samples.shape[1], 10000):
        meter.add(samples[:, start : start + 10000])
        assert len(meter._parts.all()[1]) <= 8
    np.testing.assert_allclose(meter.result().mean_mid_db, before.mean_mid_db, atol=1e-3)


def test_a_result_may_be_asked_for_in_between():
    samples = noise(2, 3 * RATE)
    meter = SpectrumMeter(RATE, 2)
    meter.add(samples[:, :50000])
    assert meter.result() == measured(samples[:, :50000])
    meter.add(samples[:, 50000:])
    assert meter.result() == measured(samples)


def low_passed(samples: np.ndarray, hz: float) -> np.ndarray:
    transformed = np.fft.rfft(samples, axis=1)
    transformed[:, np.fft.rfftfreq(samples.shape[1], 1 / RATE) > hz] = 0.0
    return np.fft.irfft(transformed, samples.shape[1], axis=1).astype(np.float32)


def test_behind_a_low_pass_is_no_signal(music):  # noqa: F811
    for song in music.values():
        song = song[:, : 20 * RATE]
        assert all(measured(song).mid_signal)
        cut = measured(low_passed(song, 10000.0))
        held = np.array(cut.mid_signal)
        centres = np.array(cut.frequencies_hz)
        assert held[centres < 9000.0].all()
        assert not held[centres > 11500.0].any()


def test_noise_that_stands_still_while_the_song_moves_is_no_signal():
    time = np.arange(40 * RATE) / RATE
    beat = np.where(time % 4 < 2, 1.0, 0.05)
    rng = np.random.default_rng(5)
    song = low_passed((rng.standard_normal((1, len(time))) * beat * 0.2), 5000.0)
    hiss = 0.003 * rng.standard_normal((1, len(time))).astype(np.float32)
    spectrum = measured(song + hiss)
    held, centres = np.array(spectrum.mid_signal), np.array(spectrum.frequencies_hz)
    assert held[(centres > 100.0) & (centres < 4500.0)].all()
    assert not held[centres > 5700.0].any()
    # The same noise alone is all the music there is.
    assert all(np.array(measured(hiss * 10).mid_signal)[12:])


def test_a_plan_can_hold_it():
    spectrum = measured(noise(2, RATE))
    again = Spectrum.from_dict(json.loads(json.dumps(spectrum.to_dict())))
    np.testing.assert_allclose(again.mid_db, spectrum.mid_db, atol=5e-4)
    assert again.side_signal == spectrum.side_signal
    assert Spectrum.from_dict(again.to_dict()) == again
    assert measured(noise(1, RATE)).to_dict()["side_db"] is None


def test_distance_is_of_the_shape_only():
    samples = noise(2, 5 * RATE)
    spectrum, louder = measured(samples), measured(samples * np.float32(0.25))
    assert spectral_distance_db(spectrum, louder) == pytest.approx((0.0, 0.0), abs=1e-3)
    # 6 dB up in half of the third-octaves from 50 Hz to 16 kHz, and down in none, is 3 dB RMS about the mean.
    centres = np.array(spectrum.frequencies_hz)
    other = Spectrum.from_dict(
        {**spectrum.to_dict(), "mid_db": spectrum.mid_db + 6.0 * (centres > 1000 * 2 ** (-1 / 6))}
    )
    mid, side = spectral_distance_db(spectrum, other)
    assert mid == pytest.approx(3.0, abs=0.01)
    assert side == pytest.approx(0.0, abs=1e-3)


def test_third_octaves_are_those_of_the_standard():
    thirds = third_octave_db(measured(noise(1, RATE)))
    assert thirds.frequencies_hz[[0, 17, 29]] == pytest.approx([19.69, 1000.0, 16000.0], rel=1e-3)
    assert thirds.mid_db[17] - thirds.mid_db[14] == pytest.approx(3.01, abs=0.6)


def test_references_average_in_shape_whatever_their_levels():
    one, other = measured(noise(2, RATE, 1)), measured(noise(2, RATE, 2) * np.float32(0.1))
    both = average([one, other])
    shape = np.array(both.mid_db) - (np.array(one.mid_db) + np.array(other.mid_db)) / 2
    assert np.ptp(shape) < 1e-6
    assert average([one]) == one
    assert average([one, measured(noise(1, RATE))]).side_db is not None
    # One that reaches further gives what the others do not have.
    assert len(average([one, measured(noise(2, 8000), 8000)]).mid_db) == len(one.mid_db)
    with pytest.raises(ValueError, match="no spectrum"):
        average([])
