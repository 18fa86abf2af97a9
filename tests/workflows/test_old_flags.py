"""The flags of older scripts: each is a key now, what nobody knows is refused, and Hydra's own flags stay Hydra's."""

from __future__ import annotations

import importlib
import os
import shlex
import subprocess
import sys

import pytest
from hydra._internal.utils import get_args_parser

from pipeline.errors import UserError
from pipeline.workflows.speech_config import STEPS, SpeechConfig

ISSUE = (
    "--input calls --output out --steps denoise diarization transcription --chunk_duration 300 "
    "--split_method word_boundary --use_gpu --workers 4"
)


@pytest.fixture
def jobs(repo, monkeypatch):
    """(old_flags, compose), told that this is speech preparation."""
    monkeypatch.syspath_prepend(repo / "jobs")
    schema = importlib.import_module("schema")
    for name, value in (("config", SpeechConfig), ("name", "speech"), ("script", "prepare_speech.py")):
        monkeypatch.setattr(schema.CURRENT, name, value)
    compose = importlib.import_module("compose")
    compose.register()
    return importlib.import_module("old_flags"), compose


def job(repo, *words: str, script: str = "prepare_speech.py") -> subprocess.CompletedProcess:
    environment = {name: value for name, value in os.environ.items() if name != "SOUNDMILL_COMMAND"}
    return subprocess.run(
        [sys.executable, f"jobs/{script}", *words], cwd=repo, capture_output=True, text=True, timeout=120,
        env=environment, stdin=subprocess.DEVNULL,
    )  # fmt: skip


def test_the_command_of_an_older_script_means_what_it_says(jobs):
    old_flags, compose = jobs
    made = old_flags.translated(ISSUE.split())
    config = compose.load(made.words)
    assert (config.source.uri, config.output.uri) == ("calls", "out")
    assert config.speech.steps == ["denoise", "diarize", "vad", "transcribe"]
    assert (config.split.max_seconds, config.split.method) == (300.0, "word")
    assert (config.hardware.name, config.ray.num_cpus) == ("auto", 4)
    said = "\n".join(made.notes)
    for word in ("vad is added", "runs on the CPU", "not workers of each step"):
        assert word in said


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        ("--input=a --output=b", ["source.uri=a", "output.uri=b"]),
        ("--input 'my calls'", ["source.uri=my calls"]),
        ("--steps=vad,diarisation", ["speech.steps=[vad,diarize]"]),
        ("--steps vad, diarize source.uri=a", ["speech.steps=[vad,diarize]", "source.uri=a"]),
        ("--steps 'vad denoising' --cfg job", ["speech.steps=[vad,denoise]", "--cfg", "job"]),
        ("--steps '[vad,ASR]'", ["speech.steps=[vad,transcribe]"]),
        ("--steps all", [f"speech.steps=[{','.join(STEPS)}]"]),
        ("--chunk-duration 60 --split-method silence", ["split.max_seconds=60", "split.method=silence"]),
        ("--use_gpu=false", ["hardware=cpu"]),
        ("--use_gpu true seed=1", ["hardware=auto", "seed=1"]),
        ("--use_gpu source.uri=a", ["hardware=auto", "source.uri=a"]),
        ("seed=1 --workers 2 -c job", ["seed=1", "ray.num_cpus=2", "-c", "job"]),
    ],
)
def test_both_spellings_and_whatever_is_between(jobs, typed, words):
    assert jobs[0].translated(shlex.split(typed)).words == words


@pytest.mark.parametrize(
    "typed",
    [
        "--cfg job",
        "--help",
        "-m seed=1,2",
        "--multirun seed=1,2",
        "--config-dir D --config-name=m",
        "--info",
        "--hydra",
    ],
)
def test_what_is_hydras_stays_as_it_is(jobs, typed):
    made = jobs[0].translated(typed.split())
    assert made.words == typed.split()
    assert not made.found


def test_hydras_flags_are_those_of_this_hydra(jobs):
    options = {option for action in get_args_parser()._actions for option in action.option_strings}
    assert {option for option in options if option.startswith("--")} == set(jobs[0].HYDRA)


