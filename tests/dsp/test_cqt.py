"""Constant-Q chroma: against librosa on real music and on noise, its filters, its half-band, its edges."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pipeline.dsp import cqt

librosa = pytest.importorskip("librosa")


def chroma(samples: np.ndarray, rate: float, hop_length: int, tuning: float = 0.0) -> np.ndarray:
    return cqt.chroma_cqt(torch.from_numpy(samples), rate, hop_length, tuning=tuning).numpy()


def librosa_chroma(samples: np.ndarray, rate: float, hop_length: int, tuning: float = 0.0) -> np.ndarray:
    return librosa.feature.chroma_cqt(
        y=samples, sr=rate, hop_length=hop_length, tuning=tuning, norm=None, bins_per_octave=36
    )


def frame_cosines(found: np.ndarray, expected: np.ndarray) -> np.ndarray:
    sounding = expected.max(axis=0) > 1e-3 * expected.max()
    found, expected = found[:, sounding], expected[:, sounding]
    return (found * expected).sum(axis=0) / np.linalg.norm(found, axis=0) / np.linalg.norm(expected, axis=0)


@pytest.mark.parametrize(
    ("rate", "hop_length", "tuning"),
    [(22050, 512, 0.0), (22050, 512, -0.37), (44100, 1024, 0.2), (16000, 320, 0.0), (11025, 256, 1.4)],
)
def test_equals_librosa_on_real_music(rate, hop_length, tuning, music, at_rate):
    for name, song in music.items():
        samples = at_rate(song[:, : 15 * 44100].mean(axis=0), 44100, rate)
        expected = librosa_chroma(samples, rate, hop_length, tuning)
        found = chroma(samples, rate, hop_length, tuning)
        assert found.shape == expected.shape
        assert found.dtype == np.float32
        cosines = frame_cosines(found, expected)
        assert cosines.mean() > 0.9999, name
        assert cosines.min() > 0.999, name
        # The level too, not only the direction.
        np.testing.assert_allclose(found.mean(axis=1), expected.mean(axis=1), rtol=0.01, err_msg=name)


@pytest.mark.parametrize(("rate", "hop_length"), [(8800, 512), (8800, 441), (22050, 500), (48000, 960)])
def test_equals_librosa_on_bursts_of_noise(rate, hop_length):
    # Also where the hop has few factors of two and librosa's filters are up to 2 s long at the full rate.
    generator = np.random.default_rng(rate)
    envelope = np.repeat(generator.uniform(0.01, 1.0, 20), rate // 5)
    samples = (0.1 * generator.standard_normal(len(envelope)) * envelope).astype(np.float32)
    cosines = frame_cosines(chroma(samples, rate, hop_length), librosa_chroma(samples, rate, hop_length))
    assert cosines.mean() > 0.9999
    assert cosines.min() > 0.999


@pytest.mark.parametrize(("lowest", "rate"), [(2093.0, 11025.0), (65.4, 5512.5), (440.0, 8000.0)])
def test_wavelets_equal_librosa(lowest, rate):
    frequencies = lowest * 2.0 ** (np.arange(12) / 36)
    expected, _ = librosa.filters.wavelet(freqs=frequencies, sr=rate, pad_fft=False, dtype=np.complex128)
    for wavelet, row in zip(cqt.wavelets(frequencies, rate), expected, strict=True):
        np.testing.assert_allclose(librosa.util.pad_center(wavelet, size=len(row)), row, atol=1e-9)


@pytest.mark.parametrize("rate", [8800, 11025, 16000, 22050, 44100, 192000])
@pytest.mark.parametrize("tuning", [-1.5, 0.0, 1.5])
def test_every_octave_runs_at_a_rate_that_holds_it(rate, tuning):
    octaves = cqt.plan_octaves(rate, tuning)
    frequencies = np.concatenate([o.frequencies for o in reversed(octaves)])
    expected = librosa.cqt_frequencies(252, fmin=librosa.note_to_hz("C1"), bins_per_octave=36, tuning=tuning)
    np.testing.assert_allclose(frequencies, expected)
    for octave in octaves:
        assert octave.frequencies[-1] * 1.03 < (0.4 if octave.halvings else 0.5) * rate / 2**octave.halvings
    # No octave costs more than one above it would at a quarter of the rate.
    assert max(o.frequencies[0] * 2**o.halvings for o in octaves) <= rate
    assert min(o.frequencies[0] * 2**o.halvings for o in octaves) > rate / 16


@pytest.mark.parametrize("semitone", range(12))
def test_a_tone_is_in_its_pitch_class_at_the_level_of_its_filter(semitone):
    frequency = cqt.C1_HZ * 2 ** (3 + semitone / 12)
    tone = 0.5 * np.sin(2 * np.pi * frequency * np.arange(3 * 22050) / 22050)
    middle = chroma(tone.astype(np.float32), 22050, 512)[:, 60]
    assert middle.argmax() == semitone
    # Half the amplitude, times the root of the filter's length; its neighbours on either side see half of it.
    expected = 0.25 * np.sqrt(cqt.quality_factor() * 22050 / frequency)
    assert expected < middle[semitone] < 2.1 * expected
    assert middle[(semitone + 6) % 12] < 0.01 * expected


def test_frames_do_not_depend_on_the_hop(music):
    song = music["feelings"].mean(axis=0)[: 20 * 44100 : 2].copy()
    fine, coarse = chroma(song, 22050, 128), chroma(song, 22050, 512)
    assert fine.shape[1] > 3000
    np.testing.assert_allclose(fine[:, ::4], coarse, atol=1e-4 * coarse.max())


def test_half_band_keeps_what_lies_below_and_removes_what_would_alias():
    time = np.arange(20000)
    for frequency, lowest, highest in [(0.0, -1e-3, 1e-3), (0.19, -1e-3, 1e-3), (0.31, -300, -90)]:
        tone = torch.from_numpy(np.cos(2 * np.pi * frequency * time).astype(np.float32))
        halved = cqt.halve_rate(tone).numpy()[200:-200]
        gain = 20 * np.log10(np.abs(halved).max() + 1e-15)
        assert lowest < gain < highest, frequency
    slow = np.cos(2 * np.pi * 0.05 * time).astype(np.float32)
    halved = cqt.halve_rate(torch.from_numpy(slow)).numpy()
    np.testing.assert_allclose(halved[200:-200], slow[::2][200:-200], atol=1e-4)


@pytest.mark.parametrize("samples", [1, 2, 3, 63, 64, 65, 200_001])
def test_half_band_of_any_length_is_the_direct_convolution(samples):
    noise = np.random.default_rng(samples).standard_normal(samples).astype(np.float32)
    taps = np.zeros(2 * cqt.half_band_taps().size - 1)
    taps[::2] = cqt.half_band_taps()
    taps[len(taps) // 2] = 0.5
    expected = np.convolve(noise, taps)[len(taps) // 2 :][:samples:2]
    np.testing.assert_allclose(cqt.halve_rate(torch.from_numpy(noise)).numpy(), expected, atol=1e-5)


@pytest.mark.parametrize("samples", [0, 1, 511, 512, 100_000])
def test_any_length_has_its_frames(samples):
    found = chroma(np.ones(samples, dtype=np.float32), 22050, 512)
    assert found.shape == (12, 1 + samples // 512 if samples else 0)
    assert np.isfinite(found).all()
    assert not chroma(np.zeros(samples, dtype=np.float32), 22050, 512).any()


def test_rates_below_its_highest_octave_are_refused():
    with pytest.raises(ValueError, match="reaches 4165 Hz, beyond half of 8000 Hz"):
        chroma(np.ones(8000, dtype=np.float32), 8000, 512)


@pytest.mark.parametrize("rate", [8820, 22050, 96000])
def test_octaves_share_their_filters(rate):
    octaves = cqt.plan_octaves(rate, 0.3)
    for octave, matrix in zip(octaves, cqt.octave_matrices(octaves, rate), strict=True):
        expected = cqt.octave_matrix(octave, rate)
        assert matrix.shape == expected.shape
        torch.testing.assert_close(matrix, expected, rtol=1e-5, atol=1e-6 * float(expected.abs().max()))
