"""Against the openunmix package's own separator, with seeded random weights."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.errors import UserError
from pipeline.models.separation import BackendUnavailable, SeparationOptions
from pipeline.models.separation import openunmix as backend_module
from pipeline.models.separation.openunmix import OpenUnmix
from pipeline.models.separation.stream import separate_track

RATE = 44100
TARGETS = ("bass", "drums", "vocals")


@pytest.fixture
def folder(tmp_path) -> Path:
    """A model in the package's layout."""
    package = pytest.importorskip("openunmix.model")
    (tmp_path / "separator.json").write_text(
        json.dumps({"sample_rate": RATE, "nfft": 4096, "nhop": 1024, "nb_channels": 2})
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for target in TARGETS:
            model = package.OpenUnmix(nb_bins=2049, nb_channels=2, hidden_size=16, max_bin=1487)
            torch.save(model.state_dict(), tmp_path / f"{target}.pth")
            args = {"args": {"nfft": 4096, "nb_channels": 2, "hidden_size": 16}}
            (tmp_path / f"{target}.json").write_text(json.dumps(args))
    return tmp_path


def load(folder: Path) -> OpenUnmix:
    return OpenUnmix.load("cpu", SeparationOptions(openunmix_model=str(folder)))


def noise(samples: int) -> np.ndarray:
    return (0.1 * np.random.default_rng(0).standard_normal((2, samples))).astype(np.float32)


def reference(folder: Path, audio: np.ndarray) -> np.ndarray:
    from openunmix.utils import load_separator

    separator = load_separator(str(folder), targets=list(TARGETS), niter=1).eval()
    with torch.no_grad():
        return separator(torch.from_numpy(audio)[None])[0].numpy()


@pytest.mark.parametrize("samples", [4096, 50_000])
def test_a_stretch_is_what_the_package_gives(folder, samples):
    audio = noise(samples)
    backend = load(folder)
    assert backend.sources == TARGETS
    np.testing.assert_allclose(separate_track(backend, audio), reference(folder, audio), atol=1e-5)


def test_longer_tracks_are_joined_from_stretches(folder, monkeypatch):
    monkeypatch.setattr(backend_module, "SEGMENT_SECONDS", 1.0)
    audio, stride = noise(2 * RATE), int(0.75 * RATE)
    found = separate_track(load(folder), audio)
    # The first three quarters of the first stretch belong to no other.
    np.testing.assert_allclose(
        found[..., :stride], reference(folder, audio[:, :RATE])[..., :stride], atol=1e-5
    )
    second = reference(folder, audio[:, stride : stride + RATE])
    alone = slice(RATE, 2 * stride)
    np.testing.assert_allclose(found[..., alone], second[..., RATE - stride : stride], atol=1e-5)
    assert found.shape == (3, *audio.shape)


def test_short_and_silent_tracks(folder):
    backend = load(folder)
    assert np.isfinite(separate_track(backend, noise(1))).all()
    np.testing.assert_array_equal(separate_track(backend, np.zeros((2, 9000), np.float32)), 0)
    partly = noise(60_000)
    partly[:, 10_000:] = 0
    assert np.isfinite(separate_track(backend, partly)).all()


def test_what_is_missing_says_what_to_type(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "empty"))
    with pytest.raises(BackendUnavailable, match=r"type separation\.openunmix_model=umxhq to download it"):
        OpenUnmix.load()
    with pytest.raises(UserError, match="neither a folder nor one of umxhq, umxl"):
        OpenUnmix.load("cpu", SeparationOptions(openunmix_model="umxq"))
    with pytest.raises(UserError, match=r"does not hold separator\.json"):
        load(tmp_path.parent)
    (folder / "bass.pth").write_bytes(b"damaged")
    with pytest.raises(BackendUnavailable, match="cannot be loaded"):
        load(folder)


def test_published_weights_from_torchs_cache(tmp_path, monkeypatch):
    package = pytest.importorskip("openunmix.model")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    address, _, files = backend_module.PUBLISHED["umxhq"]
    monkeypatch.setitem(backend_module.PUBLISHED, "umxhq", (address, 16, files))
    checkpoints = tmp_path / "hub" / "checkpoints"
    checkpoints.mkdir(parents=True)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for file in files.values():
            model = package.OpenUnmix(nb_bins=2049, nb_channels=2, hidden_size=16, max_bin=1487)
            torch.save(model.state_dict(), checkpoints / file)
    backend = OpenUnmix.load()
    assert backend.sources == ("vocals", "drums", "bass", "other")
    assert backend.model_id().startswith("umxhq:")
    assert separate_track(backend, noise(5000)).shape == (4, 2, 5000)


def test_without_the_package(monkeypatch):
    monkeypatch.setattr(backend_module.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(BackendUnavailable, match="pip install 'openunmix>=1.3'"):
        OpenUnmix.load()
