"""Mel levels: against librosa, and their absolute reference."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.features.mel import Mel
from pipeline.features.spectra import mel_filterbank

SCALE_DB = 20 * np.log10(1024 / 2)  # sum(window) / 2 for n_fft=2048


@pytest.mark.parametrize("rate", [22050, 44100])
def test_equals_librosa_on_real_music(rate, music, spectra_of):
    librosa = pytest.importorskip("librosa")
    for name, song in music.items():
        spectra = spectra_of(song, 44100, rate)
        power = librosa.feature.melspectrogram(y=spectra.mono, sr=rate)
        db = np.maximum(librosa.power_to_db(power, amin=1e-30, top_db=None) - SCALE_DB, -100)
        values = Mel().extract(spectra).values
        np.testing.assert_allclose(values["mel_mean"], db.mean(axis=1), atol=0.01, err_msg=name)
        np.testing.assert_allclose(values["mel_std"], db.std(axis=1), atol=0.01, err_msg=name)
        np.testing.assert_allclose(values["mel_min"], db.min(axis=1), atol=0.01, err_msg=name)
        np.testing.assert_allclose(values["mel_max"], db.max(axis=1), atol=0.01, err_msg=name)


def test_equals_librosa_on_speech(speech, spectra_of):
    librosa = pytest.importorskip("librosa")
    for name, prompt in speech.items():
        power = librosa.feature.melspectrogram(y=prompt[0], sr=8000)
        db = np.maximum(librosa.power_to_db(power, amin=1e-30, top_db=None) - SCALE_DB, -100)
        values = Mel().extract(spectra_of(prompt, 8000)).values
        np.testing.assert_allclose(values["mel_mean"], db.mean(axis=1), atol=0.01, err_msg=name)


@pytest.mark.parametrize("bin_", [20, 93, 400])
def test_a_full_scale_sine_reads_the_stated_value(bin_, spectra_of):
    # A whole number of periods per window, so that the Hann window spreads it over three bins.
    sine = np.sin(2 * np.pi * bin_ * np.arange(40960) / 2048)
    weights = mel_filterbank(22050, 2048, 128, 0.0, 11025.0).double().numpy()
    stated = weights[:, bin_] + (weights[:, bin_ - 1] + weights[:, bin_ + 1]) / 4
    band = int(stated.argmax())
    matrix = Mel(series_rate_hz=1000.0).extract(spectra_of(sine, 22050)).arrays["mel"]
    middle = matrix[band, matrix.shape[1] // 2]
    assert middle == pytest.approx(10 * np.log10(stated[band]), abs=1e-3)


def test_levels_above_full_scale_are_not_clipped(chord, spectra_of):
    quiet = Mel().extract(spectra_of(chord, 22050)).values
    loud = Mel().extract(spectra_of(chord * 1000, 22050)).values
    assert loud["mel_max"].max() > 0
    np.testing.assert_allclose(loud["mel_max"] - quiet["mel_max"], 60.0, atol=1e-3)


def test_the_matrix_averages_power_at_the_series_rate(chord, spectra_of):
    spectra = spectra_of(chord, 22050)
    matrix = Mel().extract(spectra).arrays["mel"]
    frames = 1 + len(chord) // 512
    assert matrix.dtype == np.float32
    assert matrix.shape == (128, -(-frames // 22))
    power = spectra.mel(2048, 512, 128, 0.0, 11025.0).double().numpy()
    np.testing.assert_allclose(
        matrix[:, 3], 10 * np.log10(power[:, 66:88].mean(axis=1)) - SCALE_DB, atol=1e-3
    )
    assert np.isfinite(matrix.astype(np.float16)).all()


def test_silence_reads_the_floor(spectra_of):
    values = Mel(floor_db=-90.0).extract(spectra_of(np.zeros(22050), 22050)).values
    assert (values["mel_mean"] == -90.0).all()
    assert (values["mel_std"] == 0.0).all()


def test_bands_without_a_bin_are_recorded(chord, spectra_of):
    extraction = Mel(n_fft=256).extract(spectra_of(chord, 22050))
    (fallback,) = extraction.fallbacks
    assert fallback.wanted == "mel.n_mels=128 with n_fft=256"
    assert "narrower than an FFT bin of 86.1 Hz" in fallback.reason
    empty = int(fallback.used.split(" in ")[1].split()[0])
    assert int((extraction.values["mel_max"] == -100.0).sum()) >= empty > 0


def test_an_upper_edge_above_half_the_rate_is_cut_and_recorded(chord, spectra_of):
    cut = Mel(fmax=16000.0).extract(spectra_of(chord, 22050))
    plain = Mel().extract(spectra_of(chord, 22050))
    np.testing.assert_array_equal(cut.values["mel_mean"], plain.values["mel_mean"])
    assert [f.wanted for f in cut.fallbacks] == ["mel.fmax=16000"]
    assert plain.fallbacks == []
    with pytest.raises(ValueError, match="fmin=12000 is not below half the sample rate"):
        Mel(fmin=12000.0).extract(spectra_of(chord, 22050))


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"n_fft": 0}, "n_fft=0 must"),
        ({"hop_length": -1}, "hop_length=-1 must"),
        ({"n_mels": 0}, "n_mels=0 must"),
        ({"fmin": -1.0}, "fmin=-1.0 must"),
        ({"fmin": 500.0, "fmax": 400.0}, "fmax=400.0 must exceed fmin=500.0"),
        ({"floor_db": 0.0}, "floor_db=0.0 must"),
        ({"series_rate_hz": 0.0}, "series_rate_hz=0.0 must"),
        ({"series_rate_hz": float("nan")}, "series_rate_hz=nan must"),
    ],
)
def test_impossible_parameters_are_refused(parameters, message):
    with pytest.raises(ValueError, match=message):
        Mel(**parameters).check()
