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
from pipeline.models.separation.separation_stream import separate_track

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


def separator(**settings):
    """The package's, whose masks differ by target, channel, bin and frame."""
    package = pytest.importorskip("openunmix.model")
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        targets = {}
        for target in TARGETS:
            model = targets[target] = package.OpenUnmix(2049, 2, hidden_size=16, max_bin=1487)
            model.input_mean.uniform_(-1, 0)
            model.input_scale.uniform_(0.5, 2)
            model.output_scale.uniform_(0.5, 1)
            for norm in (model.bn1, model.bn2, model.bn3):
                norm.running_mean.uniform_(-0.1, 0.1)
                norm.running_var.uniform_(0.05, 0.5)
                norm.weight.uniform_(0.2, 1)
                norm.bias.uniform_(-1, 0)
    return package.Separator(targets, **{"niter": 1, "wiener_win_len": 30, **settings}).eval()


def like_music(items: int, samples: int) -> torch.Tensor:
    """Tones at random places of the stereo image that die away, over a little noise; peaks near 1."""
    generator = torch.Generator().manual_seed(1)
    time = torch.arange(samples) / RATE
    noise = torch.randn(items, 2, samples, generator=generator)
    pitch, pan = (
        60 * 2 ** (6 * torch.rand(items, 12, 1, generator=generator)),
        torch.rand(items, 12, 1, 2, generator=generator),
    )
    notes = torch.sin(2 * torch.pi * pitch * time) * torch.exp(-5 * ((time + pitch / 500) % 0.7))
    return (0.2 * (notes[..., None] * pan).sum(1).transpose(1, 2) + 0.01 * noise).clamp(-1, 1)


KINDS = {
    "stereo": lambda x: x,
    "near-mono": lambda x: x.mean(1, keepdim=True) + 1e-3 * x,
    "silence in parts": lambda x: x * (torch.arange(x.shape[-1]) // 20_000 % 2),
    "very quiet": lambda x: 1e-4 * x,
    "one channel silent": lambda x: x * torch.tensor([[1.0], [0.0]]),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("samples", [30 * 1024 - 1, 70_000, 4096])
def test_batched_is_what_the_package_gives(kind, samples):
    network = separator()
    backend, audio = OpenUnmix(network), KINDS[kind](like_music(3, samples)).contiguous()
    with torch.inference_mode():
        wanted = network(audio.clone())
        for items in (1, 2):
            backend.batched.filtered_items = items
            found = backend.separate(audio)
            torch.testing.assert_close(found, wanted, rtol=0, atol=1e-5 * float(audio.abs().max()))


def test_mono_is_what_the_package_gives_in_float64():
    """Where both channels and their masks are alike, the package's filter is not a number in float32."""
    network = separator(wiener_win_len=None)
    with torch.no_grad():
        for target in network.target_models.values():
            for value in (target.fc3.weight, target.bn3.weight, target.bn3.bias):
                value[2049:] = value[:2049]
            for value in (target.bn3.running_mean, target.bn3.running_var):
                value[2049:] = value[:2049]
        audio = like_music(1, 70_000).mean(1, keepdim=True).repeat(1, 2, 1)
        found = OpenUnmix(network).separate(audio)
        wanted = network.double()(audio.double())
    torch.testing.assert_close(found.double(), wanted, rtol=0, atol=1e-4)


def test_other_settings_are_left_to_the_package():
    assert OpenUnmix(separator()).batched
    audio = like_music(1, 9000)
    for settings in ({"niter": 2}, {"niter": 0}, {"residual": True}, {"softmask": True}):
        network = separator(**settings)
        backend = OpenUnmix(network)
        assert backend.batched is None
        with torch.inference_mode():
            torch.testing.assert_close(backend.separate(audio.clone()), network(audio.clone()))


def test_nothing_waits_for_the_device():
    from torch.utils._python_dispatch import TorchDispatchMode

    class Calls(TorchDispatchMode):
        names: tuple[str, ...] = ()

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            self.names += (str(function),)
            return function(*args, **(kwargs or {}))

    backend = OpenUnmix(separator())
    with torch.no_grad(), Calls() as calls:
        backend.separate(like_music(1, 70_000))
    assert "aten._fft_c2r.default" in calls.names
    assert not [name for name in calls.names if "_local_scalar_dense" in name or "nonzero" in name]


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
