"""The job without Ray: it leaves behind what Ray leaves behind, and is chosen where it is the quicker one."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import every_stage, one_actor_each
from helpers.ray_head import REPO

from pipeline.engine.hung import HungFiles
from pipeline.engine.node import Node
from pipeline.workflows import execution
from pipeline.workflows.config import ExtractConfig
from pipeline.workflows.demo_data import write_demo
from pipeline.workflows.jobs import extract

pytestmark = pytest.mark.timeout(600)
# What is of the run or of the clock, and not of the file.
OF_THE_RUN = {
    "run_id", "first_seen", "compute_s", "wait_s", "node", "pid", "gpu_peak_bytes", "finished_at", "at",
}  # fmt: skip


def table(output: Path, name: str) -> list[dict]:
    """The rows of a table in the order of the files, without what is of the run."""
    rows = []
    for part in sorted((output / name).glob("*.parquet")):
        found = pq.read_table(part)
        rows += found.drop_columns([c for c in found.column_names if c in OF_THE_RUN]).to_pylist()
    return rows


def schema(output: Path, name: str) -> pa.Schema:
    return pq.read_schema(next(iter(sorted((output / name).glob("*.parquet")))))


def files(output: Path, *folders: str) -> dict[str, str]:
    """Path below the output → sha256, of everything in ``folders``."""
    return {
        str(path.relative_to(output)): hashlib.sha256(path.read_bytes()).hexdigest()
        for folder in folders
        for path in sorted((output / folder).rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="module")
def both(local_run, clap_checkpoint, tmp_path_factory) -> tuple[Path, Path]:
    """Outputs of the same files through Ray, and through one process."""
    output = tmp_path_factory.mktemp("inline") / "out"
    config = every_stage(local_run.source, output, clap_checkpoint)
    config.ray.address = "inline"
    result = extract.run(config, quiet=True)
    assert result.exit_code == local_run.result.exit_code == 0
    return local_run.output, output


@pytest.mark.parametrize("name", ["tracks", "segments", "failures", "timings"])
def test_rows_are_those_of_ray(both, name):
    ray, inline = both
    assert schema(inline, name).equals(schema(ray, name), check_metadata=True)
    assert [p.name for p in sorted((inline / name).glob("*"))] == [
        p.name for p in sorted((ray / name).glob("*"))
    ]
    found, expected = table(inline, name), table(ray, name)
    assert len(expected) > 0
    assert json.dumps(found, default=str) == json.dumps(expected, default=str)


def test_arrays_and_stems_are_those_of_ray_byte_for_byte(both):
    ray, inline = both
    expected = files(ray, "blobs", "stems")
    assert any(name.startswith("stems/") for name in expected)
    assert any(name.startswith("blobs/") for name in expected)
    assert files(inline, "blobs", "stems") == expected


def test_the_report_tells_of_a_run_like_one_of_ray(both):
    _, inline = both
    [folder] = (inline / "runs").glob("2*")
    for name in (
        "config.yaml",
        "environment.json",
        "performance.json",
        "PERFORMANCE_METRICS.md",
        "report.html",
    ):
        assert (folder / name).stat().st_size > 0
    numbers = json.loads((folder / "performance.json").read_text())
    assert numbers["files"] == len(table(inline, "tracks"))
    assert {"decode", "features", "clap", "separation", "write"} <= numbers["actors"].keys()
    assert len(json.loads((folder / "manifest.json").read_text())["assets"]) == numbers["files"]


@pytest.fixture(scope="module")
def demo(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("demo")
    names = {track.name for track in write_demo(folder, seconds=4.0)}
    for path in folder.iterdir():
        if path.name not in names:  # what is true of them
            path.unlink()
    return folder


def small(source: Path, output: Path) -> ExtractConfig:
    config = ExtractConfig()
    config.source.uri, config.output.uri = str(source), str(output)
    config.clap.enabled = config.separation.enabled = False
    config.hardware.actors = one_actor_each()
    return config


def log(output: Path) -> Iterator[dict]:
    for path in sorted((output / "runs").glob("2*/log.jsonl")):
        yield from map(json.loads, path.read_text().splitlines())


def command(config: ExtractConfig, *more: str) -> list[str]:
    return [
        sys.executable, str(REPO / "jobs" / "extract_features.py"), f"source.uri={config.source.uri}",
        f"output.uri={config.output.uri}", "clap.enabled=false", "separation.enabled=false", *more,
    ]  # fmt: skip


def trapped(folder: Path, *names: str) -> dict[str, str]:
    """An environment in which importing ``names`` fails."""
    for name in names:
        (folder / name).mkdir(parents=True)
        (folder / name / "__init__.py").write_text("raise ImportError('this is not to be imported')\n")
    environment = {**os.environ, "PYTHONPATH": f"{folder}:{os.environ.get('PYTHONPATH', '')}"}
    environment.pop("RAY_ADDRESS", None)
    return environment


def test_a_small_job_is_done_without_ray_and_with_nothing_to_do_without_torch(demo, tmp_path):
    """Neither process may import Ray; that which finds nothing to do may not even import torch."""
    wanted = command(small(demo, tmp_path / "out"))
    environment = trapped(tmp_path / "no-ray", "ray")
    done = subprocess.run(wanted, env=environment, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "in one process, without Ray: " in done.stderr
    assert "ray.address=local for Ray" in done.stderr
    assert len(table(tmp_path / "out", "tracks")) == len(list(demo.iterdir()))
    environment = trapped(tmp_path / "neither", "ray", "torch")
    again = subprocess.run(wanted, env=environment, capture_output=True, text=True, cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    assert "nothing to do" in again.stderr


def test_a_killed_worker_process_costs_nothing_but_time(demo, tmp_path):
    """Killed from outside in the middle of its work: the files that it had are computed by another one."""
    job = subprocess.Popen(
        command(small(demo, tmp_path / "out"), "ray.address=inline", "hardware.max_files_per_block=1"),
        stderr=subprocess.DEVNULL,
        cwd=tmp_path,
    )
    try:
        until_a_part_is_there(job, tmp_path / "out")
        os.kill(worker_process(job.pid), signal.SIGKILL)
        assert job.wait(300) == 0
    finally:
        job.kill()
        job.wait()
    rows = table(tmp_path / "out", "tracks")
    assert sorted(row["uri"] for row in rows) == sorted(map(str, demo.iterdir()))
    assert {row["status"] for row in rows} == {"ok"}


def until_a_part_is_there(job: subprocess.Popen, output: Path) -> None:
    until = time.monotonic() + 300
    while not list((output / "tracks").glob("*.parquet")):
        assert job.poll() is None
        assert time.monotonic() < until
        time.sleep(0.01)


def worker_process(job: int) -> int:
    """The child of a job that has its workers."""
    import psutil

    for child in psutil.Process(job).children():
        if "pipeline.engine.inline_child" in " ".join(child.cmdline()):
            return child.pid
    raise AssertionError("no process has the workers")


def test_a_file_that_kills_its_worker_every_time_costs_itself_only(demo, tmp_path, monkeypatch):
    """Strikes as under Ray: three, and a row that says in which stage."""
    monkeypatch.syspath_prepend(REPO / "tests" / "engine")
    real = execution.build_graph

    def with_a_deadly_stage(*given, **more):
        *stages, sink = real(*given, **more)
        return [*stages, Node("deadly", "deadly_stage:DeadlyStage", {"poison": 4}), sink]

    monkeypatch.setattr(execution, "build_graph", with_a_deadly_stage)
    config = small(demo, tmp_path / "out")
    config.features.enabled = ["loudness"]
    config.ray.address = "inline"
    assert extract.run(config, quiet=True).exit_code == 0
    rows = sorted(table(tmp_path / "out", "tracks"), key=lambda row: row["uri"])
    assert [row["status"] for row in rows] == ["failed" if n == 4 else "ok" for n in range(len(rows))]
    [failure] = table(tmp_path / "out", "failures")
    assert (failure["stage"], failure["error_class"], failure["attempts"]) == ("deadly", "WorkerDied", 3)
    assert failure["worker_died"]
    assert failure["asset_id"] == hashlib.sha256(Path(rows[4]["uri"]).read_bytes()).hexdigest()
    lost = [entry["text"] for entry in log(tmp_path / "out") if entry["event"] == "lost"]
    assert len(lost) == 3
    assert all("the worker process was ended by SIGKILL" in text for text in lost)


def test_a_file_that_hangs_costs_itself_only_and_one_process(demo, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(REPO / "tests" / "engine")
    config = small(demo, tmp_path / "out")
    real = execution.build_graph

    def with_a_stage_that_hangs(given, models, output, run_id, *more, **named):
        *stages, sink = real(given, models, output, run_id, *more, **named)
        [features] = [node for node in stages if node.name == "features"]
        told = {**features.arguments, "hangs_at": 4, "hung": HungFiles(output, run_id)}
        return [*stages[:-1], Node("features", "hanging_stage:HangingStage", told), sink]

    monkeypatch.setattr(execution, "build_graph", with_a_stage_that_hangs)
    config.features.enabled = ["loudness"]
    config.ray.address = "inline"
    assert extract.run(config, quiet=True).exit_code == 0
    rows = sorted(table(tmp_path / "out", "tracks"), key=lambda row: row["uri"])
    assert [row["status"] for row in rows] == ["partial" if n == 4 else "ok" for n in range(len(rows))]
    [failure] = table(tmp_path / "out", "failures")
    assert (failure["error_class"], failure["worker_died"]) == ("TookTooLong", False)
    assert len([entry for entry in log(tmp_path / "out") if entry["event"] == "lost"]) == 1


def test_equal_files_are_computed_once(demo, tmp_path):
    source = tmp_path / "in"
    source.mkdir()
    for name in ("a", "b", "c"):
        shutil.copy(demo / "drums_120.wav", source / f"{name}.wav")
    config = small(source, tmp_path / "out")
    config.features.enabled = ["loudness"]
    config.ray.address = "inline"
    assert extract.run(config, quiet=True).exit_code == 0
    rows = table(tmp_path / "out", "tracks")
    assert len(rows) == 3
    assert len({row["asset_id"] for row in rows}) == 1
    [copies] = [entry for entry in log(tmp_path / "out") if entry["event"] == "copies"]
    assert copies["files"] == 2


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_job_that_is_stopped_leaves_whole_rows_and_goes_on_later(demo, tmp_path, number):
    config = small(demo, tmp_path / "out")
    wanted = command(config, "ray.address=inline", "hardware.max_files_per_block=1")
    job = subprocess.Popen(wanted, stderr=subprocess.PIPE, text=True, cwd=tmp_path)
    try:
        until_a_part_is_there(job, tmp_path / "out")
        child = worker_process(job.pid)
        job.send_signal(number)
        said = job.stderr.read()
        assert job.wait(60) == 130
    finally:
        job.kill()
        job.wait()
    assert "stopped by" in said
    with pytest.raises(ProcessLookupError):
        os.kill(child, 0)
    assert not list((tmp_path / "out").rglob("*.tmp"))
    assert not (tmp_path / "out" / "runs" / "output.lock").exists()
    assert subprocess.run(wanted, cwd=tmp_path, stderr=subprocess.DEVNULL).returncode == 0
    assert len(table(tmp_path / "out", "tracks")) == len(list(demo.iterdir()))
