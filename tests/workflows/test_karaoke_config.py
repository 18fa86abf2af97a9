"""What can be typed after ``jobs/karaoke.py``, what is refused, and that what a refusal says to type is taken."""

from __future__ import annotations

import importlib
import shlex

import pytest

from pipeline.errors import UserError
from pipeline.workflows.karaoke_config import KaraokeConfig, config_from
from pipeline.workflows.run_config import redacted

BASE = ["source.uri=songs", "output.uri=out"]


@pytest.fixture
def compose(repo, monkeypatch):
    """The command line's composer, told which job it is."""
    monkeypatch.syspath_prepend(repo / "jobs")
    compose, schema = importlib.import_module("compose"), importlib.import_module("schema")
    for name, value in (("config", KaraokeConfig), ("name", "karaoke"), ("script", "karaoke.py")):
        monkeypatch.setattr(schema.CURRENT, name, value)
    compose.register()
    return compose


def test_the_defaults_of_the_file_are_those_of_the_class(compose):
    config, bare = compose.load(BASE), KaraokeConfig()
    assert config.karaoke == bare.karaoke
    assert config.pools() == tuple(config.hardware.actors)


@pytest.mark.parametrize("profile", ["cpu", "auto", "gpu_small", "gpu_large", "low", "mid", "high"])
def test_profiles_that_name_stages_of_other_jobs_are_taken(compose, profile):
    config = compose.load([*BASE, f"hardware={profile}"])
    assert set(config.hardware.gpu_shares) <= {"separation"}
    assert "clap" not in config.hardware.actors


def test_what_a_run_wrote_down_is_read_again(compose):
    config = compose.load([*BASE, "karaoke.format=flac", "karaoke.keep=[vocals]", "karaoke.bits=16"])
    assert config_from(redacted(config)) == config


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("karaoke.method=demux", "karaoke.method=demux"),
        ("karaoke.methd=demucs", "karaoke.methd"),
        ("karaoke=spleeter", "karaoke"),
        ("karaoke.amp=maybe", "karaoke.amp=maybe"),
        ("karaoke.format=mp4", "karaoke.format=mp4"),
        ("karaoke.keep=[vocal]", "karaoke.keep"),
        ("karaoke.auto_cpu_seconds=-1", "karaoke.auto_cpu_seconds"),
        ("karaoke.ceiling_dbtp=3", "karaoke.ceiling_dbtp"),
        ("karaoke.bits=24", "mp3 does not have 24 bits"),
        ("karaoke.channels=6", "karaoke.channels=6"),
        ("karaoke.sample_rate=96000", "karaoke.sample_rate=96000"),
        ("clap.enabled=false", "clap"),
        ("hardware.actors.clap=2", "hardware.actors.clap"),
    ],
)
def test_a_mistake_is_told_and_what_it_says_to_type_is_taken(compose, override, says):
    with pytest.raises(UserError) as caught:
        compose.load([*BASE, override])
    assert says in str(caught.value)
    for word in shlex.split(caught.value.do.partition(" or ")[0].partition(", ")[0]):
        if word.startswith("karaoke."):
            compose.load([*BASE, word])