@pytest.mark.parametrize(
    ("typed", "says", "do"),
    [
        ("--inputt calls", "--inputt is not an option here", "source.uri=FOLDER"),
        ("--num_workers 3", "--num_workers is not an option here", "ray.num_cpus=4"),
        ("--language=en", "--language is not an option here", "transcribe.language=VALUE"),
        ("--languag en", "--languag is not an option here", "transcribe.language=VALUE"),
        ("--multirn", "--multirn is not an option here", "--multirun"),
        ("--qqq S3CRET", "--qqq is not an option here", "python jobs/prepare_speech.py --help"),
        ("--input --output b", "--input has no value", "source.uri=FOLDER"),
        ("--input=", "--input has no value", "source.uri=FOLDER"),
        ("--steps", "--steps has no value", "speech.steps=[vad,diarize,transcribe]"),
        ("--workers", "--workers has no value", "ray.num_cpus=4"),
    ],
)
def test_what_cannot_be_translated_is_refused_with_what_to_type(jobs, typed, says, do):
    with pytest.raises(UserError) as refused:
        jobs[0].translated(typed.split())
    assert (refused.value.what, refused.value.do) == (says, do)
    assert "S3CRET" not in str(refused.value)


def test_every_flag_has_an_example_that_is_taken(jobs):
    old_flags, compose = jobs
    examples = [f"{key}={old_flags.EXAMPLES[key]}" for key in old_flags.KEYS.values()]
    compose.load(examples)


def test_a_wrong_value_is_refused_by_the_config(jobs):
    old_flags, compose = jobs
    for typed, says in (
        ("--steps vad,diarizzation", "speech.steps=diarizzation is not one of"),
        ("--split_method sentence", "split.method=sentence is not one of"),
        ("--use_gpu=perhaps", "hardware=perhaps is not one of"),
        ("--workers four", "ray.num_cpus"),
    ):
        with pytest.raises(UserError) as refused:
            compose.load(old_flags.translated(["--input=a", "--output=b", *typed.split()]).words)
        assert says in str(refused.value)


def test_the_new_spelling_is_shown_and_no_secret_with_it(jobs, monkeypatch, capsys):
    old_flags, _ = jobs
    monkeypatch.setattr(sys, "argv", ["jobs/prepare_speech.py"])
    words = ["jobs/prepare_speech.py", "--input", "s3://b/my calls", "source.storage_options.secret=S3CRET"]
    words += ["source.storage_options.endpoint=http://h:1", "--output=https://h/x?signature=S3CRET"]
    old_flags.take(words)
    said = capsys.readouterr().err
    assert words[1] == "source.uri=s3://b/my calls"
    assert "S3CRET" not in said
    [line] = [line for line in said.splitlines() if line.startswith("understood as: ")]
    shown = shlex.split(line)
    assert shown[3:5] == ["jobs/prepare_speech.py", "source.uri=s3://b/my calls"]
    assert "source.storage_options.endpoint=http://h:1" in shown


def test_without_an_old_flag_nothing_is_said(jobs, capsys):
    words = ["jobs/prepare_speech.py", "source.uri=a", "--cfg", "job"]
    jobs[0].take(words)
    assert words[1:] == ["source.uri=a", "--cfg", "job"]
    assert capsys.readouterr() == ("", "")


def test_the_job_takes_them(repo):
    done = job(repo, *ISSUE.split(), "--cfg", "job")
    assert done.returncode == 0, done.stderr
    assert "jobs/prepare_speech.py source.uri=calls output.uri=out 'speech.steps=[denoise," in done.stderr
    assert "num_cpus: 4\n" in done.stdout
    refused = job(repo, "--inputt", "calls")
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "error: --inputt is not an option here" in refused.stderr


def test_no_other_job_does(repo):
    done = job(repo, "--input", "songs", script="karaoke.py")
    assert done.returncode == 2
    assert "--input" in done.stderr
    assert "understood" not in done.stderr
