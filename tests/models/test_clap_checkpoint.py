import os
import pickle
import zipfile

import numpy as np
import pytest
import torch
from helpers.clap_reference import tiny_checkpoint, write_checkpoint

from pipeline.errors import UserError
from pipeline.models.clap.checkpoint import ARCHITECTURES, read_checkpoint


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    return tiny_checkpoint(tmp_path_factory.getbasetemp())


def skeleton(architecture="HTSAT-base"):
    """The few weights that tell architectures apart."""
    shape = ARCHITECTURES[architecture]
    width, blocks, inputs = shape.width, shape.depths[2], shape.features
    state = {f"audio_branch.layers.2.blocks.{i}.norm1.weight": torch.ones(4 * width) for i in range(blocks)}
    return state | {
        "audio_branch.patch_embed.proj.weight": torch.ones(width, 1, 4, 4),
        "audio_projection.0.weight": torch.ones(512, inputs),
    }


def refusal(path):
    """The one line with which ``path`` is refused."""
    with pytest.raises(UserError) as refused:
        read_checkpoint(path)
    line = str(refused.value)
    assert "\n" not in line
    assert str(path) in line
    return line


def test_a_checkpoint_in_laions_format_gives_its_audio_half(tiny):
    checkpoint = read_checkpoint(tiny)
    assert checkpoint.info.architecture == "HTSAT-tiny"
    assert checkpoint.info.model_id == f"HTSAT-tiny:{checkpoint.info.sha256[:12]}"
    assert {name.split(".")[0] for name in checkpoint.state} == {"audio_branch", "audio_projection"}
    assert checkpoint.state["audio_projection.2.weight"].shape == (512, 512)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_architecture_follows_from_the_shapes(tmp_path, architecture):
    path = write_checkpoint(tmp_path / "x.pt", skeleton(architecture))
    assert read_checkpoint(path).info.architecture == architecture


def test_files_from_before_the_zip_format_are_read(tmp_path):
    path = write_checkpoint(tmp_path / "old.pt", skeleton(), _use_new_zipfile_serialization=False)
    assert not zipfile.is_zipfile(path)
    assert read_checkpoint(path).info.architecture == "HTSAT-base"


def test_a_bare_state_dict_is_read(tmp_path):
    torch.save(skeleton(), tmp_path / "bare.pt")
    assert read_checkpoint(tmp_path / "bare.pt").state.keys() == skeleton().keys()


@pytest.mark.parametrize("module", [b"numpy.core.multiarray", b"numpy._core.multiarray"])
def test_scalars_written_by_either_numpy_are_read(tmp_path, module):
    written = write_checkpoint(tmp_path / "written.pt", skeleton())
    path, replaced = tmp_path / "renamed.pt", 0
    with zipfile.ZipFile(written) as old, zipfile.ZipFile(path, "w") as new:
        for name in old.namelist():
            content = old.read(name)
            if name.endswith("data.pkl"):
                for known in (b"cnumpy.core.multiarray\n", b"cnumpy._core.multiarray\n"):
                    replaced += content.count(known)
                    content = content.replace(known, b"c" + module + b"\n")
            new.writestr(name, content)
    assert replaced
    assert read_checkpoint(path).info.architecture == "HTSAT-base"


class Bomb:
    """Runs a command when unpickled."""

    def __init__(self, command):
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_bomb_is_refused_and_does_not_go_off(tmp_path, zipped):
    crater = tmp_path / "crater"
    content = {"state_dict": skeleton(), "epoch": Bomb(f"touch {crater}")}
    path = tmp_path / "bomb.pt"
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    assert "it asks for posix.system" in refusal(path)
    assert not crater.exists()
    # The bomb is live: the unguarded loader sets it off.
    torch.load(path, weights_only=False)
    assert crater.exists()


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_missing_and_damaged_files_are_refused(tmp_path, tiny):
    assert "there is no file" in refusal(tmp_path / "none.pt")
    folder = tmp_path / "empty"
    folder.mkdir()
    assert "there is no file" in refusal(folder)
    for name, content in {
        "empty.pt": b"",
        "text.pt": b"not a checkpoint",
        "noise.pt": np.random.default_rng(0).bytes(5000),
        "cut.pt": tiny.read_bytes()[:100_000],
        "pickle.pt": pickle.dumps([1, 2, 3]),
    }.items():
        (tmp_path / name).write_bytes(content)
        assert "expected a PyTorch checkpoint of LAION-CLAP" in refusal(tmp_path / name)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.filterwarnings("ignore:Defining your `__torch_function__`")
def test_damage_anywhere_ends_in_a_refusal_or_in_a_checkpoint(tmp_path):
    whole = write_checkpoint(tmp_path / "whole.pt", skeleton()).read_bytes()
    rng = np.random.default_rng(1)
    refused = 0
    # The first kilobytes hold the pickle; tensors, where a flipped bit is just another number, come after.
    for _ in range(150):
        damaged = bytearray(whole)
        for position in rng.integers(0, 6000, 3):
            damaged[position] = rng.integers(256)
        (tmp_path / "damaged.pt").write_bytes(damaged)
        try:
            read_checkpoint(tmp_path / "damaged.pt")
        except UserError:
            refused += 1
    assert refused > 10


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"audio_branch.patch_embed.mel_conv2d.weight": torch.ones(1)}, "it is a fusion checkpoint"),
        (
            {"audio_branch.patch_embed.fusion_model.local_att.0.weight": torch.ones(1)},
            "it is a fusion checkpoint",
        ),
        ({"audio_branch.patch_embed.proj.weight": torch.ones(128, 4, 4, 4)}, "of 4 channels"),
        ({"audio_branch.patch_embed.proj.weight": torch.ones(256, 1, 4, 4)}, r"(256, 12, 1024)"),
        ({"audio_branch.patch_embed.proj.weight": torch.ones(128)}, "no HTSAT patch embedding"),
        ({"audio_projection.0.weight": torch.full((512, 1024), torch.nan)}, "NaN or infinity"),
        ({"audio_projection.0.weight": 3}, "is a int, not a tensor"),
    ],
)
def test_other_networks_are_refused(tmp_path, change, message):
    line = refusal(write_checkpoint(tmp_path / "x.pt", skeleton() | change))
    assert message in line
    assert "expected a LAION-CLAP checkpoint without fusion, HTSAT-tiny (96, 6, 768) or HTSAT-base" in line


@pytest.mark.parametrize("content", [[1, 2], {}, {"state_dict": None}, {"state_dict": {"conv.weight": 1}}, 5])
def test_other_contents_are_refused(tmp_path, content):
    torch.save(content, tmp_path / "x.pt")
    assert "it has no audio_branch.* weights" in refusal(tmp_path / "x.pt")
