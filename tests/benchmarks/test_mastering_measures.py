"""The meters of the mastering benchmark, against signals whose figures are known."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.append(str(Path(__file__).resolve().parents[2] / "benchmarks"))

import mastering_measures as measures

RATE = 44100


def noise(seconds: float, seed: int = 0, channels: int = 2) -> np.ndarray:
    return 0.1 * np.random.default_rng(seed).standard_normal((channels, round(seconds * RATE)))


@pytest.mark.parametrize("level_db", [-20.0, -6.0])
def test_a_stereo_sine_of_1_khz_is_as_loud_as_its_peak_says(level_db):
    # BS.1770: 997 Hz at 0 dBFS in one channel is -3.01 LUFS; in both, 3.01 more.
    sine = measures.tones(RATE, (997.0, 10.0 ** (level_db / 20.0)))
    assert measures.loudness(sine, RATE) == pytest.approx(level_db, abs=0.05)


def test_the_loudness_range_is_the_step_between_two_halves():
    quiet, loud = (measures.tones(RATE, (1000.0, peak)) for peak in (0.05, 0.2))
    assert measures.loudness_range(
        np.concatenate([quiet, quiet, quiet, loud, loud, loud], axis=1), RATE
    ) == pytest.approx(12.04, abs=0.3)


def test_a_steady_sound_has_no_loudness_range():
    assert measures.loudness_range(measures.tones(RATE, (1000.0, 0.1)), RATE) < 0.2


def test_the_true_peak_of_a_sine_between_its_samples():
    # A quarter of the rate, an eighth of a turn off: samples are 3.01 dB below the peak.
    time = np.arange(RATE)
    sine = np.sin(np.pi / 2 * time + np.pi / 4)[None] * np.hanning(RATE)
    assert measures.decibels(np.max(np.abs(sine))) == pytest.approx(-3.01, abs=0.01)
    assert measures.true_peak_db(sine) == pytest.approx(0.0, abs=0.01)


@pytest.mark.parametrize("place", [0, 65535, 65536, 65600, 131000])
def test_the_true_peak_is_found_wherever_it_lies(place):
    audio = np.zeros((2, 131072))
    audio[1, place] = audio[1, min(place + 1, 131071)] = 0.5
    expected = 0.5 if place == 131071 else 0.5 * 2 * np.sinc(0.5)
    assert measures.true_peak_db(audio) == pytest.approx(measures.decibels(expected), abs=0.05)


def test_silence_has_no_true_peak():
    assert measures.true_peak_db(np.zeros((2, 1000))) == measures.SILENT_DB


# LAME turns 128 kbit/s down by 5 %.
@pytest.mark.parametrize(("codec", "gain"), [("libmp3lame", 0.95), ("aac", 1.0)])
def test_a_sine_survives_a_lossy_encoding(codec, gain):
    sine = measures.tones(RATE, (1000.0, 0.5))
    back = measures.coded(sine, RATE, codec)
    assert back.shape[0] == 2
    assert sine.shape[1] <= back.shape[1] < sine.shape[1] + 8192
    assert measures.amplitude(back, RATE, 1000.0) == pytest.approx(0.5 * gain, rel=0.02)
    assert back.dtype == np.float32


def test_a_lossy_encoding_does_not_clip():
    assert measures.true_peak_db(measures.coded(measures.tones(RATE, (1000.0, 1.4)), RATE, "aac")) > 2.0


def test_white_noise_rises_by_a_decibel_a_third_octave():
    middles, power = measures.third_octaves(noise(20)[0], RATE)
    levels = 10 * np.log10(power)
    assert middles[16] == 1000.0
    assert np.polyfit(np.arange(len(levels)), levels, 1)[0] == pytest.approx(10 * np.log10(2) / 3, abs=0.05)
    # 0.1 RMS over the band's share of half the rate.
    width = 1000.0 * (2 ** (1 / 6) - 2 ** (-1 / 6))
    assert levels[16] == pytest.approx(-20 + 10 * np.log10(width / (RATE / 2)), abs=0.5)


def test_a_gain_makes_no_spectral_distance():
    audio = noise(5)
    mid, side = measures.spectral_distance(audio * 3.0, audio, RATE)
    assert mid == pytest.approx(0.0, abs=1e-9)
    assert side == pytest.approx(0.0, abs=1e-9)


def test_a_wider_sound_is_a_distance_of_the_sides_alone():
    audio = noise(5)
    mid, side = (audio[0] + audio[1]) / 2, (audio[0] - audio[1])
    found = measures.spectral_distance(np.stack([mid + side, mid - side]), audio, RATE)
    assert found == pytest.approx((0.0, 20 * np.log10(2)), abs=1e-6)


def test_half_of_the_bands_raised_is_a_distance_of_half_the_step():
    import scipy.signal

    audio = np.tile(noise(20)[:1], (2, 1))
    low = scipy.signal.sosfiltfilt(scipy.signal.butter(8, 640.0, fs=RATE, output="sos"), audio)
    mid, side = measures.spectral_distance(audio + 3.0 * low, audio, RATE)
    # 12.04 dB on some half of the bands: ±6.02 about the mean.
    assert mid == pytest.approx(6.02, abs=0.5)
    assert side == 0.0


@pytest.mark.parametrize("hz", [40.0, 1000.0])
@pytest.mark.parametrize("harmonic_db", [-40.0, -120.0])
def test_thd_is_that_of_a_harmonic_that_was_added(hz, harmonic_db):
    time = np.arange(round(measures.TONE_S * RATE)) / RATE
    audio = np.sin(2 * np.pi * hz * time) + 10 ** (harmonic_db / 20) * np.sin(6 * np.pi * hz * time)
    assert measures.thd_n_db(audio[None], RATE, hz) == pytest.approx(harmonic_db, abs=0.05)


def test_thd_counts_noise_and_no_constant():
    rng = np.random.default_rng(1)
    sine = measures.tones(RATE, (1000.0, 0.5)).astype(np.float64)
    noisy = sine + 1e-3 * rng.standard_normal(sine.shape) + 0.2
    assert measures.thd_n_db(noisy, RATE, 1000.0) == pytest.approx(
        20 * np.log10(1e-3 / 0.5 * 2**0.5), abs=0.1
    )


def test_a_float32_sine_is_clean():
    assert measures.thd_n_db(measures.tones(RATE, (60.0, 0.5)), RATE, 60.0) < -140


def test_imd_is_that_of_a_modulation():
    # 1 % of amplitude modulation by the lower tone: two sidebands of 0.5 %.
    time = np.arange(round(measures.TONE_S * RATE)) / RATE
    low, high = (np.sin(2 * np.pi * hz * time) for hz in measures.IMD_HZ)
    audio = 0.8 * low + 0.2 * high * (1 + 0.01 * low)
    assert measures.imd_db(audio[None], RATE) == pytest.approx(20 * np.log10(0.005 * 2**0.5), abs=0.05)
    assert measures.imd_db(measures.tones(RATE, (60.0, 0.8), (7000.0, 0.2)), RATE) < -120


def music(seconds: float = 12.0) -> np.ndarray:
    """Filtered noise with a decay twice a second: transients that are no clicks."""
    import scipy.signal

    taps = scipy.signal.butter(2, [80.0, 6000.0], "bandpass", fs=RATE, output="sos")
    sound = scipy.signal.sosfilt(taps, noise(seconds))
    return sound * (0.2 + np.exp(-8.0 * ((np.arange(sound.shape[1]) / RATE) % 0.5)))


def test_a_click_stands_out_of_what_is_expected():
    audio = music(2.0)[0]
    audio[50_000] += 0.2
    score = measures.unpredicted(audio)
    assert abs(np.argmax(score) - 50_000) <= 1
    assert score.max() > 15
    assert np.percentile(score, 99.9) < 15


def test_silence_has_nothing_unexpected():
    assert not measures.unpredicted(np.zeros(5000)).any()


def test_steps_at_the_borders_are_seams():
    audio = music()
    borders = np.arange(RATE // 3, audio.shape[1], RATE)
    whole = measures.seams(audio, borders)
    assert whole.at_borders == whole.elsewhere == 0.0
    assert whole.chance == 1.0
    step = np.cumsum(np.isin(np.arange(audio.shape[1]), borders) * 0.1 * (-1.0) ** np.arange(audio.shape[1]))
    cut = measures.seams(audio + step, borders)
    assert cut.at_borders > 0.9
    assert cut.elsewhere == 0.0
    assert cut.chance < 1e-6


def test_clicks_all_over_are_no_seams():
    audio = music()
    audio[:, ::2000] += 0.2
    found = measures.seams(audio, np.arange(2500, audio.shape[1], 44_100), reach=1200)
    assert min(found.at_borders, found.elsewhere) > 0.8
    assert found.chance > 0.05
