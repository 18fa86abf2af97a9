"""A config of one's own, groups of one's own, and single words where lists belong."""

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from pipeline.errors import UserError
from pipeline.stages.clap.spec import clap_key
from pipeline.workflows.config import NETWORKS, config_from
from pipeline.workflows.jobs.extract import find_models

BASE = ["source.uri=/in", "output.uri=/out"]
MINE = "defaults: [extract, _self_]\nsource: {uri: /music}\nclap: {enabled: false, hop_seconds: 2.5}\n"


@pytest.fixture(scope="module")
def compose(repo):
    sys.path.insert(0, str(repo / "jobs"))
    import compose

    compose.register()
    return compose


def job(repo: Path, folder: Path, *arguments: str, script: str = "extract_features", **environment: str):
    return subprocess.run(
        [sys.executable, repo / "jobs" / f"{script}.py", *arguments], cwd=folder, capture_output=True, timeout=120,
        env=os.environ | environment, encoding="utf-8",
    )  # fmt: skip


def test_a_config_of_ones_own(compose, tmp_path):
    (tmp_path / "mine.yaml").write_text(MINE)
    mine = compose.Primary("mine", more=tmp_path)
    config = compose.load(["output.uri=/out", "perf.threads=3"], primary=mine)
    assert (config.source.uri, config.clap.enabled, config.clap.hop_seconds) == ("/music", False, 2.5)
    assert (config.perf.threads, config.hardware.name) == (3, "cpu")
    typed = compose.load(["output.uri=/out", "clap.hop_seconds=1", "hardware=gpu_small"], primary=mine)
    assert (typed.clap.hop_seconds, typed.hardware.name) == (1, "gpu_small"), "what is typed wins"


def test_what_cfg_job_prints_is_a_config(compose, tmp_path):
    given = [
        *BASE,
        "hardware=gpu_small",
        "features.enabled=[mel]",
        "features.mel.n_mels=64",
        "clap.amp=false",
    ]
    expected = compose.load(given)
    with compose.Primary().found():
        printed = OmegaConf.to_yaml(compose.compose("extract", overrides=given))
    (tmp_path / "fed.yaml").write_text(printed)
    fed = compose.Primary("fed", more=tmp_path)
    assert compose.load([], primary=fed) == expected
    again = compose.load(
        ["features.mel.n_mels=32", "+hardware=cpu", "cache.storage_options.key=K"], primary=fed
    )
    assert (again.features.mel.n_mels, again.hardware.name) == (32, "cpu")
    assert again.cache.storage_options == {"key": "K"}
    half = tmp_path / "half.yaml"
    half.write_text("clap: {enabled: false}\n")
    config = compose.load([*BASE, "separation.amp=true"], primary=compose.Primary("half", more=tmp_path))
    assert not config.clap.enabled
    assert config.separation.options().amp == "true"


def test_groups_of_ones_own(compose, tmp_path):
    for name, text in {
        "hardware/mybox.yaml": "name: mybox\nblock_audio_seconds: 77.0\n",
        "taste/loud.yaml": "# @package _global_\nfeatures: {enabled: [loudness]}\n",
    }.items():
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text(text)
    mine = compose.Primary(more=tmp_path)
    config = compose.load([*BASE, "hardware=mybox", "+taste=loud"], primary=mine)
    assert (config.hardware.name, config.hardware.block_audio_seconds) == ("mybox", 77.0)
    assert config.features.enabled == ["loudness"]
    with pytest.raises(
        UserError,
        match="is not one of auto, cpu, gpu_large, gpu_small, high, low, mid, mybox; did you mean mybox",
    ):
        compose.load([*BASE, "hardware=mybx"], primary=mine)
    with pytest.raises(UserError, match="taste is not a config key"):
        compose.load([*BASE, "+taste=loud"])


def test_the_job_takes_it_to_its_end_and_leaves_no_folder_of_hydras(repo, tmp_path):
    """The job itself: what the check before Hydra composes is what Hydra runs."""
    (tmp_path / "D").mkdir()
    (tmp_path / "D" / "mine.yaml").write_text(MINE.replace("/music", str(tmp_path / "nowhere")))
    done = job(repo, tmp_path, "--config-dir", "D", "--config-name", "mine", f"output.uri={tmp_path}/out")
    assert done.returncode == 2
    assert f"error: source.uri={tmp_path}/nowhere: does not exist" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["D"]
    done = job(repo, tmp_path, "--config-name=mine", "--config-dir=D", "--cfg", "job", "clap=off")
    assert "type:  clap.enabled=false" in done.stderr
    done = job(repo, tmp_path, "--config-dir", "E", "--cfg", "job")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"error: --config-dir={tmp_path}/E: there is no such folder")


def test_the_command_of_a_plan_names_it(compose, monkeypatch):
    arguments = ["--config-dir", "D", "--config-name", "mine", "output.uri=/out"]
    monkeypatch.setattr(sys, "argv", ["extract_features.py", *arguments])
    assert compose._of_configs(compose._arguments()) == ["--config-name=mine", "--config-dir=D"]


