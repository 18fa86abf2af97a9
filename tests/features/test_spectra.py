"""Shared intermediates: against librosa, and each computed once."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pipeline.dsp.filterbanks import apply_bands
from pipeline.features import REGISTRY
from pipeline.features.chroma import Chroma
from pipeline.features.loudness import Loudness
from pipeline.features.mel import Mel
from pipeline.features.quality import Quality
from pipeline.features.spectra import (
    SharedSpectra,
    chroma_filterbank,
    mel_filterbank,
    power_spectrogram,
)

librosa = pytest.importorskip("librosa")


@pytest.mark.parametrize(("n_fft", "hop_length"), [(2048, 512), (512, 160), (1023, 300)])
@pytest.mark.parametrize("samples", [1, 511, 30000])
def test_power_equals_librosa(n_fft, hop_length, samples):
    noise = np.random.default_rng(1).standard_normal(samples).astype(np.float32)
    expected = np.abs(librosa.stft(noise, n_fft=n_fft, hop_length=hop_length)) ** 2
    power = power_spectrogram(torch.from_numpy(noise), n_fft, hop_length)
    assert power.dtype == torch.float32
    np.testing.assert_allclose(power.numpy(), expected, rtol=1e-4, atol=1e-5 * expected.max())


def test_power_equals_librosa_across_chunks_of_real_music(music, spectra_of):
    spectra = spectra_of(music["feelings"], 44100)
    expected = np.abs(librosa.stft(spectra.mono)) ** 2
    assert expected.shape[1] > 3000
    np.testing.assert_allclose(
        spectra.power(2048, 512).numpy(), expected, rtol=1e-3, atol=1e-7 * expected.max()
    )


@pytest.mark.parametrize(
    ("rate", "n_fft", "n_mels", "fmin", "fmax"),
    [(22050, 2048, 128, 0.0, 11025.0), (44100, 2048, 128, 0.0, 22050.0), (8000, 512, 40, 60.0, 3800.0)],
)
def test_mel_filters_equal_librosa(rate, n_fft, n_mels, fmin, fmax):
    expected = librosa.filters.mel(sr=rate, n_fft=n_fft, n_mels=n_mels, fmin=fmin, fmax=fmax)
    bank = mel_filterbank(rate, n_fft, n_mels, fmin, fmax).numpy()
    np.testing.assert_allclose(bank, expected, atol=1e-5 * expected.max())


@pytest.mark.parametrize("n_mels", [1, 7, 8, 128, 300])
def test_applying_bands_is_the_matrix_product(n_mels):
    # 300 bands are narrower than a bin at the bottom: some of their rows are zero.
    bank = mel_filterbank(22050, 1024, n_mels, 0.0, 9000.0)
    spectrum = torch.rand((513, 50), generator=torch.Generator().manual_seed(n_mels))
    np.testing.assert_allclose(apply_bands(bank, spectrum), bank @ spectrum, rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("tuning", [0.0, 0.31, -0.5])
@pytest.mark.parametrize(("rate", "n_fft"), [(22050, 2048), (44100, 4096), (8000, 1024), (16000, 1001)])
def test_chroma_filters_equal_librosa(rate, n_fft, tuning):
    expected = librosa.filters.chroma(sr=rate, n_fft=n_fft, tuning=tuning)
    bank = chroma_filterbank(rate, n_fft, tuning)
    assert bank.dtype == torch.float32
    np.testing.assert_allclose(bank.numpy(), expected, atol=1e-6)


@pytest.mark.parametrize("cents", [0, 13, 37, -45])
def test_tuning_is_found(cents, spectra_of):
    time = np.arange(4 * 22050) / 22050
    pitches = [440 * 2 ** (n / 12 + cents / 1200) for n in (-9, -5, -2, 3)]
    tones = sum(np.sin(2 * np.pi * f * time) for f in pitches) / 8
    assert spectra_of(tones, 22050).tuning(2048, 512) == pytest.approx(cents / 100, abs=0.04)


@pytest.mark.parametrize("rate", [8000, 22050, 44100])
def test_tuning_equals_librosa_on_real_music(rate, music, spectra_of):
    for name, song in music.items():
        spectra = spectra_of(song[:, : 20 * 44100], 44100, rate)
        for bins in (12, 36):
            expected = librosa.estimate_tuning(y=spectra.mono, sr=rate, bins_per_octave=bins)
            assert spectra.tuning(2048, 512, bins) == pytest.approx(expected, abs=0.02), (name, bins)


def test_each_intermediate_is_computed_once_for_all_extractors(chord, spectra_of):
    spectra = spectra_of(np.stack([chord, chord[::-1]]), 22050)
    extractors = [Mel(), Mel(n_mels=64), Chroma(), Chroma(method="stft", norm="l2"), Loudness(), Quality()]
    for extractor in [*extractors, *reversed(extractors)]:
        extractor.extract(spectra)
    assert set(spectra.counts.values()) == {1}
    assert {key[0] for key in spectra.counts} >= {
        "power",
        "mel",
        "tuning",
        "chroma_stft",
        "levels",
        "frame_power",
    }
    assert [key for key in spectra.counts if key[0] == "power"] == [("power", 2048, 512)]


def test_nothing_is_computed_before_somebody_asks(chord, spectra_of):
    spectra = spectra_of(chord, 22050)
    assert not spectra.counts
    Quality().extract(spectra)
    assert {key[0] for key in spectra.counts} == {"levels", "native", "frame_power"}


def test_no_samples_have_no_frames(spectra_of):
    spectra = spectra_of(np.zeros((2, 0)), 22050)
    assert spectra.power(2048, 512).shape == (1025, 0)
    assert spectra.mel(2048, 512, 128, 0.0, 11025.0).shape == (128, 0)
    assert spectra.chroma_stft(2048, 512).shape == (12, 0)
    assert spectra.tuning(2048, 512) is None
    assert spectra.levels() is None
    assert spectra.frame_power(0.05).shape == (0,)


def test_frame_power_drops_the_incomplete_frame_unless_it_is_alone(spectra_of):
    samples = np.concatenate([np.full(100, 0.5), np.full(100, 0.25), np.ones(99)])
    np.testing.assert_allclose(spectra_of(samples, 1000).frame_power(0.1), [0.25, 0.0625])
    np.testing.assert_allclose(spectra_of(samples[:40], 1000).frame_power(0.1), [0.25])


def test_levels_and_frames_do_not_depend_on_chunk_borders(spectra_of):
    noise = np.random.default_rng(2).standard_normal((3, 700_001)).astype(np.float32)
    spectra = spectra_of(noise, 48000)
    exact = noise.astype(np.float64)
    levels = spectra.levels()
    np.testing.assert_allclose(levels.mean, exact.mean(axis=1), atol=1e-12)
    np.testing.assert_allclose(levels.mean_square, np.square(exact).mean(axis=1))
    np.testing.assert_array_equal(levels.peak, np.abs(exact).max(axis=1))
    frames = np.square(exact[:, : 291 * 2400]).reshape(3, 291, 2400).mean(axis=(0, 2))
    np.testing.assert_allclose(spectra.frame_power(0.05), frames)


def test_read_only_audio_is_accepted(chord):
    chord = chord.copy()
    chord.setflags(write=False)
    spectra = SharedSpectra(chord, 22050, chord[None], 22050)
    for extractor in REGISTRY.values():
        extractor().extract(spectra)
    np.testing.assert_array_equal(spectra.waveform().numpy(), chord)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e20])
@pytest.mark.parametrize(
    ("extractor", "view"),
    [(Mel(), "mono"), (Chroma(), "mono"), (Loudness(), "native"), (Quality(), "native")],
)
def test_samples_that_are_no_pcm_are_refused(extractor, view, bad, chord, spectra_of):
    samples = chord.copy()
    samples[1000] = bad
    with pytest.raises(ValueError, match=f"the {view} audio holds samples that are NaN"):
        extractor.extract(spectra_of(samples, 22050))
