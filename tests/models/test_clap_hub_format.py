"""Checkpoints of transformers against transformers itself."""

import json
import shutil

import numpy as np
import pytest
import torch
from helpers.clap_hub import load_hub_model, write_hub_model
from helpers.clap_reference import SAMPLE_RATE, synthetic_clips
from helpers.clap_towers import load_tower
from torch.nn import functional as F

from pipeline.errors import UserError
from pipeline.models.clap.checkpoint import ARCHITECTURES, read_checkpoint
from pipeline.models.clap.embed import ClapEmbedder


@pytest.fixture(scope="module", params=ARCHITECTURES)
def model(request, tmp_path_factory):
    """Architecture and folder."""
    return request.param, write_hub_model(tmp_path_factory.mktemp("hub"), request.param)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return write_hub_model(tmp_path_factory.mktemp("hub"))


def audio_features(model, **inputs):
    """What transformers calls the audio features: its return type has changed between releases."""
    found = model.get_audio_features(**inputs)
    return getattr(found, "pooler_output", found)


@torch.inference_mode()
def test_embeddings_equal_those_of_transformers(model):
    from transformers import ClapFeatureExtractor

    architecture, folder = model
    clips = synthetic_clips()
    # LAION's filters begin at 50 Hz; the class would begin at 0.
    extractor = ClapFeatureExtractor(frequency_min=50, truncation="rand_trunc", padding="repeatpad")
    inputs = extractor(clips, sampling_rate=SAMPLE_RATE, return_tensors="pt")
    expected = audio_features(load_hub_model(folder), **inputs)
    tower, info = load_tower(folder)
    assert info.architecture == architecture
    # From their spectrogram: the network alone.
    normal = inputs["input_features"] * tower.scale + tower.offset
    image = F.interpolate(normal, (1024, 64), mode="bicubic", align_corners=True)[:, 0]
    ours = F.normalize(tower.audio_projection(tower.audio_branch(image)), dim=-1)
    torch.testing.assert_close(ours, expected, atol=1e-5, rtol=0)
    # From audio: their numpy spectrogram in float64 against ours in float32, and our 16 bits.
    embedded, _ = ClapEmbedder(folder).embed_tracks(clips)
    found = np.stack([track.windows[0].embedding for track in embedded])
    # The last clip goes beyond full scale: LAION and we clip it, transformers does not.
    np.testing.assert_allclose(found[:-1], expected[:-1].numpy(), atol=2e-3, rtol=0)
    between = expected @ expected.T - 2 * torch.eye(len(expected))
    assert between.max() < 0.99, "clips that all come out alike would prove nothing"


def test_a_file_with_its_config_beside_it_is_the_folder(tiny):
    folder, file = read_checkpoint(tiny), read_checkpoint(tiny / "model.safetensors")
    assert folder.info.model_id == file.info.model_id
    assert folder.info.architecture == "HTSAT-tiny"


def test_the_same_weights_have_one_name_in_either_format(tiny, tmp_path):
    """The name is of the weights, so a converted file stays in its embedding space."""
    checkpoint = read_checkpoint(tiny)
    path = tmp_path / "laion.pt"
    torch.save({"state_dict": {f"module.{k}": v for k, v in checkpoint.state.items()}}, path)
    assert read_checkpoint(path).info.model_id == checkpoint.info.model_id
    checkpoint.state["audio_projection.2.bias"][0] += 1e-3
    torch.save({"state_dict": checkpoint.state}, path)
    assert read_checkpoint(path).info.model_id != checkpoint.info.model_id


def copy_with(tiny, folder, **audio):
    shutil.copytree(tiny, folder)
    config = json.loads((folder / "config.json").read_text())
    config["audio_config"] |= audio
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize(
    ("audio", "message"),
    [
        ({"enable_fusion": True}, "it is a fusion checkpoint"),
        ({"window_size": 7}, "its window_size is 7, not 8"),
        ({"hidden_act": "relu"}, "its hidden_act is relu, not gelu"),
    ],
)
def test_models_that_compute_something_else_are_refused(tiny, tmp_path, audio, message):
    assert message in refusal(copy_with(tiny, tmp_path / "x", **audio))


def test_incomplete_and_damaged_ones_are_refused(tiny, tmp_path):
    folder = copy_with(tiny, tmp_path / "x")
    weights, config = folder / "model.safetensors", folder / "config.json"
    whole, said = weights.read_bytes(), config.read_text()
    weights.write_bytes(whole[: len(whole) // 2])
    assert "model.safetensors" in refusal(folder) or "refused" in refusal(folder)
    weights.write_bytes(whole)
    config.write_text("{")
    assert "cannot read" in refusal(folder)
    config.write_text(json.dumps({"model_type": "bert"}))
    assert "not of a transformers CLAP model" in refusal(folder)
    config.unlink()
    assert "there is no config.json beside model.safetensors" in refusal(folder)
    config.write_text(said)
    weights.unlink()
    assert "there is no file" in refusal(folder)


def test_a_weight_that_is_not_known_is_named(tiny, tmp_path):
    from safetensors.torch import load_file, save_file

    folder = copy_with(tiny, tmp_path / "x")
    state = load_file(folder / "model.safetensors")
    name = "audio_model.audio_encoder.layers.0.blocks.0.attention.self.query.weight"
    state[name + "2"] = state.pop(name)
    save_file(state, folder / "model.safetensors")
    with pytest.raises(UserError, match=r"it lacks audio_branch\.layers\.0\.blocks\.0\.attn\.qkv\.weight"):
        load_tower(folder)


def refusal(path):
    with pytest.raises(UserError) as refused:
        read_checkpoint(path)
    line = str(refused.value)
    assert "\n" not in line
    assert str(path) in line
    return line
