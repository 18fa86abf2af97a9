"""The mistakes people make most: what is wrong, why, and what to type, a line each, and nothing is computed."""

import errno
import subprocess
import sys

import numpy as np
import pytest
import soundfile
import torch
from helpers.standard_schemas import segments_of

from pipeline.audio.choice import chosen_audio
from pipeline.audio.validate import UnrecognizedFormat
from pipeline.dataset.lock import OutputLock
from pipeline.dataset.output import Output
from pipeline.dataset.storage import explain
from pipeline.engine.resources import plan_resources
from pipeline.engine.session import _no_ray
from pipeline.errors import UserError
from pipeline.workflows.jobs import extract


@pytest.fixture(scope="module")
def compose(repo):
    sys.path.insert(0, str(repo / "jobs"))
    import compose

    compose.register()
    return compose


@pytest.fixture
def audio(tmp_path):
    (tmp_path / "in").mkdir()
    soundfile.write(tmp_path / "in" / "a.wav", np.zeros(800), 8000)
    return tmp_path


def lines(error: UserError) -> dict[str, str]:
    """The three lines by their names."""
    found = dict(line.split(":", 1) for line in error.explained().splitlines())
    assert list(found) == ["error", "why", "type"], error.explained()
    assert all(text.strip() for text in found.values())
    assert all("\n" not in text for text in found.values())
    return {name: text.strip() for name, text in found.items()}


def mistake(compose, *overrides: str) -> dict[str, str]:
    """What the job says of a command line, up to where it would start Ray."""
    with pytest.raises(UserError) as caught:
        extract.run(compose.load(overrides), quiet=True)
    return lines(caught.value)


def io(audio, *more: str) -> list[str]:
    given = {key.partition("=")[0] for key in more}
    base = {
        "source.uri": audio / "in", "output.uri": audio / "out", "clap.enabled": "false",
        "separation.enabled": "false",
    }  # fmt: skip
    return [*(f"{key}={value}" for key, value in base.items() if key not in given), *more]


@pytest.mark.parametrize("key", ["source.uri", "output.uri"])
def test_a_place_that_is_not_named(compose, audio, key):
    said = mistake(compose, *io(audio, f"{key}=null"))
    assert said["error"] == f"{key} is not set"
    assert f"{key}=s3://" in said["type"]


def test_a_folder_that_is_not_there(compose, audio):
    said = mistake(compose, *io(audio, f"source.uri={audio}/musik/rock"))
    assert said["error"] == f"source.uri={audio}/musik/rock: does not exist"
    assert said["why"] == f"{audio} has nothing called musik"


def test_a_folder_without_audio(compose, audio):
    (audio / "in" / "a.wav").rename(audio / "in" / "a.dat")
    said = mistake(compose, *io(audio))
    assert "no file with a known audio suffix" in said["error"]
    assert "source.glob=**/*" in said["type"]


@pytest.mark.parametrize("content", ["path\na.wav\n", "\n"])
def test_a_manifest_without_a_column_of_uris(compose, audio, content):
    (audio / "list.csv").write_text(content)
    said = mistake(compose, *io(audio, f"source.manifest={audio}/list.csv"))
    assert said["error"].endswith("list.csv has no uri column")
    assert "it has " in said["why"]


def test_a_key_that_does_not_exist(compose, audio):
    with pytest.raises(
        UserError, match=r"clap.windw_seconds is not a config key; did you mean clap.window_seconds\?"
    ):
        compose.load(io(audio, "clap.windw_seconds=5"))


def test_a_profile_that_does_not_exist(compose, audio):
    said = mistake(compose, *io(audio, "hardware=gpu_smal"))
    assert said["error"].startswith("hardware=gpu_smal is not one of auto, cpu,")
    assert said["type"] == "hardware=gpu_small"


def test_a_fraction_that_is_not_one_over_n(compose, audio):
    """OmegaConf takes no fraction where the n belongs; what it takes, we check."""
    said = mistake(compose, *io(audio, "hardware=gpu_small", "hardware.gpu_shares.clap=-2"))
    assert said["why"].startswith("it is the n of 1/n")
    with pytest.raises(UserError, match="hardware.gpu_shares"):
        compose.load(io(audio, "hardware=gpu_small", "hardware.gpu_shares.clap=0.3"))


def test_descriptors_on_a_gpu(compose, audio):
    said = mistake(compose, *io(audio, "hardware=gpu_small", "hardware.gpu_shares.features=4"))
    assert said["error"] == "hardware.gpu_shares.features=4: the descriptors do not run on a GPU"
    assert "222 times real time" in said["why"]
    assert "hardware.actors.features=N" in said["type"]


def test_a_relative_path_on_a_cluster(compose, audio):
    said = mistake(compose, *io(audio, "ray.address=auto", "output.uri=out"))
    assert said["error"] == "output.uri=out is relative"
    assert "thrown away" in said["why"]


def test_credentials_in_a_url_are_not_repeated(compose, audio):
    said = mistake(compose, *io(audio, "source.uri=s3://KEY:SECRET@bucket/x"))
    assert "storage_options" in said["type"]
    assert "SECRET" not in str(said)


def test_a_checkpoint_that_is_not_there(compose, audio):
    said = mistake(compose, *io(audio, "clap.enabled=true", "clap.checkpoint=630k.pt"))
    assert said["error"] == "clap.checkpoint=630k.pt is not there"
    assert "jobs/models.py list" in said["type"]


