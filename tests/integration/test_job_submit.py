"""`ray job submit` and `ray.address` against a real head: files go up, tables come out, mistakes come back."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import requests
import soundfile
import yaml
from helpers.ray_head import REPO, Head, ray_head, run

# A submission is among the commands of the documents, which `make test` runs.
pytestmark = [pytest.mark.timeout(300), pytest.mark.chaos]
FILES = 3
JOB = ["python", "jobs/extract_features.py"]


def small(source: Path, output: str) -> list[str]:
    """One descriptor, one actor for each stage."""
    return [
        f"source.uri={source}",
        f"output.uri={output}",
        "features.enabled=[loudness]",
        "clap.enabled=false",
        "separation.enabled=false",
        "hardware.actors.decode=1",
        "hardware.actors.features=1",
    ]


@pytest.fixture(scope="module")
def head():
    with ray_head() as running:
        yield running


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("submitted")
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, 22050)
    for number in range(FILES):
        soundfile.write(folder / f"{number}.wav", noise * (number + 1) / FILES, 22050)
    return folder


@dataclass(frozen=True)
class Submitted:
    """A job that has ended: the submitting command's exit code and output, and where the tables should be."""

    exit_code: int
    said: str
    output: Path


def submit(head: Head, root: Path, jobs: dict[str, list[str]]) -> dict[str, Submitted]:
    """Submit ``jobs``, name → overrides, at once, and wait for all of them."""
    (root / "env.yaml").write_text(yaml.safe_dump({"env_vars": {"PERF_THREADS": "2"}}))
    running = {}
    for name, overrides in jobs.items():
        command = head.job_command(
            "submit", "--submission-id", name, "--working-dir", ".",
            "--runtime-env", str(root / "env.yaml"), "--", *JOB, *overrides,
        )  # fmt: skip
        running[name] = subprocess.Popen(
            command,
            env=head.environment(),
            cwd=REPO,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
    ended = {}
    for name, process in running.items():
        said, _ = process.communicate(timeout=200)
        ended[name] = Submitted(process.returncode, said, root / name)
    return ended


@pytest.fixture(scope="module")
def submitted(head: Head, source: Path, tmp_path_factory) -> dict[str, Submitted]:
    """A job that works, and one with a misspelt key."""
    root = tmp_path_factory.mktemp("out")
    jobs = {
        "good": small(source, str(root / "good")),
        "misspelt": [*small(source, str(root / "misspelt")), "clap.window_second=5"],
    }
    return submit(head, root, jobs)


def job_info(head: Head, submission: str) -> dict:
    told = {"Authorization": f"Bearer {head.token}"}
    answer = requests.get(f"{head.dashboard}/api/jobs/{submission}", headers=told, timeout=10)
    answer.raise_for_status()
    return answer.json()


def test_a_submitted_job_writes_its_tables_where_it_was_told(head, source, submitted):
    job = submitted["good"]
    assert job.exit_code == 0, job.said
    tracks = pd.read_parquet(job.output / "tracks")
    assert sorted(tracks["uri"]) == sorted(str(path) for path in source.iterdir())
    assert set(tracks["status"]) == {"ok"}
    assert tracks["loudness_rms_dbfs"].notna().all()
    assert job_info(head, "good")["driver_exit_code"] == 0


def test_the_submitting_terminal_and_ray_job_logs_show_how_it_went(head, submitted):
    said = submitted["good"].said
    assert f"{FILES} files ({FILES} ok, 0 partial, 0 failed)" in said
    assert re.search(r"Ray \S+: 1 node, 2 CPUs", said), said
    logs = run(head.job_command("logs", "good"), head.environment())
    assert logs.returncode == 0
    assert f"{FILES} files ({FILES} ok, 0 partial, 0 failed)" in logs.stdout


def test_the_variables_of_the_runtime_environment_reach_the_job(submitted):
    [folder] = (submitted["good"].output / "runs").glob("*/config.yaml")
    config = yaml.safe_load(folder.read_text())
    assert config["perf"]["threads"] == 2


def test_only_what_runs_goes_up(head, submitted):
    """The environment, the tests and the history stay here."""
    assert submitted["good"].exit_code == 0
    packages = list(head.folder.glob("session_latest/runtime_resources/working_dir_files/_ray_pkg_*/"))
    [package] = [path for path in packages if path.is_dir()]
    there = {path.name for path in package.iterdir()}
    assert {"jobs", "conf", "pipeline"} <= there
    assert not there & {".venv", ".git", ".ci", "tests", "benchmarks", "docs", "notebooks", "deploy", "out"}
    files = [path for path in package.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    assert sum(path.stat().st_size for path in files) < 4_000_000


def check_refused(head: Head, name: str, job: Submitted, line: str) -> None:
    """`ray job submit` itself knows 0 and 1 only; the job's own code is in what it prints and in the job's record."""
    assert job.exit_code == 1
    assert line in job.said.splitlines()
    assert "Traceback" not in job.said
    info = job_info(head, name)
    assert (info["status"], info["driver_exit_code"]) == ("FAILED", 2)
    assert "exit code 2" in info["message"]


def test_a_mistake_comes_back_as_one_line_and_an_exit_code(head, submitted):
    line = "error: clap.window_second is not a config key; did you mean clap.window_seconds?"
    check_refused(head, "misspelt", submitted["misspelt"], line)
    assert not submitted["misspelt"].output.exists()


def test_a_relative_output_is_refused(head, source, tmp_path):
    """It would lie in the uploaded copy, and be gone with it."""
    [job] = submit(head, tmp_path, {"relative": small(source, "tables")}).values()
    check_refused(head, "relative", job, "error: output.uri=tables is relative")


def test_nobody_submits_or_looks_without_the_token(head):
    wrong = head.environment(token="0" * 64)
    refused = run(head.job_command("submit", "--submission-id", "intruder", "--", "true"), wrong)
    assert refused.returncode != 0
    assert "Invalid authentication token" in refused.stdout
    told = {"Authorization": f"Bearer {head.token}"}
    jobs = requests.get(f"{head.dashboard}/api/jobs/", headers=told, timeout=10).json()
    assert "intruder" not in json.dumps(jobs)
    assert requests.get(f"{head.dashboard}/api/jobs/", timeout=10).status_code in (401, 403)


def test_a_driver_outside_joins_the_cluster(head, source, tmp_path):
    """``ray.address=auto`` is what RAY_ADDRESS names; without that, the Ray that `ray start` left word of here."""
    command = [
        sys.executable,
        "jobs/extract_features.py",
        "ray.address=auto",
        *small(source, str(tmp_path / "out")),
    ]
    done = run(command, head.environment(RAY_ADDRESS=head.address))
    assert done.returncode == 0, done.stdout
    assert "Ray auto: 1 node, 2 CPUs" in done.stdout
    assert len(pd.read_parquet(tmp_path / "out" / "tracks")) == FILES


def test_a_driver_with_another_token_is_told_so(head, source, tmp_path):
    command = [
        sys.executable, "jobs/extract_features.py", f"ray.address={head.address}",
        *small(source, str(tmp_path / "out")),
    ]  # fmt: skip
    refused = run(command, head.environment(token="0" * 64))
    assert refused.returncode == 2, refused.stdout
    what, why, do = refused.stdout.strip().splitlines()[-3:]
    assert what == f"error: ray.address={head.address}: the Ray there wants another token"
    assert why.startswith("why: ")
    assert do.startswith("type:  RAY_AUTH_MODE=token")
    assert "Traceback" not in refused.stdout
