"""Chroma: against librosa on real music, pitch classes of known chords, and the ways out of the CQT."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.dsp.cqt import cqt_obstacle
from pipeline.features.chroma import Chroma

librosa = pytest.importorskip("librosa")


def frame_cosines(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    lengths = np.linalg.norm(a, axis=0) * np.linalg.norm(b, axis=0)
    return (a * b).sum(axis=0)[lengths > 0] / lengths[lengths > 0]


@pytest.mark.parametrize("n_fft", [2048, 4096])
def test_stft_equals_librosa_on_real_music(n_fft, music, spectra_of):
    for name, song in music.items():
        spectra = spectra_of(song, 44100, 22050)
        expected = librosa.feature.chroma_stft(y=spectra.mono, sr=22050, n_fft=n_fft)
        cosines = frame_cosines(spectra.chroma_stft(n_fft, 512).numpy(), expected)
        assert cosines.mean() >= 0.999, name
        assert cosines.min() >= 0.99, name
        values = Chroma(method="stft", n_fft=n_fft).extract(spectra).values
        np.testing.assert_allclose(values["chroma_mean"], expected.mean(axis=1), atol=0.01, err_msg=name)
        np.testing.assert_allclose(
            values["chroma_median"], np.median(expected, axis=1), atol=0.01, err_msg=name
        )


def test_cqt_equals_librosa_on_real_music(music, spectra_of):
    for name, song in music.items():
        spectra = spectra_of(song[:, : 20 * 44100], 44100, 22050)
        expected = librosa.feature.chroma_cqt(y=spectra.mono, sr=22050)
        extraction = Chroma(method="cqt").extract(spectra)
        assert extraction.values["chroma_method"] == "cqt"
        assert extraction.fallbacks == []
        cosines = frame_cosines(spectra.chroma_cqt(2048, 512).numpy(), expected)
        assert cosines.mean() >= 0.9999, name
        np.testing.assert_allclose(extraction.values["chroma_mean"], expected.mean(axis=1), atol=0.005)
        np.testing.assert_allclose(
            extraction.values["chroma_p75"], np.percentile(expected, 75, axis=1), atol=0.01
        )


@pytest.mark.parametrize("method", ["cqt", "stft"])
@pytest.mark.parametrize("cents", [0, 40, -40])
def test_a_chord_is_found_in_any_tuning(method, cents, spectra_of):
    time = np.arange(4 * 22050) / 22050
    pitches = [440 * 2 ** (n / 12 + cents / 1200) for n in (-9, -5, -2)]
    tones = sum(np.sin(2 * np.pi * h * f * time) / h for f in pitches for h in (1, 2, 4)) / 8
    values = Chroma(method=method).extract(spectra_of(tones, 22050)).values
    mean = values["chroma_mean"]
    assert set(np.argsort(mean)[-3:]) == {0, 4, 7}
    # Neighbours stay quiet: a 40-cent-sharp C does not leak into C#. The STFT is coarser than the CQT.
    assert mean[[1, 3, 5, 6, 8]].max() < {"cqt": 0.05, "stft": 0.3}[method]
    assert values["chroma_tuning"] == pytest.approx(cents / 100, abs=0.06)


@pytest.mark.parametrize(("norm", "expected"), [("inf", 1.0), ("l2", 1.0), ("none", None)])
def test_norms(norm, expected, chord, spectra_of):
    loud = Chroma(method="stft", norm=norm, series_rate_hz=1000.0).extract(spectra_of(chord, 22050))
    quiet = Chroma(method="stft", norm=norm, series_rate_hz=1000.0).extract(spectra_of(chord * 0.1, 22050))
    matrix = loud.arrays["chroma"]
    if expected is None:
        np.testing.assert_allclose(quiet.arrays["chroma"], matrix * 0.01, rtol=1e-3)
    else:
        size = matrix.max(axis=0) if norm == "inf" else np.linalg.norm(matrix, axis=0)
        np.testing.assert_allclose(size, expected, rtol=1e-5)
        np.testing.assert_allclose(quiet.arrays["chroma"], matrix, atol=1e-4)


def test_the_matrix_has_the_series_rate(chord, spectra_of):
    matrix = Chroma().extract(spectra_of(chord, 22050)).arrays["chroma"]
    assert matrix.shape == (12, -(-(1 + len(chord) // 512) // 22))
    assert matrix.dtype == np.float32


@pytest.mark.parametrize(("method", "tolerance"), [("cqt", 0.1), ("stft", 0.01)])
def test_silent_frames_are_left_out_of_the_statistics(method, tolerance, chord, spectra_of):
    padded = np.concatenate([chord, np.zeros(8 * 22050, dtype=np.float32)])
    plain = Chroma(method=method).extract(spectra_of(chord, 22050)).values["chroma_mean"]
    half = Chroma(method=method).extract(spectra_of(padded, 22050))
    # With the silent half counted in, the mean would be half as large. The CQT rings for 0.7 s.
    assert plain[0] > 0.7
    np.testing.assert_allclose(half.values["chroma_mean"], plain, atol=tolerance)
    assert (half.arrays["chroma"][:, -1] == 0).all()


@pytest.mark.parametrize("method", ["cqt", "stft"])
@pytest.mark.parametrize("samples", [0, 1, 44100])
def test_silence_is_undefined(method, samples, spectra_of):
    extraction = Chroma(method=method).extract(spectra_of(np.zeros(samples), 22050))
    assert set(extraction.values.values()) == {None}
    assert extraction.arrays == {}
    assert extraction.fallbacks == []


@pytest.mark.parametrize(
    ("seconds", "rate", "reason"),
    [(1.0, 22050, "shorter than the longest constant-Q filter"), (4.0, 8000, "reaches 4300 Hz")],
)
def test_where_the_cqt_cannot_run_the_stft_does(seconds, rate, reason, spectra_of):
    time = np.arange(int(seconds * rate)) / rate
    extraction = Chroma().extract(spectra_of(0.5 * np.sin(2 * np.pi * 440 * time), rate))
    (fallback,) = extraction.fallbacks
    assert (fallback.stage, fallback.wanted, fallback.used) == ("features", "chroma.method=cqt", "stft")
    assert reason in fallback.reason
    assert extraction.values["chroma_method"] == "stft"
    assert int(np.argmax(extraction.values["chroma_mean"])) == 9  # A


@pytest.mark.parametrize("cents", [-50, 49])
@pytest.mark.parametrize("rate", [8600, 11025, 48000])
def test_the_stated_limits_of_the_cqt_hold(rate, cents, spectra_of):
    # The shortest clip and the lowest rate that cqt_obstacle lets through, at either end of the tuning.
    samples = int(1.6 * rate) + 1
    tone = 0.5 * np.sin(2 * np.pi * 440 * 2 ** (cents / 1200) * np.arange(samples) / rate)
    assert cqt_obstacle(rate, samples) is None
    assert Chroma().extract(spectra_of(tone, rate)).values["chroma_method"] == "cqt"


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"method": "cens"}, "method=cens must be one of cqt, stft"),
        ({"norm": "l1"}, "norm=l1 must be one of inf, l2, none"),
        ({"n_fft": 64}, "n_fft=64 must"),
        ({"hop_length": 0}, "hop_length=0 must"),
        ({"series_rate_hz": -2.0}, "series_rate_hz=-2.0 must"),
    ],
)
def test_impossible_parameters_are_refused(parameters, message):
    with pytest.raises(ValueError, match=message):
        Chroma(**parameters).check()
