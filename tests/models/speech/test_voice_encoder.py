from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers.speech_like import SAMPLE_RATE, stored, syllables
from librosa.filters import mel
from scipy.signal import get_window
from scipy.special import expit

from pipeline.models import weights
from pipeline.models.speech.base import BackendUnavailable
from pipeline.models.speech.diarize import load_backend
from pipeline.models.speech.voice_encoder import (
    DIMENSIONS,
    WEIGHTS,
    VoiceEmbedder,
    VoiceEncoder,
    at_level,
    mel_powers,
    read_network,
)
from pipeline.speech.clustering import Cosines
from pipeline.stages.diarize.turns import turns_of


@pytest.fixture(scope="module")
def embedder() -> VoiceEmbedder:
    stored(WEIGHTS)
    return VoiceEmbedder.load()


@pytest.fixture(scope="module")
def random_network() -> VoiceEncoder:
    """The network with random weights: what it computes is looked at, and not what it has learned."""
    torch.manual_seed(20)
    return VoiceEncoder().eval()


def by_numpy(state: dict[str, np.ndarray], mels: np.ndarray) -> np.ndarray:
    """The network in numpy and float64, gate by gate: ``[frames, 40]`` → ``[256]``."""
    series = mels
    for layer in range(3):
        hidden = cell = np.zeros(256)
        outputs = []
        for values in series:
            gates = state[f"lstm.weight_ih_l{layer}"] @ values + state[f"lstm.bias_ih_l{layer}"]
            gates = gates + state[f"lstm.weight_hh_l{layer}"] @ hidden + state[f"lstm.bias_hh_l{layer}"]
            enter, forget, new, out = np.split(gates, 4)
            cell = expit(forget) * cell + expit(enter) * np.tanh(new)
            hidden = expit(out) * np.tanh(cell)
            outputs.append(hidden)
        series = np.array(outputs)
    raw = np.maximum(state["linear.weight"] @ series[-1] + state["linear.bias"], 0)
    return raw / np.linalg.norm(raw)


def numbers(network: VoiceEncoder) -> dict[str, np.ndarray]:
    return {name: value.double().numpy() for name, value in network.state_dict().items()}


@pytest.mark.parametrize("samples", [6400, 24000])
def test_the_network_is_an_lstm_as_numpy_computes_it(random_network, samples):
    mels = mel_powers(at_level(syllables(4.0)[:samples]))
    with torch.inference_mode():
        vector = random_network(mels[None])[0].numpy()
    assert np.count_nonzero(vector) > 50
    np.testing.assert_allclose(vector, by_numpy(numbers(random_network), mels.numpy()), atol=1e-5)


def test_the_real_weights_as_numpy_computes_them(embedder):
    window = syllables(4.0)[:16000]
    vector = by_numpy(numbers(embedder.network), mel_powers(at_level(window)).numpy())
    np.testing.assert_allclose(embedder.embed([window])[0], vector, atol=1e-5)


REFERENCE = {
    (9000, 1.0): {182: 0.203506, 89: 0.186957, 211: 0.186133, 248: 0.164531, 150: 0.160543, 243: 0.159415},
    (9000, 0.01): {182: 0.202529, 89: 0.182862, 211: 0.177047, 235: 0.166525, 155: 0.154016, 127: 0.153339},
    (24000, 1.0): {62: 0.278561, 89: 0.227954, 254: 0.22524, 13: 0.204049, 0: 0.188013, 243: 0.175161},
    (24000, 0.01): {62: 0.279236, 89: 0.225182, 254: 0.22178, 0: 0.191088, 13: 0.19067, 221: 0.176104},
}
"""Samples, and what they are multiplied by → the six largest of 256 values by the package resemblyzer 0.1.4: its
`normalize_volume` and `wav_to_mel_spectrogram`, and its network over the whole stretch."""