def test_a_checkpoint_of_something_else(compose, audio):
    torch.save({"state_dict": {"layer.weight": torch.zeros(3)}}, audio / "other.pt")
    said = mistake(compose, *io(audio, "clap.enabled=true", f"clap.checkpoint={audio}/other.pt"))
    assert "refused" in said["error"]
    assert "LAION-CLAP checkpoint" in said["why"]


def test_a_network_that_is_demanded_and_not_there(compose, audio, monkeypatch):
    monkeypatch.setenv("SOUNDMILL_WEIGHTS", str(audio / "empty"))
    said = mistake(compose, *io(audio, "clap.enabled=true", "clap.on_unavailable=fail"))
    assert "jobs/models.py fetch" in said["type"]
    wanted = ["separation.enabled=true", "separation.backends=[spleeter]", "separation.on_unavailable=fail"]
    said = mistake(compose, *io(audio, *wanted))
    assert "no backend can run" in said["error"]
    assert "spleeter" in said["why"]


def test_tables_with_embeddings_of_another_model(audio):
    from pipeline.dataset.tables.embedding_space import require_space

    output = Output(str(audio / "out"))
    output.write_table("segments/part-0.parquet", segments_of("HTSAT-base:aaaa").empty_table())
    with pytest.raises(UserError) as caught:
        require_space(output, "HTSAT-tiny:bbbb")
    assert "output.overwrite=true" in lines(caught.value)["type"]


def test_an_output_that_another_job_writes(compose, audio):
    lock = OutputLock(Output(str(audio / "out")), "20260101T000000-abcd")
    lock.acquire(print)
    try:
        said = mistake(compose, *io(audio))
    finally:
        lock.release()
    assert "is being written by run 20260101T000000-abcd" in said["error"]


def test_an_output_that_is_a_file(compose, audio):
    (audio / "out").write_text("mine")
    said = mistake(compose, *io(audio))
    assert said["error"].startswith(f"output.uri={audio}/out")
    assert (audio / "out").read_text() == "mine"


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "no space left"),
        (OSError(errno.EROFS, "Read-only file system"), "cannot be written"),
        (PermissionError(errno.EACCES, "Permission denied"), "access denied"),
    ],
)
def test_a_disk_that_does_not_take_it(error, says):
    assert says in lines(explain("output.uri=/data/out", error))["error"]


def test_no_credentials(monkeypatch, audio, compose):
    """Of the real client: it looks for them before it asks anybody."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("HOME", str(audio))
    said = mistake(
        compose,
        *io(audio, "source.uri=s3://bucket/x", "+source.storage_options={endpoint: http://127.0.0.1:9}"),
    )
    assert "no credentials" in said["error"]
    assert "AWS_ACCESS_KEY_ID" in said["type"]


def test_a_server_that_does_not_answer(compose, audio):
    options = "+source.storage_options={endpoint: http://127.0.0.1:9, key: K, secret: SECRET}"
    said = mistake(compose, *io(audio, "source.uri=s3://bucket/x", options))
    assert "the server does not answer" in said["error"]
    assert "endpoint" in said["type"]
    assert "SECRET" not in str(said)


def test_a_gpu_where_there_is_none():
    with pytest.raises(UserError) as caught:
        plan_resources(["decode", "clap", "write"], 8, 0, {"clap": 4}, {}, blocks=100)
    assert "hardware=cpu" in lines(caught.value)["type"]


def test_more_shares_than_cards():
    with pytest.raises(UserError) as caught:
        plan_resources(["decode", "clap", "write"], 8, 1, {"clap": 2}, {"clap": 3}, blocks=100)
    assert "need 1.5 GPUs and the cluster has 1" in lines(caught.value)["error"]


def test_more_actors_than_the_cpus_carry():
    with pytest.raises(UserError) as caught:
        plan_resources(["decode", "features", "write"], 2, 0, {}, {"features": 40}, blocks=100)
    assert "hardware.actors.features" in lines(caught.value)["type"]


def test_a_ray_that_is_not_there():
    said = lines(_no_ray("ray-head:6379", ConnectionError("connection timed out")))
    assert "ray.address=ray-head:6379" in said["error"]
    assert "RAY_AUTH_MODE=token" in said["type"]


def test_a_codec_that_ffmpeg_lacks():
    class Stream:  # a stream of an unknown codec, which no encoder here can write
        codec_context = None

    class Container:
        class streams:
            audio = (Stream(),)

    with pytest.raises(UnrecognizedFormat, match=r"no decoder for the sound track.*ffmpeg -i"):
        chosen_audio(Container())


@pytest.mark.parametrize(("version", "word"), [((3, 13), "3.13"), ((3, 9), "3.9"), ((2, 7), "2.7")])
def test_a_python_that_cannot_run_it(repo, version, word):
    sys.path.insert(0, str(repo / "jobs"))
    import preflight

    said = preflight.problem(version).splitlines()
    assert [line.split(":")[0] for line in said] == ["error", "why", "type"]
    assert word in said[0]
    assert preflight.problem((3, 11), lambda name: True) is None


def test_a_python_without_the_packages(repo):
    """A real one: without site-packages there is no Ray."""
    found = subprocess.run(
        [sys.executable, "-S", "-E", str(repo / "jobs" / "extract_features.py")], capture_output=True, text=True,
        cwd=repo, check=False,
    )  # fmt: skip
    assert found.returncode == 2
    assert "has no hydra" in found.stderr
    assert "make demo" in found.stderr
    assert "Traceback" not in found.stderr
