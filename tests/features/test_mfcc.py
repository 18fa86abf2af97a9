"""Mel-frequency cepstral coefficients, against librosa and scipy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.fft import dct

from pipeline.features.mel import Mel
from pipeline.features.mfcc import Mfcc, cepstrum, dct_basis


@pytest.mark.parametrize("rate", [22050, 44100])
def test_equals_librosa_on_real_music(rate, music, spectra_of):
    librosa = pytest.importorskip("librosa")
    for name, song in music.items():
        spectra = spectra_of(song, 44100, rate)
        expected = librosa.feature.mfcc(y=spectra.mono, sr=rate)
        values = Mfcc().extract(spectra).values
        np.testing.assert_allclose(values["mfcc_mean"], expected.mean(axis=1), atol=1e-2, err_msg=name)
        np.testing.assert_allclose(values["mfcc_std"], expected.std(axis=1), atol=1e-2, err_msg=name)


def test_equals_librosa_on_speech_at_both_rates(speech, spectra_of):
    librosa = pytest.importorskip("librosa")
    for name, prompt in speech.items():
        for rate in (8000, 22050):
            spectra = spectra_of(prompt, 8000, rate)
            expected = librosa.feature.mfcc(y=spectra.mono, sr=rate)
            values = Mfcc().extract(spectra).values
            np.testing.assert_allclose(values["mfcc_mean"], expected.mean(axis=1), atol=1e-2, err_msg=name)
            np.testing.assert_allclose(values["mfcc_std"], expected.std(axis=1), atol=1e-2, err_msg=name)


@pytest.mark.parametrize(
    "parameters", [{"n_mfcc": 13}, {"n_mfcc": 40, "n_mels": 40}, {"top_db": 20.0}, {"n_fft": 1024}]
)
def test_equals_librosa_at_other_parameters(parameters, chord, spectra_of):
    librosa = pytest.importorskip("librosa")
    extractor = Mfcc(**parameters)
    mel = librosa.feature.melspectrogram(y=chord, sr=22050, n_fft=extractor.n_fft, n_mels=extractor.n_mels)
    levels = librosa.power_to_db(mel, top_db=extractor.top_db)
    expected = librosa.feature.mfcc(S=levels, n_mfcc=extractor.n_mfcc)
    values = extractor.extract(spectra_of(chord, 22050)).values
    np.testing.assert_allclose(values["mfcc_mean"], expected.mean(axis=1), atol=1e-2)
    np.testing.assert_allclose(values["mfcc_std"], expected.std(axis=1), atol=1e-2)


@pytest.mark.parametrize(("coefficients", "samples"), [(20, 128), (1, 7), (7, 7)])
def test_the_basis_is_scipys_orthonormal_dct(coefficients, samples):
    expected = dct(np.eye(samples), type=2, axis=0, norm="ortho")[:coefficients]
    np.testing.assert_allclose(dct_basis(coefficients, samples).numpy(), expected, atol=1e-7)


def test_chunks_do_not_show():
    mel = torch.rand(16, 9000, generator=torch.Generator().manual_seed(0)) ** 4
    levels = 10 * np.log10(np.maximum(mel.double().numpy(), float(mel.max()) * 1e-8))
    expected = dct(levels, type=2, axis=0, norm="ortho")[:5]
    np.testing.assert_allclose(cepstrum(mel, 5, 80.0).numpy(), expected, atol=1e-3)


def test_gain_moves_coefficient_0_only(chord, spectra_of):
    quiet = Mfcc().extract(spectra_of(chord, 22050)).values
    loud = Mfcc().extract(spectra_of(10 * chord, 22050)).values
    shift = loud["mfcc_mean"] - quiet["mfcc_mean"]
    assert shift[0] == pytest.approx(20 * np.sqrt(128), abs=1e-2)
    np.testing.assert_allclose(shift[1:], 0.0, atol=1e-2)
    np.testing.assert_allclose(loud["mfcc_std"], quiet["mfcc_std"], atol=1e-2)


def test_the_mel_spectrogram_is_shared(chord, spectra_of):
    spectra = spectra_of(chord, 22050)
    Mel().extract(spectra)
    Mfcc().extract(spectra)
    assert [n for key, n in spectra.counts.items() if key[0] == "mel"] == [1]


@pytest.mark.parametrize("samples", [np.zeros(22050), np.zeros(0), np.full(22050, 1e-42)])
def test_silence_has_none(samples, spectra_of):
    assert Mfcc().extract(spectra_of(samples, 22050)).values == {"mfcc_mean": None, "mfcc_std": None}


def test_one_sample_is_one_frame(spectra_of):
    values = Mfcc().extract(spectra_of(np.full(1, 0.5), 22050)).values
    assert np.isfinite(values["mfcc_mean"]).all()
    np.testing.assert_array_equal(values["mfcc_std"], 0.0)


def test_bands_without_a_bin_are_recorded(chord, spectra_of):
    (fallback,) = Mfcc(n_fft=256).extract(spectra_of(chord, 22050)).fallbacks
    assert fallback.wanted == "mfcc.n_mels=128 with n_fft=256"
    assert Mfcc().extract(spectra_of(chord, 22050)).fallbacks == []


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"n_fft": 0}, "n_fft=0 must"),
        ({"hop_length": 0}, "hop_length=0 must"),
        ({"n_mels": 0}, "n_mels=0 must"),
        ({"n_mfcc": 0}, "n_mfcc=0 must"),
        ({"n_mfcc": 129}, "n_mfcc=129 must not exceed n_mels=128"),
        ({"top_db": 0.0}, "top_db=0.0 must"),
    ],
)
def test_impossible_parameters_are_refused(parameters, message):
    with pytest.raises(ValueError, match=message):
        Mfcc(**parameters).check()
