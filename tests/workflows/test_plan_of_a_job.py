"""``jobs/plan.py`` plans every job that is declared, by its name."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys

import numpy as np
import pytest
import soundfile
from helpers.toy_job import TOY, ToyConfig

from pipeline.audio import synth
from pipeline.errors import UserError
from pipeline.workflows import known_jobs
from pipeline.workflows.karaoke_config import KaraokeConfig

pytestmark = pytest.mark.timeout(600)


def planned(repo, *words) -> subprocess.CompletedProcess:
    command = [sys.executable, "jobs/plan.py", *map(str, words)]
    return subprocess.run(command, cwd=repo, capture_output=True, text=True, timeout=560)


@pytest.fixture
def plan(repo, monkeypatch):
    """The job as a module, with nothing typed yet, and what it says of the command line put back afterwards."""
    monkeypatch.syspath_prepend(str(repo / "jobs"))
    monkeypatch.setattr(sys, "argv", ["plan.py", "--help"])
    module = importlib.import_module("plan")
    for name, value in vars(module.schema.CURRENT).items():
        monkeypatch.setattr(module.schema.CURRENT, name, value)
    return module


def test_a_job_is_taken_by_its_name_and_the_rest_is_of_its_config(plan):
    words = ["plan.py", "karaoke", "source.uri=in"]
    assert plan.take_job(words) == "karaoke"
    assert words == ["plan.py", "source.uri=in"]
    assert plan.schema.Schema(KaraokeConfig, "karaoke", "karaoke.py") == plan.schema.CURRENT
    assert plan.take_job(["plan.py", "extract"]) == "extract"
    assert plan.schema.Schema() == plan.schema.CURRENT


def test_whatever_job_is_declared_is_known(plan, monkeypatch):
    monkeypatch.setitem(known_jobs.JOBS, "toy", TOY)
    assert plan.take_job(["plan.py", "toy", "output.uri=out"]) == "toy"
    assert plan.schema.Schema(ToyConfig, "toy", "toy.py") == plan.schema.CURRENT


@pytest.mark.parametrize("word", ["source.uri=in", "--cfg", "~clap", "+a=1", "source.uri", ""])
def test_without_a_name_it_is_the_main_job(plan, word):
    words = ["plan.py", word]
    assert plan.take_job(words) == "extract"
    assert words == ["plan.py", word]


@pytest.mark.parametrize("word", ["kareoke", "nothing-of-the-kind"])
def test_an_unknown_job_is_one_line(plan, word):
    with pytest.raises(UserError) as refused:
        plan.take_job(["plan.py", word, "source.uri=in"])
    (line,) = refused.value.explained().splitlines()
    assert line.startswith(f"error: {word} is not a job: there are {', '.join(known_jobs.JOBS)}")
    assert ("did you mean karaoke?" in line) == (word == "kareoke")


def test_an_unknown_job_ends_with_2(repo):
    done = planned(repo, "kareoke", "source.uri=in", "output.uri=out")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines()[1:] == [
        f"error: kareoke is not a job: there are {', '.join(known_jobs.JOBS)}; did you mean karaoke?"
    ]


def test_help_is_that_of_plans_whatever_the_job(repo):
    done = planned(repo, "karaoke", "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert "plan.py [JOB]" in done.stdout


def test_karaoke_is_planned(repo, tmp_path):
    (tmp_path / "songs").mkdir()
    left, right = (synth.chord_progression("C", "major", 3, 44100, seed=seed) for seed in (0, 9))
    soundfile.write(tmp_path / "songs" / "song.wav", 0.3 * np.stack([left, right], axis=1), 44100)
    source, output = tmp_path / "songs", tmp_path / "out"
    done = planned(
        repo, "karaoke", f"source.uri={source}", f"output.uri={output}", "karaoke.method=midside",
        "ray.address=inline", "plan.sample=1", "plan.max_minutes=100",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert f"python jobs/karaoke.py source.uri={source} output.uri={output}" in done.stdout
    numbers = json.loads((output / "runs" / "plan.json").read_text())
    assert {"separation", "karaoke", "instrumental"} <= numbers["stages"].keys()
    assert [path.name for path in output.iterdir()] == ["runs"]
