"""What a hostile config brings along: nothing in it is run, and no secret of it is written down."""

import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import soundfile
import torch

from pipeline.errors import UserError
from pipeline.workflows.config import ExtractConfig
from pipeline.workflows.jobs import extract

SECRET = "t0p-s3cr3t-key"


class Bomb:
    """Writes a file when it is unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self):
        return Path.write_text, (self.target, "it went off")


@pytest.fixture
def config(tmp_path) -> ExtractConfig:
    (tmp_path / "in").mkdir()
    soundfile.write(tmp_path / "in" / "a.wav", [0.1] * 800, 8000)
    made = ExtractConfig()
    made.source.uri, made.output.uri = str(tmp_path / "in"), str(tmp_path / "out")
    made.separation.enabled = False
    return made


@pytest.mark.parametrize("name", ["checkpoint.pt", "checkpoint.safetensors"])
@pytest.mark.parametrize("write", [torch.save, lambda bomb, path: path.write_bytes(pickle.dumps(bomb))])
def test_a_pickle_bomb_for_a_checkpoint_is_refused_and_does_not_go_off(config, tmp_path, name, write):
    write(Bomb(tmp_path / "crater"), tmp_path / name)
    config.clap.checkpoint = str(tmp_path / name)
    with pytest.raises(UserError) as refused:
        extract.run(config, quiet=True)
    assert not (tmp_path / "crater").exists()
    assert len(str(refused.value).splitlines()) == 1
    assert not (tmp_path / "out" / "tracks").exists()


# For time: what is in the bucket of the S3 tests is searched for secrets in every run of the tests.
@pytest.mark.chaos
def test_no_secret_of_the_command_line_is_said_or_written(repo, config, tmp_path):
    options = f"{{key: {SECRET}, secret: {SECRET}, token: {SECRET}, client_kwargs: {{aws_session_token: {SECRET}}}}}"
    keys = [
        f"source.uri={config.source.uri}", f"output.uri={config.output.uri}", "clap.enabled=false",
        "separation.enabled=false", "features.enabled=[quality]", f"source.storage_options={options}",
        f"output.storage_options={options}", f"cache.storage_options={options}",
    ]  # fmt: skip
    done = subprocess.run(
        [sys.executable, "jobs/extract_features.py", *keys],
        cwd=repo,
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    assert SECRET not in done.stdout + done.stderr
    files = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert any(path.name == "config.yaml" for path in files)
    for path in files:
        assert SECRET.encode() not in path.read_bytes(), path
