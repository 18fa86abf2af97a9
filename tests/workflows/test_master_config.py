"""What can be typed after ``jobs/master.py``, what is refused, and that what is said to be typed is taken."""

from __future__ import annotations

import importlib
import shlex
from dataclasses import fields

import pytest

from pipeline.audio.song_formats import SONG_FORMATS
from pipeline.errors import UserError
from pipeline.mastering.presets import Preset
from pipeline.workflows.jobs import master
from pipeline.workflows.master_config import ENCODES, MasterConfig, MasterOptions, config_from
from pipeline.workflows.master_presets import presets
from pipeline.workflows.run_config import redacted

BASE = ["source.uri=mixes", "output.uri=out"]


@pytest.fixture
def compose(repo, monkeypatch):
    """The command line's composer, told which job it is."""
    monkeypatch.syspath_prepend(repo / "jobs")
    compose, schema = importlib.import_module("compose"), importlib.import_module("schema")
    for name, value in (("config", MasterConfig), ("name", "master"), ("script", "master.py")):
        monkeypatch.setattr(schema.CURRENT, name, value)
    compose.register()
    return compose


def test_the_defaults_of_the_files_are_those_of_the_classes(compose):
    config, bare = compose.load(BASE), MasterConfig()
    assert config.master == bare.master
    assert config.pools() == tuple(config.hardware.actors)


def test_every_number_of_a_preset_can_be_typed():
    assert {f.name for f in fields(Preset)} <= {f.name for f in fields(MasterOptions)}
    assert set(ENCODES) < set(SONG_FORMATS)


@pytest.mark.parametrize("name", sorted(presets()))
def test_a_preset_is_chosen_as_a_key_and_as_a_file(compose, name):
    wanted = presets()[name]
    assert compose.load([*BASE, f"master.preset={name}"]).master.numbers() == wanted
    by_file = compose.load([*BASE, f"master={name}"]).master
    assert (by_file.preset, by_file.numbers()) == (name, wanted)
    assert by_file.own() == ()


def test_a_number_that_is_typed_counts_more_than_the_preset_s(compose):
    options = compose.load([*BASE, "master.preset=warm", "master.lufs=-11", "master.crossovers_hz=[]"]).master
    assert options.numbers().lufs == -11.0
    assert set(options.own()) == {"lufs", "crossovers_hz"}
    # As the preset has it, and asked for all the same: a reference does not change it.
    assert compose.load([*BASE, "master.lufs=-14"]).master.own() == ("lufs",)
    assert options.numbers().tilt_db_per_octave == presets()["warm"].tilt_db_per_octave


def test_a_preset_of_one_s_own(compose, tmp_path):
    (tmp_path / "master").mkdir()
    (tmp_path / "master" / "mine.yaml").write_text("lufs: -12.5\ntilt_db_per_octave: -0.5\n")
    config = compose.load([*BASE, "master=mine"], primary=compose.Primary(more=tmp_path))
    assert config.master.numbers().lufs == -12.5


@pytest.mark.parametrize("profile", ["cpu", "auto", "gpu_small", "gpu_large", "low", "mid", "high"])
def test_profiles_that_name_stages_of_other_jobs_are_taken(compose, profile):
    assert "clap" not in compose.load([*BASE, f"hardware={profile}"]).hardware.actors


def test_what_a_run_wrote_down_is_read_again(compose):
    config = compose.load([*BASE, "master.mode=hybrid", "master.reference=a.flac", "master.lufs=-11"])
    assert config.master.references() == ["a.flac"]
    assert config_from(redacted(config)) == config


def test_a_lossy_file_that_may_spend_little_has_the_lower_ceiling(compose):
    def ceiling(*overrides: str) -> float:
        return compose.load([*BASE, *overrides]).master.ceiling()

    assert ceiling() == ceiling("master.format=mp3", "master.bit_rate=320000") == -1.0
    assert ceiling("master.format=mp3", "master.bit_rate=96000") == -2.0
    assert ceiling("master.format=mp3", "master.bit_rate=96000", "master.ceiling_dbtp=-0.5") == -0.5


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["master.preset=wram"], "did you mean warm"),
        (["master.mode=adaptve"], "did you mean adaptive"),
        (["master.mode=reference"], "needs a reference"),
        (["master.reference=a.flac"], "does not listen to it"),
        (["master.amount=1.5"], "master.amount=1.5"),
        (["master.reference_weight=-1"], "master.reference_weight=-1"),
        (["master.lufs=3"], "master.lufs=3"),
        (["master.ratio=0"], "master.ratio=0"),
        (["master.crossovers_hz=[300,100]"], "master.crossovers_hz"),
        (["master.ceiling_dbtp=2"], "master.ceiling_dbtp=2"),
        (["master.phase=zero"], "master.phase=zero"),
        (["master.encodes=[mp4]"], "master.encodes=mp4"),
        (["master.preview=-1"], "master.preview=-1"),
        (["master.format=aiff"], "master.format=aiff"),
        (["master.bits=24", "master.format=mp3"], "bits"),
        (["master.format=mp3", "master.bit_rate=100000"], "100000"),
        (["master.mode=reference", "master.reference=https://me:secret@host/a.flac"], "carries credentials"),
        (["master.sample_rate=96000", "master.format=mp3"], "master.sample_rate=96000"),
        (["master.lfus=-10"], "master.lfus"),
    ],
)
def test_a_mistake_is_one_line_and_what_it_says_to_type_is_taken(compose, overrides, says):
    with pytest.raises(UserError) as refused:
        compose.load([*BASE, *overrides]).check()
    assert says in str(refused.value)
    typed = [word.rstrip(",") for word in shlex.split(refused.value.do or "") if "=" in word]
    # Of several ways to do it the first one is typed.
    typed = typed[:1] if " or " in (refused.value.do or "") else typed
    keys = {word.partition("=")[0] for word in typed}
    kept = [word for word in overrides if word.partition("=")[0] not in keys]
    if typed:
        compose.load([*BASE, *kept, *typed]).check()


def test_another_preset_makes_the_master_stale_and_the_fingerprint_not(compose):
    models = master.Masters()

    def keys(*overrides: str) -> dict[str, str]:
        return models.pipeline(compose.load([*BASE, *overrides])).keys()

    before, after = keys(), keys("master.preset=warm")
    assert set(before) == {"fingerprint", "master"}
    assert before["fingerprint"] == after["fingerprint"]
    assert before["master"] != after["master"]
    # The same numbers under another name are another wish: the row says whose it is.
    assert keys("master.preset=spotify")["master"] != keys("master.preset=youtube")["master"]