@pytest.mark.parametrize(("samples", "gain"), sorted(REFERENCE))
def test_embeddings_are_those_of_the_package(embedder, samples, gain):
    vector = embedder.embed([np.float32(gain) * syllables(4.0)[:samples]])[0]
    expected = REFERENCE[samples, gain]
    assert [float(vector[index]) for index in expected] == pytest.approx([*expected.values()], abs=1e-5)
    assert vector.max() == pytest.approx(max(expected.values()), abs=1e-5)


def test_features_are_powers_in_librosa_s_bands():
    window = syllables(4.0)[:24000]
    padded = np.pad(window.astype(np.float64), 200)
    frames = np.lib.stride_tricks.sliding_window_view(padded, 400)[::160] * get_window("hann", 400)
    powers = np.abs(np.fft.rfft(frames)) ** 2
    expected = powers @ mel(sr=SAMPLE_RATE, n_fft=400, n_mels=40).T
    found = mel_powers(window).numpy()
    assert found.shape == expected.shape == (151, 40)
    np.testing.assert_allclose(found, expected, atol=1e-6 * expected.max(), rtol=1e-4)


def test_what_is_soft_is_made_loud_and_what_is_loud_stays():
    window = syllables(4.0)[:24000]
    soft = at_level(np.float32(0.001) * window)
    assert 20 * np.log10(np.sqrt(np.mean(soft.astype(float) ** 2))) == pytest.approx(-30, abs=1e-3)
    assert np.array_equal(at_level(window), window)
    assert not at_level(np.zeros(100, np.float32)).any()


def test_embeddings_have_unit_length_and_do_not_depend_on_the_batch(embedder):
    windows = [syllables(12.0)[at : at + 24000] for at in range(0, 64000, 16000)]
    windows.insert(2, syllables(4.0)[:17777])
    together = embedder.embed(windows)
    alone = np.concatenate([embedder.embed([window]) for window in windows])
    assert together.shape == (5, DIMENSIONS)
    assert together.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1, rtol=1e-5)
    np.testing.assert_allclose(together, alone, atol=1e-5)


def test_silence_one_sample_and_nothing(random_network):
    embedder = VoiceEmbedder(random_network)
    assert np.isfinite(embedder.embed([np.zeros(24000, np.float32), np.ones(1, np.float32)])).all()
    assert embedder.embed([]).shape == (0, DIMENSIONS)


@pytest.mark.parametrize(
    "wrong", [np.zeros(0), np.zeros((2, 9)), np.array([0.0, np.nan]), np.array([np.inf])]
)
def test_what_is_no_speech_is_refused(random_network, wrong):
    with pytest.raises(ValueError, match="speech to embed"):
        VoiceEmbedder(random_network).embed([wrong])


def test_without_weights_it_says_what_to_type(tmp_path, monkeypatch):
    monkeypatch.setenv("SOUNDMILL_WEIGHTS", str(tmp_path))
    with pytest.raises(BackendUnavailable, match=f"fetch {WEIGHTS}"):
        VoiceEmbedder.load()


def test_other_files_are_no_weights(tmp_path):
    path = tmp_path / "weights.pt"
    for content in ({"some": torch.zeros(1)}, {"model_state": {"lstm.bias_ih_l0": torch.zeros(3)}}, [1]):
        torch.save(content, path)
        with pytest.raises(BackendUnavailable, match="does not hold"):
            read_network(path)
    path.write_bytes(b"no checkpoint")
    with pytest.raises(BackendUnavailable, match="does not hold"):
        read_network(path)


def test_the_backend_has_its_own_cosines_and_is_named_by_both_networks(embedder):
    stored("segmentation-3.0")
    backend = load_backend("resemblyzer")
    stream = backend.stream(num=None, minimum=1, maximum=None)
    stream.push(syllables(23.3))
    heard = stream.finish()
    assert heard.embeddings.shape == (len(heard.spans), DIMENSIONS)
    assert Cosines(**heard.cosines).alike > Cosines().alike
    found = turns_of(heard)
    assert len(found.seconds) >= 1
    assert found.centroids.shape[1] == DIMENSIONS
    digest = weights.weights_hash(weights.find(WEIGHTS))
    assert backend.model_id() == f"{backend.segmentation.model_id()}+{WEIGHTS}:{digest}"
