"""Band levels and shares: their edges, their reference, and Parseval's theorem."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.features.band_energy import BandEnergy, band_weights, mel_frequencies
from pipeline.features.base import Extractor
from pipeline.features.spectra import SharedSpectra

RATE = 22050
BIN_HZ = RATE / 2048


def energy(samples: np.ndarray, rate: int = RATE, **parameters) -> dict:
    samples = np.asarray(samples, dtype=np.float32)
    values = BandEnergy(**parameters).extract(SharedSpectra(samples, rate, samples[None], rate)).values
    return {name.removeprefix("band_"): value for name, value in values.items()}


def sine(frequency: float, seconds: float = 4.0, rate: int = RATE) -> np.ndarray:
    return np.sin(2 * np.pi * frequency * np.arange(int(seconds * rate)) / rate)


def test_k_edges_make_one_band_less():
    values = energy(sine(1000.0), edges_hz=[0.0, 500.0, 2000.0, 8000.0])
    assert values["edges_hz"].tolist() == [0.0, 500.0, 2000.0, 8000.0]
    for name in ("energy_mean_db", "energy_std_db", "energy_median_db", "energy_share"):
        assert values[name].shape == (3,)
        assert values[name].dtype == np.float32


def test_a_full_scale_sine_within_a_band_is_0_db_and_elsewhere_nothing():
    values = energy(sine(1000.0), edges_hz=[0.0, 500.0, 2000.0, 8000.0])
    assert values["energy_median_db"][1] == pytest.approx(0.0, abs=0.01)
    assert (values["energy_median_db"][[0, 2]] < -80.0).all()
    np.testing.assert_allclose(values["energy_share"], [0, 1, 0], atol=1e-4)


@pytest.mark.parametrize(
    ("offset_bins", "below"),
    # The Hann window spreads the sine over bins of 1/6, 4/6 and 1/6 of its power, each of them a bin wide.
    [(-2.0, 1.0), (-1.0, 11 / 12), (-0.5, 5 / 6), (0.0, 0.5), (0.5, 1 / 6), (1.0, 1 / 12), (2.0, 0.0)],
)
def test_a_bin_on_an_edge_is_divided(offset_bins, below):
    values = energy(sine(100 * BIN_HZ, 20.0), edges_hz=[0.0, (100 - offset_bins) * BIN_HZ, 11025.0])
    assert values["energy_share"][0] == pytest.approx(below, abs=2e-3)


def test_no_band_is_empty_however_narrow():
    noise = 0.1 * np.random.default_rng(0).standard_normal(20 * RATE)
    values = energy(noise, edges_hz=[1000.0, 1001.0, 1003.0])
    assert values["energy_share"][1] / values["energy_share"][0] == pytest.approx(2.0, rel=0.05)


@settings(max_examples=50, deadline=None)
@given(
    inner=st.lists(st.floats(1.0, 3999.0), max_size=12, unique=True), n_fft=st.sampled_from([64, 255, 512])
)
def test_bands_that_cover_everything_hold_everything(inner, n_fft):
    edges = np.array([0.0, *sorted(inner), 4000.0])
    weights = band_weights(edges, 8000, n_fft)
    whole = np.ones(n_fft // 2 + 1)
    whole[0] = 0.5
    if n_fft % 2 == 0:
        whole[-1] = 0.5
    np.testing.assert_allclose(weights.sum(axis=0), whole, atol=1e-9)
    assert (weights >= 0).all()
    # Each band is as wide as it says.
    np.testing.assert_allclose(weights.sum(axis=1) * 8000 / n_fft, np.diff(edges), atol=1e-6)


def test_levels_obey_parseval(music, spectra_of):
    for name, song in music.items():
        spectra = spectra_of(song, 44100, RATE)
        values = BandEnergy(edges_hz=[0.0, 11025.0], floor_db=-300.0).extract(spectra)
        (level,) = 10 * np.log10(
            np.mean(10 ** (values.arrays["band_energy"].astype(np.float64) / 10), axis=1)
        )
        rms = 10 * np.log10(2 * np.mean(np.square(spectra.mono.astype(np.float64))))
        assert level == pytest.approx(rms, abs=0.1), name


def test_equals_a_plain_computation_on_real_music(music, spectra_of):
    librosa = pytest.importorskip("librosa")
    edges = [20.0, 60.0, 250.0, 500.0, 2000.0, 4000.0, 6000.0, 11000.0]
    for name, song in music.items():
        spectra = spectra_of(song, 44100, RATE)
        power = np.abs(librosa.stft(spectra.mono.astype(np.float64), n_fft=2048, hop_length=512)) ** 2
        expected = np.zeros((len(edges) - 1, power.shape[1]))
        for i in range(len(edges) - 1):
            for k in range(1025):
                overlap = min(edges[i + 1], (k + 0.5) * BIN_HZ) - max(edges[i], (k - 0.5) * BIN_HZ)
                expected[i] += max(0.0, overlap) / BIN_HZ * power[k]
        levels = np.maximum(10 * np.log10(expected / (2048 * 768 / 4)), -100)
        values = BandEnergy(edges_hz=edges).extract(spectra).values
        np.testing.assert_allclose(
            values["band_energy_mean_db"], levels.mean(axis=1), atol=0.01, err_msg=name
        )
        np.testing.assert_allclose(values["band_energy_std_db"], levels.std(axis=1), atol=0.01, err_msg=name)
        median = np.median(levels, axis=1)
        np.testing.assert_allclose(values["band_energy_median_db"], median, atol=0.01, err_msg=name)
        share = expected.sum(axis=1) / expected.sum()
        np.testing.assert_allclose(values["band_energy_share"], share, rtol=1e-4, err_msg=name)


@pytest.mark.parametrize(("n", "fmin", "fmax"), [(11, 0.0, 11025.0), (2, 20.0, 500.0), (40, 1500.0, 96000.0)])
def test_mel_spaced_edges_are_librosas(n, fmin, fmax):
    librosa = pytest.importorskip("librosa")
    frequencies = mel_frequencies(n, fmin, fmax)
    np.testing.assert_allclose(frequencies, librosa.mel_frequencies(n, fmin=fmin, fmax=fmax), atol=1e-6)
    assert (frequencies[0], frequencies[-1]) == (fmin, fmax)


def test_without_edges_bands_are_mel_spaced_up_to_half_the_rate(chord):
    values = energy(chord)
    assert len(values["edges_hz"]) == 11
    np.testing.assert_allclose(values["edges_hz"], mel_frequencies(11, 0.0, 11025.0), rtol=1e-6)
    assert values["energy_share"].sum() == pytest.approx(1.0, abs=1e-6)
    assert energy(chord, n_bands=4, fmin=100.0, fmax=5000.0)["edges_hz"][[0, -1]].tolist() == [100.0, 5000.0]


@settings(max_examples=20, deadline=None)
@given(gain_db=st.floats(-30, 60), seed=st.integers(0, 99))
def test_gain_shifts_levels_and_leaves_shares(gain_db, seed):
    noise = 0.1 * np.random.default_rng(seed).standard_normal(8000)
    before = energy(noise, 8000, n_fft=512)
    after = energy(10 ** (gain_db / 20) * noise, 8000, n_fft=512)
    for name in ("energy_mean_db", "energy_median_db"):
        np.testing.assert_allclose(after[name] - before[name], gain_db, atol=1e-3)
    np.testing.assert_allclose(after["energy_std_db"], before["energy_std_db"], atol=1e-3)
    np.testing.assert_allclose(after["energy_share"], before["energy_share"], rtol=1e-4)


def test_edges_above_half_the_rate_are_cut_and_recorded(chord, spectra_of):
    extraction = BandEnergy(edges_hz=[0.0, 4000.0, 8000.0, 16000.0, 20000.0]).extract(spectra_of(chord, RATE))
    assert extraction.values["band_edges_hz"].tolist() == [0.0, 4000.0, 8000.0, 11025.0]
    assert extraction.values["band_energy_share"].shape == (3,)
    (fallback,) = extraction.fallbacks
    assert (fallback.wanted, fallback.used) == ("band_energy.edges_hz to 20000", "11025")
    (fallback,) = BandEnergy(fmax=12000.0).extract(spectra_of(chord, RATE)).fallbacks
    assert fallback.wanted == "band_energy.fmax to 12000"
    assert BandEnergy().extract(spectra_of(chord, RATE)).fallbacks == []
    with pytest.raises(ValueError, match="edges_hz=12000 is not below half the sample rate"):
        BandEnergy(edges_hz=[12000.0, 13000.0]).extract(spectra_of(chord, RATE))
    with pytest.raises(ValueError, match="fmin=12000 is not below half the sample rate"):
        BandEnergy(fmin=12000.0).extract(spectra_of(chord, RATE))


def test_silence_reads_the_floor_and_has_no_shares():
    values = energy(np.zeros(RATE), floor_db=-90.0)
    assert (values["energy_mean_db"] == -90.0).all()
    assert (values["energy_std_db"] == 0.0).all()
    assert values["energy_share"] is None
    assert set(energy(np.zeros(0)).values()) == {None}


def test_the_matrix_averages_power_at_the_series_rate(chord, spectra_of):
    spectra = spectra_of(chord, RATE)
    matrix = BandEnergy(edges_hz=[100.0, 1000.0, 9000.0]).extract(spectra).arrays["band_energy"]
    frames = 1 + len(chord) // 512
    assert matrix.dtype == np.float32
    assert matrix.shape == (2, -(-frames // 22))
    weights = band_weights(np.array([100.0, 1000.0, 9000.0]), RATE, 2048)
    power = weights @ spectra.power(2048, 512).double().numpy()
    expected = 10 * np.log10(power[:, 66:88].mean(axis=1) / (2048 * 768 / 4))
    np.testing.assert_allclose(matrix[:, 3], expected, atol=1e-3)


def test_the_key_follows_the_edges():
    def key(extractor: Extractor) -> str:
        return extractor.key(RATE)

    assert key(BandEnergy(edges_hz=[0.0, 100.0])) != key(BandEnergy(edges_hz=[0.0, 101.0]))
    assert key(BandEnergy(**dataclasses.asdict(BandEnergy()))) == key(BandEnergy())


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"edges_hz": [100.0]}, r"edges_hz=\[100.0\] must be two or more"),
        ({"edges_hz": [200.0, 100.0]}, "rising"),
        ({"edges_hz": [-1.0, 100.0]}, "none negative"),
        ({"edges_hz": [0.0, float("nan")]}, "edges_hz="),
        ({"edges_hz": [0.0, float("inf")]}, "edges_hz="),
        ({"n_fft": 0}, "n_fft=0 must"),
        ({"hop_length": 0}, "hop_length=0 must"),
        ({"n_bands": 0}, "n_bands=0 must"),
        ({"fmin": -1.0}, "fmin=-1.0 must"),
        ({"fmin": 500.0, "fmax": 400.0}, "fmax=400.0 must exceed fmin=500.0"),
        ({"floor_db": 0.0}, "floor_db=0.0 must"),
        ({"series_rate_hz": 0.0}, "series_rate_hz=0.0 must"),
    ],
)
def test_impossible_parameters_are_refused(parameters, message):
    with pytest.raises(ValueError, match=message):
        BandEnergy(**parameters).check()
