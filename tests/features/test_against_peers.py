"""Every extractor against an independent implementation, on signals that need no recording.

The tests of each extractor compare it on real music and speech, too, where those are.
"""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from helpers.signals import SYNTHETIC

from pipeline.dsp.onsets import OnsetCurve, pick_onsets, track_beats
from pipeline.features import REGISTRY
from pipeline.features.band_energy import BandEnergy
from pipeline.features.chroma import Chroma
from pipeline.features.hpss import Hpss
from pipeline.features.key import PROFILES, Key
from pipeline.features.loudness import Loudness
from pipeline.features.mel import Mel
from pipeline.features.mfcc import Mfcc
from pipeline.features.quality import Quality
from pipeline.features.spectral import Spectral, describe_frames
from pipeline.features.tempo import Tempo

librosa = pytest.importorskip("librosa")

RATE = 22050
BIN_HZ = RATE / 2048
pytestmark = pytest.mark.parametrize("name", SYNTHETIC)


@pytest.fixture
def samples(name, synthetic) -> np.ndarray:
    return synthetic[name]


@pytest.fixture
def spectra(samples, spectra_of):
    return spectra_of(samples, RATE)


def test_mel_is_librosas(samples, spectra):
    power = librosa.feature.melspectrogram(y=samples, sr=RATE)
    levels = librosa.power_to_db(power, amin=1e-30, top_db=None) - 20 * np.log10(1024 / 2)
    levels = np.maximum(levels, -100)
    values = Mel().extract(spectra).values
    for statistic in ("mean", "std", "min", "max"):
        expected = getattr(levels, statistic)(axis=1)
        np.testing.assert_allclose(values[f"mel_{statistic}"], expected, atol=0.01, err_msg=statistic)


def test_mfcc_is_librosas(samples, spectra):
    expected = librosa.feature.mfcc(y=samples, sr=RATE)
    values = Mfcc().extract(spectra).values
    np.testing.assert_allclose(values["mfcc_mean"], expected.mean(axis=1), atol=1e-2)
    np.testing.assert_allclose(values["mfcc_std"], expected.std(axis=1), atol=1e-2)


def test_tuning_is_librosas(samples, spectra):
    for bins in (12, 36):
        expected = librosa.estimate_tuning(y=samples, sr=RATE, bins_per_octave=bins)
        assert spectra.tuning(2048, 512, bins) == pytest.approx(expected, abs=0.02), bins


@pytest.mark.parametrize("method", ["stft", "cqt"])
def test_chroma_is_librosas(method, samples, spectra):
    if method == "stft":
        expected = librosa.feature.chroma_stft(y=samples, sr=RATE)
    else:
        # Of a signal more than a sixth of a semitone off, librosa takes the fine part of the tuning only. And with
        # all of each filter: by default it drops the least 1 % of its spectrum, which shows beside silence.
        tuning = spectra.cqt_tuning(2048, 512)
        transform = librosa.cqt(samples, sr=RATE, n_bins=252, bins_per_octave=36, tuning=tuning, sparsity=0)
        expected = librosa.feature.chroma_cqt(C=np.abs(transform), sr=RATE, bins_per_octave=36)
    extraction = Chroma(method=method, series_rate_hz=1000).extract(spectra)
    assert extraction.values["chroma_method"] == method
    matrix = extraction.arrays["chroma"]
    sounding = matrix.any(axis=0)
    frames, peers = matrix[:, sounding], expected[:, sounding]
    lengths = np.linalg.norm(frames, axis=0) * np.linalg.norm(peers, axis=0)
    cosines = (frames * peers).sum(axis=0) / lengths
    assert cosines.mean() >= 0.999
    np.testing.assert_allclose(extraction.values["chroma_mean"], peers.mean(axis=1), atol=0.01)


def test_key_scores_are_those_of_librosas_chroma(name, samples, spectra):
    frames = librosa.feature.chroma_stft(y=samples, sr=RATE)
    sounding = Chroma(method="stft", series_rate_hz=1000).extract(spectra).arrays["chroma"].any(axis=0)
    frames = frames[:, sounding].astype(np.float64)
    mean = (frames / np.linalg.norm(frames, axis=0)).mean(axis=1)
    expected = [np.corrcoef(mean, np.roll(w, k))[0, 1] for w in PROFILES["krumhansl"] for k in range(12)]
    scores = Key(method="stft", profile="krumhansl").extract(spectra).values["key_scores"]
    assert scores is not None or name not in ("chord", "band", "silent edges")
    if scores is not None:  # what has no notes has no key
        np.testing.assert_allclose(scores, expected, atol=0.01)


def test_shares_of_hpss_are_librosas(samples, spectra):
    parts = librosa.decompose.hpss(librosa.stft(samples))
    energies = [np.square(np.abs(part), dtype=np.float64).sum() for part in parts]
    values = Hpss().extract(spectra).values
    found = [values["hpss_harmonic_share"], values["hpss_percussive_share"]]
    assert found == pytest.approx([energy / sum(energies) for energy in energies], abs=1e-4)