@pytest.mark.parametrize(
    ("typed", "key", "value"),
    [
        ("separation.backends=auto", "separation.backends", ["auto"]),
        ("separation.backends=spleeter,midside", "separation.backends", ["spleeter", "midside"]),
        ("features.enabled=loudness", "features.enabled", ["loudness"]),
        ("features.enabled=mel,loudness", "features.enabled", ["mel", "loudness"]),
        ("features.enabled=[]", "features.enabled", []),
        ("blobs.names=mel", "blobs.names", ["mel"]),
        ("clap.text_queries=a sad piano", "clap.text_queries", ["a sad piano"]),
        ('clap.text_queries="rain, and wind"', "clap.text_queries", ["rain, and wind"]),
        ("clap.text_queries=a sad piano, applause", "clap.text_queries", ["a sad piano", "applause"]),
        ("stages=tags", "stages", ["tags"]),
        ("stages=clap,beats", "stages", ["clap", "beats"]),
        ("stages=null", "stages", None),
        ("features.band_energy.edges_hz=[20,200]", "features.band_energy.edges_hz", [20, 200]),
    ],
)
def test_a_word_is_a_list_of_one(compose, typed, key, value):
    found = compose.load([*BASE, typed])
    for name in key.split("."):
        found = getattr(found, name)
    assert found == value


def test_in_a_sweep_the_values_are_lists_of_one_each(compose):
    checked = compose.check_keys(["features.enabled=mel,[mel,key]", "separation.backends=auto"], sweep=True)
    assert checked == ["++features.enabled=[mel],[mel,key]", "++separation.backends=[auto]"]


@pytest.mark.parametrize("typed", ["false", "False", "FALSE", "0"])
@pytest.mark.parametrize("key", ["separation.amp", "clap.amp", "clap.compile"])
def test_a_flag_with_auto_is_one_in_every_spelling(compose, key, typed):
    section, name = key.split(".")
    config = compose.load([*BASE, f"{key}={typed}"])
    assert str(getattr(getattr(config, section), name)).lower() in ("false", "0")
    assert compose.load([*BASE, f"{key}=true"]) != config
    assert compose.load([*BASE, f"{key}=auto"]).clap.compile == "auto"


def test_the_spelling_of_a_flag_is_in_no_key(compose):
    """Nothing is computed anew because somebody wrote False."""
    keys = set()
    for word in ("false", "False", "0"):
        config = compose.load([*BASE, f"separation.amp={word}", f"clap.amp={word}"])
        keys.add((config.separation.options(), clap_key("sha", 10.0, 5.0, "mean", config.clap.amp)))
    [(options, _)] = keys
    assert options.amp == "false"


@pytest.mark.parametrize(
    ("typed", "off"),
    [
        ("~separation", "separation"),
        ("~clap", "clap"),
        ("~cache", "cache"),
        ("~separation=default", "separation"),
    ],
)
def test_a_stage_that_is_taken_out_is_off(compose, typed, off):
    config = compose.load([*BASE, "cache.enabled=true", typed])
    on = {name for name in ("clap", "separation", "cache") if getattr(config, name).enabled}
    assert on == {"clap", "separation", "cache"} - {off}


@pytest.mark.parametrize("named", [[], ["tags"], ["beats", "clap"], ["separation"]])
def test_networks_that_are_named_are_those_that_run(compose, named):
    config = compose.load([*BASE, f"stages=[{','.join(named)}]"])
    on = {name: getattr(config, name).enabled for name in NETWORKS}
    assert on == {name: name in named for name in NETWORKS}
    for name in {"clap", "separation"} & set(named):
        assert getattr(config, name).on_unavailable == "fail", (
            "whoever names one wants a word why it cannot run"
        )
    asked = set(config.questions())
    assert not asked & {f"{name}.enabled" for name in NETWORKS}, "that was answered"
    again = config_from(dataclasses.asdict(config))
    assert {name: getattr(again, name).enabled for name in NETWORKS} == on
    again.check()


def test_a_run_that_computes_nothing_says_so(compose):
    nothing = [*BASE, "features.enabled=[]", "stages=[]"]
    [said] = find_models(compose.load(nothing)).warnings
    assert "describe the files only" in said
    assert "features.enabled=[loudness]" in said
    assert not find_models(compose.load([*nothing, "features.enabled=[loudness]"])).warnings


def test_defaults_and_what_is_typed_are_of_the_same_types(compose):
    """Values of `++key` are checked as those of `key`."""
    with pytest.raises(UserError, match="could not be converted to Integer"):
        compose.load([*BASE, "++perf.threads=two"])
    assert dataclasses.asdict(compose.load([*BASE, "perf.threads=1"])) == dataclasses.asdict(
        compose.load(BASE)
    )


@pytest.mark.parametrize(
    "locale", [{"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}, {"LC_ALL": "C"}]
)
def test_names_that_are_not_ascii_in_a_locale_that_is(repo, tmp_path, locale):
    """Ray takes paths for UTF-8: Python is begun again with that, and the names arrive whole."""
    (tmp_path / "süß").mkdir()
    done = job(repo, tmp_path, f"source.uri={tmp_path}/süß/nö", f"output.uri={tmp_path}/out", **locale)
    assert done.returncode == 2
    assert f"error: source.uri={tmp_path}/süß/nö: does not exist" in done.stderr


def test_without_a_place_for_temporary_files_it_says_what_to_type(compose, tmp_path, monkeypatch):
    monkeypatch.setattr(compose.tempfile, "tempdir", None)
    monkeypatch.setattr(compose.tempfile, "_candidate_tempdir_list", lambda: [str(tmp_path / "nowhere")])
    with pytest.raises(UserError, match="TMPDIR=/a/folder before the command"):
        compose._require_a_place()


@pytest.mark.parametrize("script", sorted(p.stem for p in (Path(__file__).parents[2] / "jobs").glob("*.py")))
def test_help_says_something_of_every_file_of_jobs(repo, tmp_path, script):
    done = job(repo, tmp_path, "--help", script=script)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout) > 60
    if "no job of its own" in done.stdout:
        command = done.stdout.rpartition("Type: ")[2].split()
        assert (repo / command[1]).exists()
