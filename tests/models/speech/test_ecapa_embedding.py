"""ECAPA by SpeechBrain. The package and its weights are not here: a small stand-in has what is used of its interface,
and is no ECAPA-TDNN."""

from __future__ import annotations

import sys
import types

import numpy as np
import pytest
import torch
from helpers.speech_like import stored, syllables
from torch import nn

from pipeline.errors import UserError
from pipeline.models import weights
from pipeline.models.speech import hub_model
from pipeline.models.speech.base import BackendUnavailable
from pipeline.models.speech.diarize import load_backend
from pipeline.models.speech.ecapa_embedding import DIMENSIONS, WEIGHTS_FILE, EcapaEmbedder
from pipeline.stages.diarize.turns import turns_of


class StandInFbank(nn.Module):
    """In place of ``speechbrain.lobes.features.Fbank``: logarithms of 80 parts of a spectrum."""

    def __init__(self, n_mels: int) -> None:
        super().__init__()
        assert n_mels == 80

    def forward(self, samples: torch.Tensor) -> torch.Tensor:
        frames = samples.unfold(1, 400, 160) * torch.hann_window(400)
        return torch.fft.rfft(frames).abs()[..., 1:161].unflatten(-1, (80, 2)).sum(-1).add(1e-3).log()


class StandInNetwork(nn.Module):
    """In place of ``speechbrain.lobes.models.ECAPA_TDNN.ECAPA_TDNN``: one layer and a mean."""

    def __init__(self, input_size: int, *, channels: list[int], lin_neurons: int, **others: object) -> None:
        super().__init__()
        assert (input_size, channels[-1], lin_neurons) == (80, 3072, DIMENSIONS)
        assert set(others) == {"kernel_sizes", "dilations", "attention_channels"}
        self.layer = nn.Linear(input_size, lin_neurons)

    def forward(self, bands: torch.Tensor) -> torch.Tensor:
        return self.layer(bands).relu().mean(dim=1, keepdim=True)


@pytest.fixture
def speechbrain(monkeypatch):
    """The stand-in, as if it were installed."""
    names = ("speechbrain", "speechbrain.lobes", "speechbrain.lobes.features", "speechbrain.lobes.models")
    for name in (*names, "speechbrain.lobes.models.ECAPA_TDNN"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    sys.modules["speechbrain.lobes.features"].Fbank = StandInFbank
    sys.modules["speechbrain.lobes.models.ECAPA_TDNN"].ECAPA_TDNN = StandInNetwork


@pytest.fixture
def folder(tmp_path):
    """A model of the stand-in, its weights random."""
    torch.manual_seed(3)
    network = StandInNetwork(
        80, channels=[3072], lin_neurons=192, kernel_sizes=[], dilations=[], attention_channels=1
    )
    (tmp_path / "model").mkdir()
    torch.save(network.state_dict(), tmp_path / "model" / WEIGHTS_FILE)
    return tmp_path / "model"


def test_embeddings_of_a_folder_s_weights(speechbrain, folder):
    embedder = EcapaEmbedder.load(model=str(folder))
    windows = [syllables(4.0)[:24000], syllables(4.0)[:8000], syllables(4.0)[24000:48000], np.ones(3)]
    found = embedder.embed(windows)
    assert found.shape == (4, DIMENSIONS)
    assert found.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, rtol=1e-5)
    # By the definition: bands without their mean over the stretch, through the network.
    bands = StandInFbank(80)(torch.from_numpy(windows[0])[None])
    with torch.inference_mode():
        expected = embedder.network(bands - bands.mean(dim=1, keepdim=True))[0, 0].numpy()
    np.testing.assert_allclose(found[0], expected / np.linalg.norm(expected), atol=1e-5)
    assert embedder.embed([]).shape == (0, DIMENSIONS)


def test_the_model_is_named_by_its_weights(speechbrain, folder):
    before = EcapaEmbedder.load(model=str(folder)).model_id()
    assert before == f"ecapa:{weights.file_sha256(folder / WEIGHTS_FILE)}"
    state = torch.load(folder / WEIGHTS_FILE, weights_only=True)
    torch.save({name: value + 1 for name, value in state.items()}, folder / WEIGHTS_FILE)
    assert EcapaEmbedder.load(model=str(folder)).model_id() != before


def test_its_embeddings_are_clustered(speechbrain, folder):
    stored("segmentation-3.0")
    backend = load_backend("ecapa", model=str(folder))
    stream = backend.stream()
    stream.push(syllables(12.0))
    found = turns_of(stream.finish())
    assert len(found.seconds) >= 1
    assert found.centroids.shape[1] == DIMENSIONS
    assert backend.model_id().startswith("segmentation-3.0:")
    assert "+ecapa:" in backend.model_id()


@pytest.mark.parametrize("wrong", [np.zeros(0), np.array([0.0, np.nan])])
def test_what_is_no_speech_is_refused(speechbrain, folder, wrong):
    with pytest.raises(ValueError, match="speech to embed"):
        EcapaEmbedder.load(model=str(folder)).embed([wrong])


def test_without_the_package_it_says_what_to_type(monkeypatch, folder):
    monkeypatch.setitem(sys.modules, "speechbrain", None)
    with pytest.raises(BackendUnavailable, match="speechbrain is not installed; type `pip install"):
        EcapaEmbedder.load(model=str(folder))


def test_without_weights_it_says_what_to_type_and_asks_nobody(speechbrain, tmp_path, monkeypatch):
    asked = []

    def snapshot(name: str, *, local_files_only: bool) -> str:
        from huggingface_hub.errors import LocalEntryNotFoundError

        asked.append((name, local_files_only))
        raise LocalEntryNotFoundError("not there")

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot)
    with pytest.raises(BackendUnavailable, match="type `hf download speechbrain/spkrec-ecapa-voxceleb`"):
        EcapaEmbedder.load()
    assert asked == [("speechbrain/spkrec-ecapa-voxceleb", True)]
    with pytest.raises(BackendUnavailable, match="there is no folder /nowhere/at/all"):
        EcapaEmbedder.load(model="/nowhere/at/all")
    with pytest.raises(BackendUnavailable, match=f"no {WEIGHTS_FILE}"):
        EcapaEmbedder.load(model=str(tmp_path))


def test_what_lies_in_the_hub_s_cache_is_found(speechbrain, folder, monkeypatch):
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda name, local_files_only: str(folder))
    assert EcapaEmbedder.load(model="somebody/else").model_id() == EcapaEmbedder.load().model_id()
    assert hub_model.model_folder("somebody/else", [WEIGHTS_FILE]) == folder
    with pytest.raises(BackendUnavailable, match="type `hf download somebody/else`"):
        hub_model.model_folder("somebody/else", ["config.yaml"])


def test_a_name_that_cannot_be_is_refused():
    with pytest.raises(UserError, match="there is no model 'a/b/c'"):
        hub_model.model_folder("a/b/c", [])


def test_other_files_are_no_weights(speechbrain, folder):
    torch.save({"some": torch.zeros(1)}, folder / WEIGHTS_FILE)
    with pytest.raises(BackendUnavailable, match="does not hold the weights"):
        EcapaEmbedder.load(model=str(folder))
    (folder / WEIGHTS_FILE).write_bytes(b"no checkpoint")
    with pytest.raises(BackendUnavailable, match="does not hold the weights"):
        EcapaEmbedder.load(model=str(folder))
