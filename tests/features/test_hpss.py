"""Harmonic and percussive parts: against librosa, and signals of which the answer is known."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers.medians import sliding_median

from pipeline.dsp.masks import Masking, masks, separate
from pipeline.features.hpss import Hpss
from pipeline.features.mel import Mel

librosa = pytest.importorskip("librosa")

MASKINGS = [
    Masking(),
    Masking(kernel_size=17, power=1.0),
    Masking(kernel_size=16, power=7.5),
    Masking(margin_harmonic=3.0),
    Masking(margin_harmonic=1.5, margin_percussive=4.0, power=1.3),
    Masking(hard=True),
    Masking(hard=True, margin_percussive=2.0),
]
SHARES = ("hpss_harmonic_share", "hpss_percussive_share")


def whole_masks(power: torch.Tensor, masking: Masking) -> tuple[np.ndarray, np.ndarray]:
    _, harmonic, percussive = zip(*masks(power, masking), strict=True)
    return torch.cat(harmonic, dim=1).numpy(), torch.cat(percussive, dim=1).numpy()


def by_librosa(spectrum: np.ndarray, masking: Masking, mask: bool = False) -> tuple[np.ndarray, np.ndarray]:
    return librosa.decompose.hpss(
        spectrum,
        kernel_size=masking.kernel_size,
        power=np.inf if masking.hard else masking.power,
        mask=mask,
        margin=(masking.margin_harmonic, masking.margin_percussive),
    )


def librosa_shares(spectrum: np.ndarray, masking: Masking) -> list[float]:
    energies = [np.square(np.abs(part), dtype=np.float64).sum() for part in by_librosa(spectrum, masking)]
    return [energy / sum(energies) for energy in energies]


@pytest.fixture(scope="module")
def hits_and_tones() -> np.ndarray:
    """3 s of a chord with vibrato, a hit of noise every quarter second, and a noise floor: 22050 Hz."""
    time = np.arange(3 * 22050) / 22050
    rng = np.random.default_rng(8)
    vibrato = 0.002 * np.sin(2 * np.pi * 5 * time)
    tones = sum(np.sin(2 * np.pi * f * (time + vibrato)) for f in (220.0, 277.2, 329.6, 1318.5))
    hits = rng.standard_normal(len(time)) * np.exp(-40 * (time % 0.25))
    return (0.1 * tones + 0.3 * hits + 1e-3 * rng.standard_normal(len(time))).astype(np.float32)


@pytest.mark.parametrize("masking", MASKINGS)
def test_masks_equal_librosa_on_the_same_magnitudes(masking, hits_and_tones):
    magnitude = np.abs(librosa.stft(hits_and_tones))
    magnitude[:, 40:44] = 0.0
    got = whole_masks(torch.from_numpy(np.square(magnitude)), masking)
    for mine, expected in zip(got, by_librosa(magnitude, masking, mask=True), strict=True):
        # Of hard masks, a bin in a million may fall to the other side by rounding.
        off = np.abs(mine - expected) > 1e-6
        assert off.mean() <= (1e-5 if masking.hard else 0.0)


def test_masks_and_shares_equal_librosa_on_real_music(music, spectra_of):
    for name, song in music.items():
        spectra = spectra_of(song[:, : 8 * 44100], 44100, 22050)
        spectrum = librosa.stft(spectra.mono)
        magnitude = np.abs(spectrum)
        expected = by_librosa(magnitude, Masking(), mask=True)
        got = whole_masks(spectra.power(2048, 512), Masking())
        # 100 dB below the loudest bin of their frame lies the rounding noise of the two transforms, which
        # has masks too, and others.
        audible = magnitude > 1e-5 * magnitude.max(axis=0)
        assert audible.mean() > 0.9
        for mine, theirs in zip(got, expected, strict=True):
            assert np.abs(mine - theirs)[audible].max() < 1e-3, name
        energies = [np.square(magnitude * mask, dtype=np.float64).sum() for mask in expected]
        values = Hpss().extract(spectra).values
        for share, energy in zip(SHARES, energies, strict=True):
            assert values[share] == pytest.approx(energy / sum(energies), abs=1e-5), name


def test_shares_equal_librosa_on_speech(speech, spectra_of):
    for name, prompt in speech.items():
        prompt = prompt[:, : 6 * 8000]
        values = Hpss(n_fft=512, hop_length=128).extract(spectra_of(prompt, 8000)).values
        expected = librosa_shares(librosa.stft(prompt[0], n_fft=512, hop_length=128), Masking())
        assert [values[share] for share in SHARES] == pytest.approx(expected, abs=1e-5), name


@pytest.mark.parametrize("masking", MASKINGS)
def test_shares_equal_librosa(masking, hits_and_tones, spectra_of):
    extractor = Hpss(
        kernel_size=masking.kernel_size,
        power=masking.power,
        margin_harmonic=masking.margin_harmonic,
        margin_percussive=masking.margin_percussive,
        mask="hard" if masking.hard else "soft",
    )
    values = extractor.extract(spectra_of(hits_and_tones, 22050)).values
    expected = librosa_shares(librosa.stft(hits_and_tones), masking)
    assert [values[share] for share in SHARES] == pytest.approx(expected, abs=1e-4)
    assert 0.1 < expected[0] < 0.9


@pytest.mark.parametrize("frames", [1, 15, 512, 513, 1100])
@pytest.mark.parametrize("masking", [Masking(), Masking(kernel_size=100)])
def test_masks_do_not_depend_on_chunk_borders(frames, masking):
    power = torch.from_numpy(np.random.default_rng(6).random((1025, frames), dtype=np.float32) ** 8)
    lasting = sliding_median(power.T, masking.kernel_size).T.numpy().astype(np.float64)
    broad = sliding_median(power, masking.kernel_size).numpy().astype(np.float64)
    harmonic, percussive = whole_masks(power, masking)
    np.testing.assert_allclose(harmonic, lasting / (lasting + broad), atol=1e-6)
    np.testing.assert_allclose(percussive, broad / (lasting + broad), atol=1e-6)


def test_masks_of_extreme_levels_are_finite():
    power = torch.from_numpy(np.random.default_rng(7).random((65, 40), dtype=np.float32))
    for scale in (1e-45, 1e-37, 1e-30, 1e30):
        for masking in (Masking(), Masking(power=100.0), Masking(power=0.1, margin_harmonic=1000.0)):
            for mask in whole_masks(power * scale, masking):
                assert np.isfinite(mask).all()
                assert ((mask >= 0) & (mask <= 1)).all()


@pytest.mark.parametrize(("n_fft", "hop_length"), [(2048, 512), (1023, 300), (512, 100)])
@pytest.mark.parametrize("masking", [Masking(), Masking(kernel_size=9, margin_harmonic=2.0, power=1.0)])
def test_waveforms_equal_librosa(n_fft, hop_length, masking, hits_and_tones):
    spectrum = librosa.stft(hits_and_tones, n_fft=n_fft, hop_length=hop_length)
    parts = separate(torch.from_numpy(hits_and_tones), n_fft, hop_length, masking)
    for part, expected in zip(parts, by_librosa(spectrum, masking), strict=True):
        wave = librosa.istft(expected, n_fft=n_fft, hop_length=hop_length, length=len(hits_and_tones))
        np.testing.assert_allclose(part.numpy(), wave, atol=1e-4)


def test_waveforms_equal_librosa_effects_on_real_music(music):
    mono = music["feelings"][:, : 5 * 44100].mean(axis=0)
    for part, expected in zip(separate(torch.from_numpy(mono)), librosa.effects.hpss(mono), strict=True):
        np.testing.assert_allclose(part.numpy(), expected, atol=1e-4)


@pytest.mark.parametrize("samples", [1, 500, 512 * 600 + 77])
def test_soft_parts_sum_to_the_input(samples):
    noise = torch.from_numpy(np.random.default_rng(9).standard_normal(samples).astype(np.float32))
    harmonic, percussive = separate(noise)
    np.testing.assert_allclose((harmonic + percussive).numpy(), noise.numpy(), atol=1e-5)


def test_nothing_separates_into_nothing():
    assert [len(part) for part in separate(torch.zeros(0))] == [0, 0]


@pytest.mark.parametrize("hop_length", [0, 1025])
def test_windows_with_gaps_are_refused(hop_length):
    with pytest.raises(ValueError, match=f"hop_length={hop_length} must lie within 1..1024"):
        separate(torch.zeros(4096), 2048, hop_length)


def test_a_tone_is_harmonic_and_clicks_are_percussive(spectra_of):
    # Whole periods, so that cutting the tone makes no click at its ends.
    tone = np.sin(2 * np.pi * np.arange(20 * 2205) / 20)
    clicks = np.zeros(2 * 22050)
    clicks[1000::5512] = 1.0
    assert Hpss().extract(spectra_of(tone, 22050)).values["hpss_harmonic_share"] > 0.99
    assert Hpss().extract(spectra_of(clicks, 22050)).values["hpss_percussive_share"] > 0.99


def test_shares_sum_to_one_and_ignore_the_level(hits_and_tones, spectra_of):
    for mask in ("soft", "hard"):
        for margin in (1.0, 2.5):
            extractor = Hpss(mask=mask, margin_harmonic=margin)
            values = extractor.extract(spectra_of(hits_and_tones, 22050)).values
            loud = extractor.extract(spectra_of(1024 * hits_and_tones, 22050)).values
            assert sum(values[share] for share in SHARES) == pytest.approx(1.0, abs=1e-12)
            assert loud == pytest.approx(values, abs=1e-9)


def test_matrices_are_mel_levels_of_the_parts(hits_and_tones, spectra_of):
    arrays = Hpss(series_rate_hz=4.0, floor_db=-90.0).extract(spectra_of(hits_and_tones, 22050)).arrays
    for name, part in zip(arrays, librosa.decompose.hpss(librosa.stft(hits_and_tones)), strict=True):
        mel = librosa.feature.melspectrogram(S=np.abs(part) ** 2, sr=22050) / (1024 / 2) ** 2
        groups = [mel[:, i : i + 11].mean(axis=1, dtype=np.float64) for i in range(0, mel.shape[1], 11)]
        expected = np.maximum(10 * np.log10(np.stack(groups, axis=1)), -90.0)
        assert arrays[name].dtype == np.float32
        np.testing.assert_allclose(arrays[name], expected, atol=0.01, err_msg=name)


@pytest.mark.parametrize("rate_hz", [0.001, 0.05, 2.0, 43.0, 1000.0])
def test_matrices_have_the_series_rate_of_mel_and_all_frames(rate_hz, spectra_of):
    noise = np.random.default_rng(10).standard_normal(30 * 22050)
    spectra = spectra_of(noise, 22050)
    parts = Hpss(series_rate_hz=rate_hz).extract(spectra).arrays
    mel = Mel(series_rate_hz=rate_hz).extract(spectra).arrays["mel"]
    for part in parts.values():
        assert part.shape == mel.shape
        # Noise is neither: half of the amplitude goes to either part, more or less.
        assert (part < mel).all()
        assert np.median(mel - part) == pytest.approx(6.0, abs=2.5)


def test_silence_has_no_shares_and_reads_the_floor(spectra_of):
    extraction = Hpss(floor_db=-80.0).extract(spectra_of(np.zeros(22050), 22050))
    assert extraction.values == dict.fromkeys(SHARES)
    assert all((matrix == -80.0).all() for matrix in extraction.arrays.values())


def test_the_power_spectrum_is_shared_with_mel(chord, spectra_of):
    spectra = spectra_of(chord, 22050)
    Mel().extract(spectra)
    before = spectra.counts.copy()
    Hpss().extract(spectra)
    # Nothing but the medians is new.
    assert [key[0] for key in spectra.counts - before] == ["hpss_energy"]


def test_bands_without_a_bin_are_recorded(chord, spectra_of):
    extraction = Hpss(n_fft=256, hop_length=64).extract(spectra_of(chord, 22050))
    (fallback,) = extraction.fallbacks
    assert fallback.wanted == "hpss.n_mels=128 with n_fft=256"
    assert "narrower than an FFT bin of 86.1 Hz" in fallback.reason
    assert Hpss(n_mels=40).extract(spectra_of(chord, 22050)).fallbacks == []


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"n_fft": 8}, "n_fft=8 must"),
        ({"hop_length": 0}, "hop_length=0 must"),
        ({"n_mels": 0}, "n_mels=0 must"),
        ({"kernel_size": 0}, "kernel_size=0 must"),
        ({"kernel_size": 256}, "kernel_size=256 must"),
        ({"power": 0.0}, "power=0.0 must"),
        ({"power": float("inf")}, "power=inf must"),
        ({"margin_harmonic": 0.5}, "margin_harmonic=0.5 must"),
        ({"margin_percussive": float("nan")}, "margin_percussive=nan must"),
        ({"mask": "wiener"}, "mask=wiener must be one of soft, hard"),
        ({"floor_db": 0.0}, "floor_db=0.0 must"),
        ({"series_rate_hz": -1.0}, "series_rate_hz=-1.0 must"),
    ],
)
def test_impossible_parameters_are_refused(parameters, message):
    with pytest.raises(ValueError, match=message):
        Hpss(**parameters).check()
