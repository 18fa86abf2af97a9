"""Spectral descriptors: against librosa on the frames that sound, and on spectra known in closed form."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.features.spectra import SharedSpectra
from pipeline.features.spectral import (
    Spectral,
    contrast_bands,
    describe_frames,
)


def reference(samples: np.ndarray, rate: int, n_fft: int = 2048, contrast_octaves: int = 6) -> dict:
    """Each descriptor by librosa, on its own magnitude spectrum."""
    librosa = pytest.importorskip("librosa")
    magnitude = np.abs(librosa.stft(samples, n_fft=n_fft, hop_length=512))
    feature, common = librosa.feature, {"S": magnitude, "n_fft": n_fft}
    return {
        "centroid": feature.spectral_centroid(sr=rate, **common)[0],
        "bandwidth": feature.spectral_bandwidth(sr=rate, **common)[0],
        "rolloff": feature.spectral_rolloff(sr=rate, **common)[0],
        "flatness": feature.spectral_flatness(**common)[0],
        "contrast": feature.spectral_contrast(sr=rate, n_bands=contrast_octaves, **common),
    }


def assert_equal(values: dict, expected: dict, sounding=slice(None)) -> None:
    for name in ("centroid", "bandwidth", "rolloff"):
        series = expected[name][sounding]
        assert values[f"spectral_{name}_mean_hz"] == pytest.approx(series.mean(), rel=1e-3)
        assert values[f"spectral_{name}_std_hz"] == pytest.approx(series.std(), rel=1e-3, abs=1e-3)
    assert values["spectral_flatness_mean"] == pytest.approx(expected["flatness"][sounding].mean(), rel=1e-3)
    contrast = expected["contrast"][:, sounding].mean(axis=1)
    # Above the cut of a codec the weakest bins are the rounding of the float32 transform, and two libraries
    # round differently.
    tolerance = np.where(contrast > 40.0, 1e-2, 1e-3) * contrast
    assert (np.abs(values["spectral_contrast_mean"] - contrast) <= tolerance).all()


@pytest.mark.parametrize("rate", [22050, 44100])
def test_equals_librosa_on_real_music(rate, music, spectra_of):
    for song in music.values():
        spectra = spectra_of(song, 44100, rate)
        assert_equal(Spectral().extract(spectra).values, reference(spectra.mono, rate))


def test_equals_librosa_on_speech(speech, spectra_of):
    for prompt in speech.values():
        spectra = spectra_of(prompt, 8000)
        # Half the rate is 4 kHz: librosa refuses the octave from 6.4 kHz, and so there is none.
        expected = reference(spectra.mono, 8000, contrast_octaves=5)
        sounding = describe_frames(spectra.power(2048, 512), 8000, 2048).mean_square >= 1e-10
        values = Spectral().extract(spectra).values
        assert len(values["spectral_contrast_mean"]) == 6
        assert_equal(values, expected, sounding)


def test_every_frame_equals_librosa(chord, spectra_of):
    rng = np.random.default_rng(0)
    samples = (chord * np.linspace(0, 1, len(chord)) + 0.01 * rng.standard_normal(len(chord))).astype(
        np.float32
    )
    expected = reference(samples, 22050)
    frames = describe_frames(spectra_of(samples, 22050).power(2048, 512), 22050, 2048)
    for name in ("centroid", "bandwidth", "flatness"):
        np.testing.assert_allclose(getattr(frames, name), expected[name], rtol=1e-3, err_msg=name)
    # Rounding may move the crossing to the next bin.
    assert np.abs(frames.rolloff - expected["rolloff"]).max() <= 22050 / 2048 + 1e-6
    assert (frames.rolloff == expected["rolloff"]).mean() > 0.99
    np.testing.assert_allclose(frames.contrast(frames.loudest()), expected["contrast"], atol=1e-3)


@pytest.mark.parametrize(("rate", "n_fft"), [(48000, 4096), (22050, 512), (16000, 1024)])
def test_equals_librosa_at_other_sizes(rate, n_fft, spectra_of):
    samples = (0.1 * np.random.default_rng(1).standard_normal(2 * rate)).astype(np.float32)
    values = Spectral(n_fft=n_fft).extract(spectra_of(samples, rate)).values
    assert_equal(values, reference(samples, rate, n_fft))


def test_a_sine_is_at_its_frequency(spectra_of):
    frequency = 200 * 22050 / 2048
    sine = np.sin(2 * np.pi * frequency * np.arange(40960) / 22050)
    frames = describe_frames(spectra_of(sine, 22050).power(2048, 512), 22050, 2048)
    middle = slice(4, -4)
    np.testing.assert_allclose(frames.centroid[middle], frequency, rtol=1e-5)
    # The Hann window makes it three bins of magnitude 1/2, 1 and 1/2: a deviation of 1 / sqrt(2) bins. What
    # float32 leaves in the other bins, up to half the rate away, adds to it, but less than a bin.
    in_bins = frames.bandwidth[middle] / (22050 / 2048)
    assert (np.sqrt(0.5) <= in_bins).all()
    assert (in_bins < 1.0).all()
    np.testing.assert_allclose(frames.rolloff[middle], 201 * 22050 / 2048)
    np.testing.assert_allclose(10 * np.log10(frames.mean_square[middle]), -3.01, atol=0.01)


def test_white_noise_is_flat_and_centred(spectra_of):
    noise = 0.1 * np.random.default_rng(2).standard_normal(10 * 22050)
    values = Spectral().extract(spectra_of(noise, 22050)).values
    assert values["spectral_centroid_mean_hz"] == pytest.approx(11025 / 2, rel=0.01)
    assert values["spectral_bandwidth_mean_hz"] == pytest.approx(11025 / np.sqrt(12), rel=0.01)
    assert values["spectral_rolloff_mean_hz"] == pytest.approx(0.85 * 11025, rel=0.01)
    # The geometric mean of exponentially distributed power is exp(-Euler's constant) of the arithmetic one.
    assert values["spectral_flatness_mean"] == pytest.approx(np.exp(-np.euler_gamma), rel=0.02)


def test_silent_frames_are_left_out(chord, spectra_of):
    alone = describe_frames(spectra_of(chord, 22050).power(2048, 512), 22050, 2048)
    gap = np.zeros(512 * 300, dtype=np.float32)
    values = Spectral().extract(spectra_of(np.concatenate([chord, gap]), 22050)).values
    assert values["spectral_centroid_mean_hz"] == pytest.approx(alone.centroid.mean(), rel=0.01)
    assert values["spectral_flatness_mean"] < 1e-3  # 0.47 with the flatness of 1 of digital silence
    hiss = 3e-6 * np.random.default_rng(0).standard_normal(len(gap)).astype(np.float32)  # -110 dBFS
    padded = Spectral().extract(spectra_of(np.concatenate([chord, hiss]), 22050)).values
    assert padded["spectral_centroid_mean_hz"] == pytest.approx(alone.centroid.mean(), rel=0.01)
    heard = Spectral(silence_dbfs=-120.0).extract(spectra_of(np.concatenate([chord, hiss]), 22050)).values
    assert heard["spectral_centroid_mean_hz"] > 1.5 * alone.centroid.mean()


@pytest.mark.parametrize("samples", [np.zeros(22050), np.zeros(0), np.full(22050, 1e-6)])
def test_silence_has_none(samples, spectra_of):
    assert set(Spectral().extract(spectra_of(samples, 22050)).values.values()) == {None}


def test_chunks_do_not_show():
    power = torch.rand(129, 1300, generator=torch.Generator().manual_seed(3)) ** 3
    whole = describe_frames(power, 8000, 256)
    for start in (0, 500, 1299):
        part = describe_frames(power[:, start : start + 1], 8000, 256)
        for name in ("mean_square", "centroid", "bandwidth", "rolloff", "flatness"):
            np.testing.assert_allclose(
                getattr(part, name), getattr(whole, name)[start : start + 1], rtol=1e-5
            )
        np.testing.assert_allclose(
            part.contrast(part.loudest())[:, 0], whole.contrast(whole.loudest())[:, start], rtol=1e-5
        )


@pytest.mark.parametrize("rate", [4000, 8000, 22050, 192000])
@pytest.mark.parametrize("n_fft", [64, 255, 2048])
def test_no_contrast_band_is_empty(rate, n_fft):
    bands = contrast_bands(rate, n_fft)
    assert len(bands) == sum(low < rate / 2 for low in (0, 200, 400, 800, 1600, 3200, 6400))
    assert bands[-1][1] == n_fft // 2 + 1
    for first, stop, count in bands:
        assert 0 <= first < stop
        assert 1 <= count <= stop - first


@settings(max_examples=20, deadline=None)
@given(gain=st.floats(1e-2, 1e4), seed=st.integers(0, 99))
def test_gain_changes_nothing(gain, seed):
    samples = (0.1 * np.random.default_rng(seed).standard_normal(8000)).astype(np.float32)

    def values(x):
        x = x.astype(np.float32)
        return Spectral(n_fft=512).extract(SharedSpectra(x, 8000, x[None], 8000)).values

    for name, value in values(samples).items():
        np.testing.assert_allclose(values(gain * samples)[name], value, rtol=2e-3, err_msg=name)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"n_fft": 32}, "n_fft=32 must"),
        ({"hop_length": 0}, "hop_length=0 must"),
        ({"roll_percent": 1.0}, "roll_percent=1.0 must"),
        ({"silence_dbfs": 0.0}, "silence_dbfs=0.0 must"),
    ],
)
def test_impossible_parameters_are_refused(parameters, message):
    with pytest.raises(ValueError, match=message):
        Spectral(**parameters).check()
