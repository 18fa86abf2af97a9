from __future__ import annotations

import numpy as np
import pytest
from helpers.speech_like import SAMPLE_RATE, stored, syllables

from pipeline.models.speech.base import BackendUnavailable
from pipeline.models.speech.quality import MIN_SECONDS, Dnsmos, snr_db


@pytest.fixture(scope="module")
def dnsmos() -> Dnsmos:
    stored("dnsmos")
    return Dnsmos.load()


def warble(seconds: int = 4) -> np.ndarray:
    """A tone that comes and goes, in noise."""
    rng = np.random.default_rng(5)
    t = np.arange(SAMPLE_RATE * seconds) / SAMPLE_RATE
    tone = np.sin(2 * np.pi * (150 + 40 * np.sin(2 * np.pi * 3 * t)) * t) * (np.sin(2 * np.pi * 2 * t) > 0)
    return (0.3 * tone + 0.01 * rng.standard_normal(len(t))).astype(np.float32)


def test_values_are_the_packages(dnsmos):
    """Values of speechmos 0.0.1.1 with librosa 0.11, `dnsmos.run(warble(), 16000)`."""
    values = dnsmos.quality(warble())
    assert values == pytest.approx((1.180703, 1.094224, 1.115136, 2.559122), abs=2e-3)
    assert values._fields == ("sig", "bak", "ovrl", "p808")


def test_noise_sounds_worse(dnsmos, shared_audio):
    soundfile = pytest.importorskip("soundfile")
    path = sorted((shared_audio / "speech" / "en_US_f_Allison").glob("*.wav"))[3]
    clean = np.repeat(soundfile.read(path, dtype="float32")[0], 2)
    noisy = clean + np.random.default_rng(1).normal(0, 0.03, len(clean)).astype(np.float32)
    better, worse = dnsmos.quality(clean), dnsmos.quality(noisy)
    assert better.bak > worse.bak + 0.5
    assert better.ovrl > worse.ovrl + 0.3


def test_longer_clips_are_means_over_windows(dnsmos):
    long = syllables(12.0)
    windows = [dnsmos.quality(long[first * SAMPLE_RATE :][: int(9.01 * SAMPLE_RATE)]) for first in range(3)]
    np.testing.assert_allclose(dnsmos.quality(long), np.mean(windows, axis=0), rtol=1e-4)


@pytest.mark.parametrize(("seconds", "hop", "looked_at"), [(12.0, 3, [1]), (15.0, 3, [1, 4]), (9.5, 5, [0])])
def test_of_windows_next_to_each_other_some_are_enough(dnsmos, seconds, hop, looked_at):
    long = syllables(20.0)[: int(seconds * SAMPLE_RATE)]
    windows = [dnsmos.quality(long[first * SAMPLE_RATE :][: int(9.01 * SAMPLE_RATE)]) for first in looked_at]
    np.testing.assert_allclose(dnsmos.quality(long, hop), np.mean(windows, axis=0), rtol=1e-4)
    np.testing.assert_allclose(dnsmos.quality(long, hop), dnsmos.quality(long), atol=0.15)


@pytest.mark.parametrize("seconds", [1.0, 9.0, 9.01, 10.0])
def test_values_are_a_listeners(dnsmos, seconds):
    values = dnsmos.quality(syllables(12.0)[: int(seconds * SAMPLE_RATE)])
    assert all(0 < value < 5.5 for value in values)


def test_what_has_no_value(dnsmos):
    assert dnsmos.quality(np.zeros(0, np.float32)) is None
    assert dnsmos.quality(np.ones(1, np.float32)) is None
    assert dnsmos.quality(warble()[: int(MIN_SECONDS * SAMPLE_RATE) - 1]) is None
    assert dnsmos.quality(np.zeros(10 * SAMPLE_RATE, np.float32)) is None
    for wrong in (np.full(SAMPLE_RATE, np.nan), np.zeros((2, SAMPLE_RATE)), np.zeros(SAMPLE_RATE, np.int16)):
        with pytest.raises(ValueError, match="samples"):
            dnsmos.quality(wrong)


def test_missing_weights(tmp_path, monkeypatch):
    monkeypatch.setenv("SOUNDMILL_WEIGHTS", str(tmp_path))
    with pytest.raises(BackendUnavailable, match="fetch dnsmos"):
        Dnsmos.load()


@pytest.mark.parametrize("snr", [-5.0, 0.0, 10.0, 30.0])
def test_snr_is_the_one_it_was_mixed_at(snr):
    rng = np.random.default_rng(3)
    samples = rng.normal(0, 0.01, 60 * SAMPLE_RATE)
    for start in (10, 30):
        samples[start * SAMPLE_RATE : (start + 8) * SAMPLE_RATE] += rng.normal(
            0, 0.01 * 10 ** (snr / 20), 8 * SAMPLE_RATE
        )
    assert snr_db(samples, np.array([[10, 18], [30, 38.0]])) == pytest.approx(snr, abs=0.3)


def test_snr_without_speech_or_noise():
    noise = np.random.default_rng(4).normal(0, 0.1, SAMPLE_RATE)
    assert snr_db(noise, np.zeros((0, 2))) is None
    assert snr_db(noise, np.array([[0.0, 2.0]])) is None
    assert snr_db(np.zeros(SAMPLE_RATE), np.array([[0.0, 0.5]])) is None
    assert snr_db(np.zeros(0), np.array([[0.0, 0.5]])) is None
    half = np.concatenate([noise, np.zeros(SAMPLE_RATE)])
    assert snr_db(half, np.array([[0.0, 1.0]])) is None, "digital silence beside the speech"
    assert snr_db(half, np.array([[1.0, 2.0]])) is None, "louder beside the speech than in it"
    with pytest.raises(ValueError, match="samples"):
        snr_db(np.full(10, np.nan), np.zeros((0, 2)))
