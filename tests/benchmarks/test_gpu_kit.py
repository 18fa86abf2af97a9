"""The kit that measures a card: a rehearsal of it on a CPU, what it survives, and what becomes of its results."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import adopt
import job_steps
import measure
import pytest
from ledger import Ledger, read_results

REPO = Path(__file__).resolve().parents[2]
KIT = REPO / "benchmarks" / "gpu"
STEPS = "probe,clap,embed,separation,descriptors,decode,memory,oom,tests"
FAKE_STEPS = """
import os, sys, time

def fine(kit):
    print("a library talks to stdout")
    kit.emit("figure", value=kit.step)

def raises(kit):
    kit.emit("before", value=1)
    raise RuntimeError("no such luck")

def dies(kit):
    kit.emit("before", value=1)
    os._exit(7)

def hangs(kit):
    time.sleep(60)
"""


@pytest.fixture(scope="module")
def rehearsed(tmp_path_factory) -> Path:
    """The results of all steps but the job, with the smallest networks."""
    out = tmp_path_factory.mktemp("rehearsal")
    command = [
        sys.executable,
        str(KIT / "measure.py"),
        "--device",
        "cpu",
        "--out",
        str(out),
        "--steps",
        STEPS,
    ]
    done = subprocess.run([*command, "--minutes", "4"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{done.stdout[-3000:]}\n{(out / 'worker.log').read_text()[-3000:]}"
    return out / "results.json"


@pytest.mark.chaos  # the rehearsal takes a minute
def test_a_rehearsal_has_figures_of_every_step(rehearsed):
    content = read_results(rehearsed)
    assert content["about"]["now"]["rehearsal"]
    assert content["about"]["now"]["weights"] == "random"
    rows = content["rows"]
    assert not [row for row in rows if "error" in row]
    assert {row["step"] for row in rows} == {"machine", *STEPS.split(",")}
    by_what = {row["what"]: row for row in rows}
    assert by_what["embed_tracks"]["threads"] == 8
    cosines = [row["least_cosine"] for row in rows if row.get("least_cosine")]
    assert min(cosines) > 0.999
    assert by_what["htdemucs stream"]["si_sdr_to_apply_model_db"] > 60
    for what in ("tower", "htdemucs network", "spleeter stream", "all extractors on one core", "decoder"):
        assert what in by_what


@pytest.mark.chaos  # the rehearsal takes a minute
def test_what_is_adopted_replaces_what_was(rehearsed, tmp_path):
    for name in ("benchmarks/RESULTS.md", "docs/tuning.md"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(REPO / name, tmp_path / name)
    (tmp_path / "benchmarks/gpu").mkdir()
    (tmp_path / adopt.RATES).parent.mkdir(parents=True)
    given = [str(rehearsed), "--rehearsal", "--root", str(tmp_path)]
    assert adopt.main(given) == 0
    once = (tmp_path / "benchmarks/RESULTS.md").read_text()
    assert adopt.main(given) == 0
    assert (tmp_path / "benchmarks/RESULTS.md").read_text() == once
    assert once.count("## On a GPU") == 1
    assert "| HTSAT-rehearsal |" in once
    outside = lambda text: (text.split(adopt.BEGIN)[0], text.split(adopt.END)[1])  # noqa: E731
    assert outside(once) == outside((REPO / "benchmarks/RESULTS.md").read_text())
    assert "CLAP, eight threads" in (tmp_path / "docs/tuning.md").read_text()
    rates = json.loads((tmp_path / adopt.RATES).read_text())
    assert rates["clap_windows_per_s"]["HTSAT-rehearsal"] > 0
    assert rates["separation_times_real_time"]["demucs"] > 0
    assert read_results(tmp_path / "benchmarks/gpu/results.json")["rows"]


def test_a_rehearsal_is_not_adopted_by_mistake(tmp_path, capsys):
    ledger = Ledger(tmp_path / "results.json", "now")
    ledger.describe(rehearsal=True)
    ledger.add("probe", {"what": "machine", "card": "none"})
    with pytest.raises(SystemExit):
        adopt.main([str(ledger.path), "--root", str(tmp_path)])
    assert "its figures mean nothing" in capsys.readouterr().err


def test_two_labels_stand_side_by_side(tmp_path):
    row = {"what": "embed_tracks", "network": "HTSAT-base", "batch_s": 640, "threads": 1}
    for label, rate in (("before", 3340), ("now", 33_000)):
        Ledger(tmp_path / "results.json", label).add("embed", {**row, "window_audio_s_per_s": rate})
    rows = read_results(tmp_path / "results.json")["rows"]
    table = next(t for t in adopt.TABLES if t.step == "embed")
    lines = adopt.table_lines(rows[1:], table, rows[:1], "before")
    assert (
        lines[0] == "| network | batch, s | threads | window-audio-s per s | window-audio-s per s, before |"
    )
    assert lines[2] == "| HTSAT-base | 640 | 1 | 33,000 | 3,340 |"


def test_a_step_measured_again_replaces_its_rows_and_no_others(tmp_path):
    path = tmp_path / "results.json"
    Ledger(path, "before").add("probe", {"what": "x"})
    first = Ledger(path, "now")
    first.add("probe", {"what": "x"})
    first.add("clap", {"what": "x"})
    again = Ledger(path, "now")
    again.begin("probe")
    again.add("probe", {"what": "y"})
    found = [(r["label"], r["step"], r["what"]) for r in read_results(path)["rows"]]
    assert found == [("before", "probe", "x"), ("now", "clap", "x"), ("now", "probe", "y")]
    assert [p.name for p in tmp_path.iterdir()] == ["results.json"]


def test_another_file_is_not_overwritten(tmp_path):
    path = tmp_path / "results.json"
    path.write_text("{}")
    with pytest.raises(ValueError, match="not a file of"):
        Ledger(path, "now")


@pytest.fixture
def played(tmp_path, monkeypatch):
    """Steps that raise, die and hang; runs some of them and returns their rows."""
    (tmp_path / "fake_steps.py").write_text(FAKE_STEPS)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    names = ("fine", "raises", "dies", "hangs", "again")
    steps = {name: measure.Step("fake_steps", 0.0, 2.0 if name == "hangs" else 50.0) for name in names}
    monkeypatch.setattr(measure, "STEPS", steps)
    monkeypatch.setattr(measure, "GRACE_S", 0.2)

    def run(names: list[str], minutes: float = 2.0) -> list[dict]:
        options = SimpleNamespace(
            device="cpu",
            out=tmp_path / "out",
            project=REPO,
            hardware="auto",
            music=None,
            label="now",
            minutes=minutes,
        )
        measure.measure(options, names)
        return read_results(tmp_path / "out" / "results.json")["rows"]

    return run


def test_a_step_that_raises_dies_or_hangs_costs_the_others_nothing(played):
    rows = played(["raises", "dies", "hangs", "fine"])
    said = {(r["step"], r["what"]): r for r in rows}
    assert "no such luck" in said["raises", "raises"]["error"]
    assert said["dies", "before"]["value"] == said["raises", "before"]["value"] == 1
    assert "exit code 7" in said["dies", "dies"]["error"]
    assert "not done after" in said["hangs", "hangs"]["error"]
    assert said["fine", "figure"]["value"] == "fine"


def test_what_does_not_fit_the_time_is_skipped_and_said(played):
    measure.STEPS["fine"] = measure.Step("fake_steps", 1000.0, 1000.0)
    [row] = played(["fine"], minutes=1.0)
    assert "100 s needed" in row["skipped"]


def test_the_jobs_arguments_are_those_of_the_job(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", [str(REPO / "jobs"), *sys.path])
    import compose

    compose.register()
    monkeypatch.setattr(job_steps, "random_checkpoint", lambda folder, name: folder / f"random-{name}.pt")
    monkeypatch.setattr(job_steps, "random_repository", lambda folder, small: folder / "random-demucs")
    for cuda in (False, True):
        kit = SimpleNamespace(small=not cuda, cuda=cuda, hardware="auto", scratch=tmp_path)
        given = job_steps.overrides(kit, tmp_path / "corpus", tmp_path / "out", separates=True)
        compose.check_keys(given, False)
        compose.load(given)


def test_what_is_kept_of_a_jobs_figures():
    from pipeline.engine.progress import Progress
    from pipeline.report.performance import performance

    sums = {"compute_s": 2.0, "wait_s": 0.0, "padding_weighted": 0.0, "rows": 4, "gpu_peak_bytes": 5}
    progress = Progress(files=4, audio_s=120.0, stages={"clap": {**sums, "device": "cuda"}})
    row = job_steps.figures(json.loads(json.dumps(performance("r", progress, 10.0, 3.0, {}))))
    assert (row["times_real_time"], row["wall_s"], row["startup_s"]) == (12.0, 10.0, 3.0)
    assert row["stages"]["clap"] == {"compute_s": 2.0, "device": "cuda", "gpu_peak_bytes": 5}


@pytest.mark.chaos  # a minute, and its figures mean nothing beside other tests
def test_the_hosts_part_is_less_than_all():
    command = [sys.executable, str(REPO / "benchmarks" / "host_cost.py"), "--scale", "0.05", "--repeats", "1"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    rows = [line.split("|")[1:-1] for line in done.stdout.splitlines() if "this checkout" in line]
    assert [row[0].strip() for row in rows] == ["CLAP", "CLAP", "htdemucs", "htdemucs"]
    for row in rows:
        every, own = float(row[3]), float(row[5])
        assert own < every
        assert float(row[9]) > 0
