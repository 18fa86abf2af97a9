"""Against demucs itself, on one and the same network with seeded random weights."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import torch
import yaml

pytest.importorskip("demucs")
from demucs.apply import BagOfModels, apply_model
from demucs.hdemucs import HDemucs
from helpers.separation_models import RATE, SEGMENT, SOURCES, small_htdemucs

from pipeline.audio.reader import Spool
from pipeline.audio.resample import make_view
from pipeline.errors import UserError
from pipeline.models.separation import BackendUnavailable, SeparationOptions, SeparationStream
from pipeline.models.separation.demucs import Demucs
from pipeline.models.separation.separation_stream import separate_track

# demucs warns about layers of small models that have nothing to initialise.
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def model() -> torch.nn.Module:
    return small_htdemucs()


@pytest.fixture(scope="module")
def backend(model) -> Demucs:
    return Demucs(model)


def noise(samples: int, seed: int = 0) -> np.ndarray:
    return (0.1 * np.random.default_rng(seed).standard_normal((2, samples)) + 0.01).astype(np.float32)


def reference(model: torch.nn.Module, audio: np.ndarray) -> np.ndarray:
    """What ``demucs.api.Separator(shifts=0).separate_tensor`` does once it has its tensor."""
    wav = torch.from_numpy(audio)
    ref = wav.mean(0)
    mean, std = ref.mean(), ref.std() + 1e-8
    out = apply_model(model, ((wav - mean) / std)[None], shifts=0, split=True, overlap=0.25)
    return (out * std + mean)[0].numpy()


@pytest.mark.parametrize(
    "samples", [2, 100, SEGMENT - 1, SEGMENT, SEGMENT + 1, 9000, 9001, 3 * SEGMENT, 50_001]
)
def test_stems_are_those_of_apply_model(model, backend, samples):
    audio = noise(samples)
    expected = reference(model, audio)
    found = separate_track(backend, audio)
    assert np.abs(expected).max() > 1e-3
    # The network itself works at unit level: the promise of 1e-4 is about that.
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize(("channels", "rate"), [(1, 44100), (2, 44100), (1, 22050), (2, 48000)])
def test_mono_and_other_rates(model, backend, channels, rate):
    recorded = noise(2 * rate)[:channels]
    view = make_view(recorded, rate, RATE, 2)
    np.testing.assert_allclose(separate_track(backend, view), reference(model, view), atol=1e-5)


def test_the_network_of_the_published_size():
    from demucs.htdemucs import HTDemucs

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = HTDemucs(SOURCES, bottom_channels=512, segment=Fraction(39, 5)).eval()
    audio = noise(100_000)  # one window
    np.testing.assert_allclose(separate_track(Demucs(model), audio), reference(model, audio), atol=1e-4)


@pytest.mark.parametrize("batch_items", [2, 3, 8])
def test_the_batch_changes_nothing(model, batch_items):
    tracks = [noise(n, seed) for seed, n in enumerate([40_000, 100, SEGMENT, 25_000])]
    backend = Demucs(model)
    alone = [separate_track(backend, track) for track in tracks]
    backend.batch_items = batch_items
    for order in ([0, 1, 2, 3], [3, 1, 0, 2]):
        stream = SeparationStream(backend, [Spool.of([tracks[i]], 2) for i in order])
        blocks: dict[int, list[np.ndarray]] = {i: [] for i in order}
        for piece in stream:
            if piece.block is not None:
                blocks[order[piece.track]].append(piece.block)
        for i in order:
            np.testing.assert_allclose(np.concatenate(blocks[i], axis=-1), alone[i], atol=1e-6)
        assert max(share.items for share in stream.shares) == min(batch_items, 8)


def test_on_a_cpu_it_is_the_same_to_the_bit(backend):
    tracks = [noise(30_000, 1), noise(20_000, 2)]
    alone = [separate_track(backend, track) for track in tracks]
    found: list[list[np.ndarray]] = [[], []]
    for piece in SeparationStream(backend, [Spool.of([track], 2) for track in tracks]):
        if piece.block is not None:
            found[piece.track].append(piece.block)
    for blocks, expected in zip(found, alone, strict=True):
        np.testing.assert_array_equal(np.concatenate(blocks, axis=-1), expected)


def test_a_bag_is_averaged_with_its_weights(model):
    weights = [[1.0, 0.0, 0.5, 0.2], [0.0, 1.0, 0.5, 0.6]]
    bag = BagOfModels([model, small_htdemucs(1)], weights)
    audio = noise(30_000)
    np.testing.assert_allclose(separate_track(Demucs(bag), audio), reference(bag, audio), atol=1e-5)


def test_a_model_without_a_fixed_length():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = HDemucs(SOURCES, channels=8, segment=1.5, samplerate=RATE).eval()
    audio = noise(30_000)
    np.testing.assert_allclose(separate_track(Demucs(model), audio), reference(model, audio), atol=1e-5)


def test_bags_that_cannot_share_batches_are_refused(model):
    other = small_htdemucs(1, segment=Fraction(1))
    with pytest.raises(BackendUnavailable, match="cut a track differently"):
        Demucs(BagOfModels([model, other]), name="odd")


def test_silence_stays_silent_and_a_constant_finite(backend):
    np.testing.assert_array_equal(separate_track(backend, np.zeros((2, 20_000), np.float32)), 0)
    assert np.isfinite(separate_track(backend, np.full((2, 1), 0.5, np.float32))).all()
    assert separate_track(backend, np.zeros((2, 0), np.float32)).shape == (4, 2, 0)


def package(model: torch.nn.Module) -> dict:
    args, kwargs = model._init_args_kwargs
    return {"klass": type(model), "args": args, "kwargs": kwargs, "state": model.state_dict()}


def test_a_model_from_a_folder(tmp_path, model):
    torch.save(package(model), tmp_path / "0a1b2c3d.th")
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump({"models": ["0a1b2c3d"]}))
    options = SeparationOptions(demucs_model="mine", demucs_repo=str(tmp_path), amp="false")
    loaded = Demucs.load("cpu", options)
    audio = noise(15_000)
    np.testing.assert_array_equal(separate_track(loaded, audio), separate_track(Demucs(model), audio))
    assert loaded.model_id().startswith("mine:")
    with pytest.raises(UserError, match=r"demucs_model=yours: .* holds 0a1b2c3d, mine"):
        Demucs.load("cpu", SeparationOptions(demucs_model="yours", demucs_repo=str(tmp_path)))
    with pytest.raises(UserError, match="is not a folder"):
        Demucs.load("cpu", SeparationOptions(demucs_repo=str(tmp_path / "none")))
    (tmp_path / "0a1b2c3d.th").write_bytes(b"damaged")
    with pytest.raises(BackendUnavailable, match="cannot be loaded"):
        Demucs.load("cpu", options)


def test_from_torchs_cache_only_with_the_stated_checksum(tmp_path, model, monkeypatch):
    from demucs import pretrained

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    file = tmp_path / "hub" / "checkpoints" / "955717e8-8726e21a.th"
    file.parent.mkdir(parents=True)
    torch.save(package(model), file)
    with pytest.raises(BackendUnavailable, match="Invalid checksum"):
        Demucs.load()
    import hashlib

    own = hashlib.sha256(file.read_bytes()).hexdigest()[:8]
    file.rename(file.with_name(f"955717e8-{own}.th"))
    monkeypatch.setattr(
        pretrained, "_parse_remote_files", lambda path: {"955717e8": f"https://example.org/955717e8-{own}.th"}
    )
    assert Demucs.load().sources == tuple(SOURCES)


def test_without_weights_it_says_what_to_type(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(BackendUnavailable, match=r"type separation\.demucs_model=htdemucs to download it"):
        Demucs.load()
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(BackendUnavailable, match="HF_HUB_OFFLINE is set"):
        Demucs.load("cpu", SeparationOptions(demucs_model="htdemucs_ft"))
