"""How a run ends when too much fails, when nothing is asked for, and when it cannot start; and what its plan said."""

import json
import shlex
import subprocess
import sys

import pandas as pd
import pyarrow as pa
import pytest
from conftest import BAD, ODD, write_bad_files

from pipeline.dataset.output import Output
from pipeline.errors import UserError
from pipeline.workflows import outcome, verify
from pipeline.workflows.config import ExtractConfig
from pipeline.workflows.jobs import extract
from pipeline.workflows.plan.numbers import RAY_START_S, WRITE_UP_S

pytestmark = pytest.mark.timeout(300)


def bare(source, output) -> ExtractConfig:
    """Decoding and nothing else."""
    config = ExtractConfig()
    config.source.uri, config.output.uri = str(source), str(output)
    config.features.enabled = []
    config.clap.enabled = config.separation.enabled = False
    config.ray.address = "inline"
    return config


def plan_first(repo, source, output) -> dict:
    """Plan the run of `bare` with ``max_failure_rate=0.1`` on the command line: the plan, which is all it writes."""
    given = [
        f"source.uri={source}", f"output.uri={output}", "features.enabled=[]", "clap.enabled=false",
        "separation.enabled=false", "max_failure_rate=0.1", "plan.price_cpu_hour=0.5",
    ]  # fmt: skip
    command = [sys.executable, "jobs/plan.py", *given]
    done = subprocess.run(command, cwd=repo, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    assert [line[9:] for line in done.stderr.splitlines()] == ["loading packages", f"listing {source}"]
    assert [p.relative_to(output).as_posix() for p in output.rglob("*") if p.is_file()] == ["runs/plan.json"]
    found = json.loads((output / "runs" / "plan.json").read_text())
    assert shlex.split(found["command"]) == ["python", "jobs/extract_features.py", *given]
    for text in ("Estimate", "UnrecognizedFormat", found["command"], "exit code 3", "start-up included"):
        assert text in done.stdout
    return found


def check_plan(found: dict) -> None:
    """What is there to know of the bad files before they are run."""
    files = len(BAD) + len(ODD)
    assert (found["files"], found["done"], found["sample"]["files"]) == (files, 0, files)
    assert [found["failures_expected"][k] for k in ("low", "rate", "high")] == [
        pytest.approx(len(BAD) / files)
    ] * 3, "all of them were tried"
    problems = {p["uri"].rsplit("/", 1)[-1]: (p["stage"], p["error_class"]) for p in found["problems"]}
    assert problems == {name: ("decode", error_class) for name, error_class in BAD.items()}
    assert 0 < found["wall_s"]["low"] < found["wall_s"]["expected"] < found["wall_s"]["high"]
    around = found["startup_s"] + WRITE_UP_S
    assert found["startup_s"] > RAY_START_S, "imports and listing are in it, and Ray"
    assert found["command_s"]["expected"] == pytest.approx(found["wall_s"]["expected"] + around)
    assert found["command_s"]["low"] < found["command_s"]["expected"] < found["command_s"]["high"]
    cost, hourly = found["cost"], 0.5 * found["hardware"]["cpus"]
    for end in ("low", "expected", "high"):
        assert cost[end] == pytest.approx(found["command_s"][end] / 3600 * hourly)
    assert set(cost["stages"]) == {"decode", "write"}
    assert sum(cost["stages"].values()) == pytest.approx(cost["expected"])
    assert found["gpu_hours"] is None
    assert set(found["stages"]) == set(found["peak_rss_bytes"]) == {"decode", "write"}
    assert all(s["compute_s"] > 0 for s in found["stages"].values())
    assert found["output_bytes"] > 1000


def check_the_end(output, result, log) -> None:
    """What it did cost, in each of its records, and the last three lines."""
    cost, cores = result.performance["cost"], result.performance["cost"]["cpus"]
    assert cost["total"] == pytest.approx(result.performance["command_s"] / 3600 * cores * 0.5)
    assert sum(cost["stages"].values()) == pytest.approx(cost["total"])
    folder = output / "runs" / result.run_id
    assert "## Cost" in (folder / "PERFORMANCE_METRICS.md").read_text()
    assert "The run cost" in (folder / "report.html").read_text()
    said = [json.loads(line) for line in log.splitlines()]
    assert [r["event"] for r in said[-3:]] == ["written", "doubts", "next"]
    written, doubts, following = (r["text"] for r in said[-3:])
    files = len(BAD) + len(ODD)
    assert written == f"written: {files} rows in tracks, {len(BAD)} rows in failures, under {output}"
    assert f"{len(BAD)} of {files} files failed" in doubts
    assert f"python jobs/failures.py output.uri={output}" in following
    assert following.endswith("report.html")


def test_more_failures_than_allowed_is_exit_code_3_and_every_row_is_there(repo, tmp_path, capsys):
    write_bad_files(tmp_path / "in")
    planned = plan_first(repo, tmp_path / "in", tmp_path / "out")
    check_plan(planned)
    config = bare(tmp_path / "in", tmp_path / "out")
    config.max_failure_rate, config.plan.price_cpu_hour = 0.1, 0.5
    result = extract.run(config, quiet=True)
    assert result.exit_code == outcome.EXIT_FAILURES
    tracks = pd.read_parquet(tmp_path / "out" / "tracks")
    assert sorted(tracks["status"]) == ["failed"] * len(BAD) + ["ok"] * len(ODD)
    assert len(pd.read_parquet(tmp_path / "out" / "failures")) == len(BAD)
    assert pd.read_parquet(tmp_path / "out" / "segments").empty
    log = (tmp_path / "out" / "runs" / result.run_id / "log.jsonl").read_text()
    assert "more than max_failure_rate=0.1" in log
    check_the_end(tmp_path / "out", result, log)
    folder = tmp_path / "out" / "runs" / result.run_id
    assert json.loads((folder / "plan.json").read_text()) == planned, "its report can compare"
    assert planned["audio_hours"] == pytest.approx(result.performance["audio_s"] / 3600)
    assert verify.run(Output(config.output.uri)).exit_code == 0, "a plan is nothing that is left over"
    config.dry_run = True
    extract.run(config)
    left = json.loads((tmp_path / "out" / "runs" / "plan.json").read_text())
    assert (left["files"], left["done"], left["failures_expected"]["sampled"]) == (0, planned["files"], 0)
    assert "nothing to do" in capsys.readouterr().out


def test_a_gpu_that_is_not_there_is_one_line_and_costs_no_table(tmp_path):
    write_bad_files(tmp_path / "in")
    output = Output(str(tmp_path / "out"))
    output.write_table("tracks/part-0.parquet", pa.table({"a": [1]}))
    config = bare(tmp_path / "in", tmp_path / "out")
    config.separation.enabled, config.separation.backends = True, ["midside"]
    config.output.overwrite = True
    config.hardware.gpu_shares = {"clap": 2, "separation": 2}
    with pytest.raises(UserError, match="hardware=cpu"):
        extract.run(config, quiet=True)
    assert output.parts("tracks") == ["tracks/part-0.parquet"], "nothing is cleared before the run can start"


def test_a_sweep_has_an_output_per_combination_and_a_table_in_the_end(repo, tmp_path):
    write_bad_files(tmp_path / "in")
    done = subprocess.run(
        [
            sys.executable, "jobs/extract_features.py", "--multirun", f"source.uri={tmp_path}/in", "source.glob=*.wav",
            f"output.uri={tmp_path}/out", "features.enabled=[]", "clap.enabled=false", "separation.enabled=false",
            "+source.storage_options={key: not-for-files}", "perf.threads=1,2", "ray.address=inline",
        ],
        cwd=repo, capture_output=True, text=True, check=False, timeout=240,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    table = (tmp_path / "out" / "comparison.md").read_text()
    assert table in done.stdout
    assert {line.split("|")[1].strip() for line in table.splitlines()[2:]} == {"1", "2"}, (
        "the swept key, and no other"
    )
    for place in ("00", "01"):
        assert len(pd.read_parquet(tmp_path / "out" / place / "tracks")) == 5
        [numbers] = (tmp_path / "out" / place / "runs").glob("*/performance.json")
        numbers = json.loads(numbers.read_text())
        assert numbers["moments"]["shell"] < numbers["moments"]["models"] < numbers["moments"]["ray"]
        assert numbers["command_s"] > max(numbers["startup_s"], numbers["wall_s"])
    # What is waited for is said before it is waited for, in each of the two.
    waits = ("loading packages", "listing ", "one process: ", "starting the workers", "writing the report")
    said = [next((w for w in waits if w in line), None) for line in done.stderr.splitlines()]
    assert [w for w in said if w] == [*waits, *waits[1:]]
    assert "not-for-files" not in done.stdout + done.stderr
    assert not (repo / "multirun.yaml").exists()


def test_a_dry_run_of_the_main_job_plans_what_is_left_and_writes_no_table(tmp_path, capsys):
    """Headers only, which needs no child."""
    write_bad_files(tmp_path / "in")
    config = bare(tmp_path / "in", tmp_path / "out")
    config.dry_run, config.plan.sample = True, 0
    result = extract.run(config)
    assert result.exit_code == outcome.EXIT_OK
    assert [p.name for p in (tmp_path / "out").rglob("*") if p.is_file()] == ["plan.json"]
    found = json.loads((tmp_path / "out" / "runs" / "plan.json").read_text())
    assert (found["files"], found["wall_s"], found["gpu_hours"]) == (len(BAD) + len(ODD), None, None)
    assert found["headers"]["unreadable"] == len(BAD) - 1, "the header of truncated.flac is whole"
    assert "no file was decoded" in capsys.readouterr().out
    (tmp_path / "closed").write_text("a file where the folder should be")
    config.output.uri = str(tmp_path / "closed")
    with pytest.raises(UserError, match="closed"):
        extract.run(config, quiet=True)