def test_band_energies_are_sums_of_librosas_spectrum(samples, spectra):
    edges = [20.0, 60.0, 250.0, 500.0, 2000.0, 4000.0, 6000.0, 11000.0]
    power = np.abs(librosa.stft(samples.astype(np.float64))) ** 2
    lower, upper = (np.arange(1025) - 0.5) * BIN_HZ, (np.arange(1025) + 0.5) * BIN_HZ
    overlap = np.array(
        [np.clip(np.minimum(b, upper) - np.maximum(a, lower), 0, None) for a, b in itertools.pairwise(edges)]
    )
    energy = overlap / BIN_HZ @ power
    levels = np.maximum(10 * np.log10(energy / (2048 * 768 / 4) + 1e-30), -100)
    values = BandEnergy(edges_hz=edges).extract(spectra).values
    np.testing.assert_allclose(values["band_energy_mean_db"], levels.mean(axis=1), atol=0.01)
    np.testing.assert_allclose(values["band_energy_std_db"], levels.std(axis=1), atol=0.01)
    share = energy.sum(axis=1) / energy.sum()
    np.testing.assert_allclose(values["band_energy_share"], share, rtol=1e-4, atol=1e-9)


def test_spectral_descriptors_are_librosas(samples, spectra):
    magnitude = np.abs(librosa.stft(samples))
    sounding = describe_frames(spectra.power(2048, 512), RATE, 2048).mean_square >= 1e-10
    values = Spectral().extract(spectra).values
    feature = librosa.feature
    for quantity in ("centroid", "bandwidth", "rolloff"):
        (series,) = getattr(feature, f"spectral_{quantity}")(S=magnitude, sr=RATE, n_fft=2048)
        series = series[sounding]
        assert values[f"spectral_{quantity}_mean_hz"] == pytest.approx(series.mean(), rel=1e-3)
        assert values[f"spectral_{quantity}_std_hz"] == pytest.approx(series.std(), rel=1e-3, abs=1e-3)
    (flatness,) = feature.spectral_flatness(S=magnitude, n_fft=2048)
    assert values["spectral_flatness_mean"] == pytest.approx(flatness[sounding].mean(), rel=1e-3)
    contrast = feature.spectral_contrast(S=magnitude, sr=RATE, n_fft=2048)[:, sounding].mean(axis=1)
    # In bands that hold nothing the weakest bins are the rounding of the float32 transform.
    tolerance = np.where(contrast > 40.0, 1e-2, 1e-3) * contrast
    assert (np.abs(values["spectral_contrast_mean"] - contrast) <= tolerance).all()


def test_onsets_and_beats_are_librosas(samples, spectra):
    curve = OnsetCurve(2048, 512)
    curve.add(spectra.rises(2048, 512, 128))
    strength = curve.strength()
    expected = librosa.onset.onset_strength(y=samples, sr=RATE)
    np.testing.assert_allclose(strength, expected, atol=1e-3)
    peers = librosa.onset.onset_detect(onset_envelope=strength, sr=RATE)
    np.testing.assert_array_equal(pick_onsets(strength, RATE / 512), peers)
    for bpm in (60.0, 120.0, 171.0):
        _, beats = librosa.beat.beat_track(onset_envelope=strength, sr=RATE, bpm=bpm)
        np.testing.assert_array_equal(track_beats(strength, bpm, RATE / 512), beats)


def test_the_tempo_is_librosas(name, samples, spectra):
    tempo = Tempo().extract(spectra).values["tempo_bpm"]
    assert tempo is not None or name not in ("clicks", "band")
    if tempo is not None:  # a steady sound has none
        expected = float(librosa.beat.beat_track(y=samples, sr=RATE)[0][0])
        octave = round(np.log2(tempo / expected))
        assert abs(octave) <= 1
        # librosa's tempo is one of a whole number of frames per beat.
        period = 60 * RATE / 512 / tempo * 2.0**octave
        assert period == pytest.approx(60 * RATE / 512 / expected, abs=0.51)


def test_loudness_is_pyloudnorms(name, samples, at_rate, spectra_of):
    pyloudnorm = pytest.importorskip("pyloudnorm")
    stereo = np.stack([samples, 0.5 * np.roll(samples, 99)])
    for rate, filters, tolerance in ((48000, "DeMan", 0.01), (44100, "K-weighting", 0.1)):
        sound = at_rate(stereo, RATE, rate)
        # Whole steps of the measurement: pyloudnorm measures up to half a block beyond the end.
        sound = sound[:, : sound.shape[1] // (rate // 10) * (rate // 10)]
        expected = pyloudnorm.Meter(rate, filter_class=filters).integrated_loudness(sound.T.astype(float))
        found = Loudness().extract(spectra_of(sound, rate)).values["loudness_integrated_lufs"]
        assert found == pytest.approx(expected, abs=tolerance)


def test_quality_is_what_numpy_and_librosa_say(samples, spectra_of):
    left, right = samples.astype(np.float64), np.roll(samples, 7).astype(np.float64)
    values = Quality().extract(spectra_of(np.stack([left, right]), RATE)).values
    correlation = (left @ right) / np.sqrt((left @ left) * (right @ right))
    assert values["quality_phase_correlation"] == pytest.approx(correlation, abs=1e-6)
    side, mid = np.square(left - right).sum(), np.square(left + right).sum()
    assert values["quality_stereo_width"] == pytest.approx(side / (side + mid), abs=1e-6)
    crest = 20 * np.log10(
        np.abs(left).max() / librosa.feature.rms(y=left, frame_length=len(left), center=False)
    )
    assert values["quality_crest_factor_db"] == pytest.approx(float(crest[0, 0]), abs=1e-3)


def test_every_extractor_has_a_peer_here(name):
    """A new one is compared here, too."""
    peers = {
        "mel",
        "mfcc",
        "chroma",
        "key",
        "hpss",
        "band_energy",
        "spectral",
        "tempo",
        "loudness",
        "quality",
        "fingerprint",  # in test_fingerprint.py
    }
    assert set(REGISTRY) == peers
