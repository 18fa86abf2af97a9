"""A job that nothing under ``pipeline/`` knows of, through all that a job goes through."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile
from helpers.toy_job import RATE, TOY, ToyConfig
from in_process import InProcess

from pipeline.dataset.output import Output
from pipeline.dataset.verify import verify
from pipeline.errors import UserError
from pipeline.workflows.config import ExtractConfig
from pipeline.workflows.jobs.extract import EXTRACT
from pipeline.workflows.known_jobs import job_of
from pipeline.workflows.plan import plan
from pipeline.workflows.run import Asked, run_job

SECONDS = 4


def song(path: Path, level: float, rate: int = RATE, seconds: int = SECONDS) -> None:
    """Loud for a second, then silent for one, and so on."""
    time = np.arange(seconds * rate) / rate
    sound = level * np.sin(2 * np.pi * 500 * time) * (time.astype(int) % 2 == 0)
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, sound, rate, subtype="FLOAT")


@pytest.fixture
def here(monkeypatch) -> None:
    """Runs in this process, where a process beside it, which others of these tests have, is not what is asked about."""
    InProcess(monkeypatch)


@pytest.fixture
def source(tmp_path) -> Path:
    for name, level in (("a", 0.5), ("b", 0.9), ("c", 0.01)):
        song(tmp_path / "in" / f"{name}.wav", level)
    # Full scale to the last bit, after what the first stage makes of it: more than the second can bear.
    soundfile.write(tmp_path / "in" / "full.wav", np.ones(SECONDS * RATE), RATE, subtype="FLOAT")
    (tmp_path / "in" / "broken.wav").write_bytes(b"RIFF and nothing else")
    return tmp_path / "in"


def configured(source: Path, output: Path, address: str = "inline", **more) -> ToyConfig:
    config = ToyConfig(**more)
    config.source.uri, config.output.uri, config.ray.address = str(source), str(output), address
    config.hardware.actors = {}
    return config


def run(*arguments, retry=(), **more) -> int:
    return run_job(TOY, configured(*arguments, **more), Asked(quiet=True, retry=retry)).exit_code


def rows(output: Path, table: str = "tracks") -> list[dict]:
    found = [
        row for part in sorted((output / table).glob("*.parquet")) for row in pq.read_table(part).to_pylist()
    ]
    return sorted(
        found, key=lambda row: (row.get("uri") or row["asset_id"], row.get("second"), row.get("stage"))
    )


def by_name(output: Path) -> dict[str, dict]:
    return {Path(row["uri"]).stem: row for row in rows(output)}


def stages_run(output: Path, run_id: str) -> set[str]:
    """The stages that rows of ``timings`` of the parts of a run are of, by what they cost."""
    numbers = json.loads((output / "runs" / run_id / "performance.json").read_text())
    return {name for name, stage in numbers["stages"].items() if stage["rows"]}


def test_what_it_computes(source, tmp_path):
    assert run(source, tmp_path / "out") == 0
    found = by_name(tmp_path / "out")
    assert found["a"]["loud_seconds"] == 2
    assert found["a"]["soft_samples"] == SECONDS * RATE
    assert found["c"]["loud_seconds"] == 0
    assert (found["full"]["status"], found["full"]["loud_seconds"]) == ("partial", None)
    assert found["full"]["soft_samples"] == SECONDS * RATE, "of one stage's failure the other knows nothing"
    assert found["broken"]["status"] == "failed"
    windows = [row for row in rows(tmp_path / "out", "seconds") if row["asset_id"] == found["a"]["asset_id"]]
    assert [row["second"] for row in windows] == [0, 2]
    assert windows[0]["peak"] == pytest.approx(0.25, abs=0.01)
    notes = {p.parent.name: p.read_text() for p in (tmp_path / "out" / "notes").rglob("*.txt")}
    assert notes[found["a"]["asset_id"]] == "loud: [0, 2]\n"
    assert len(notes) == 3
    failures = {(Path(row["uri"]).stem, row["stage"]) for row in rows(tmp_path / "out", "failures")}
    assert failures == {("full", "listen"), ("broken", "decode")}


def test_the_same_through_ray(source, tmp_path, repo, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(repo / "tests"))  # a worker imports its stage where it works
    assert run(source, tmp_path / "inline") == 0
    assert run(source, tmp_path / "ray", "local") == 0
    own = ("run_id", "first_seen")
    for table in ("tracks", "seconds", "failures"):
        pairs = zip(rows(tmp_path / "inline", table), rows(tmp_path / "ray", table), strict=True)
        for one, other in pairs:
            assert {k: v for k, v in one.items() if k not in own} == {
                k: v for k, v in other.items() if k not in own
            }
    files = [sorted((p.relative_to(root), p.read_bytes()) for p in (root / "notes").rglob("*.txt"))
             for root in (tmp_path / "inline", tmp_path / "ray")]  # fmt: skip
    assert files[0] == files[1]
    assert files[0]
    log = (tmp_path / "ray" / "runs").glob("*/log.jsonl")
    said = "".join(path.read_text() for path in log)
    assert "soften+listen" in said, "a maker and its reader share a process"


def test_a_later_product_alone_needs_its_maker_again(here, source, tmp_path):
    output = tmp_path / "out"
    assert run(source, output) == 0
    before = by_name(output)
    result = run_job(TOY, configured(source, output, loud=0.3), Asked(quiet=True))
    after = by_name(output)
    assert (before["b"]["loud_seconds"], after["b"]["loud_seconds"]) == (2, 2)
    assert (before["a"]["loud_seconds"], after["a"]["loud_seconds"]) == (2, 0)
    key = dict(after["a"]["extractor_keys"])
    assert key["soft"] == dict(before["a"]["extractor_keys"])["soft"]
    assert {"soften", "listen"} <= stages_run(output, result.run_id)
    nothing = run_job(TOY, configured(source, output, loud=0.3), Asked(quiet=True))
    assert nothing.exit_code == 0
    assert not (output / "runs" / nothing.run_id / "performance.json").exists()


def test_a_product_goes_stale_with_its_maker(here, source, tmp_path):
    output = tmp_path / "out"
    assert run(source, output) == 0
    before = dict(by_name(output)["b"]["extractor_keys"])
    assert run(source, output, factor=0.05) == 0
    after = by_name(output)
    keys = dict(after["b"]["extractor_keys"])
    assert all(keys[name] != before[name] for name in ("soft", "loud"))
    assert after["b"]["loud_seconds"] == 0
    assert [row for row in rows(output, "seconds") if row["asset_id"] == after["b"]["asset_id"]] == []


def test_tracks_too_long_to_travel_give_the_same(here, source, tmp_path):
    whole, long = tmp_path / "whole", tmp_path / "long"
    assert run(source, whole) == 0
    config = configured(source, long)
    config.hardware.max_track_bytes = 1000
    assert run_job(TOY, config, Asked(quiet=True)).exit_code == 0
    about = ("loud_seconds", "soft_samples", "status", "artifacts")
    assert [{k: r[k] for k in about} for r in rows(whole)] == [{k: r[k] for k in about} for r in rows(long)]
    assert rows(whole, "seconds") == rows(long, "seconds")


def test_what_failed_is_tried_again_when_asked_for(here, source, tmp_path):
    output = tmp_path / "out"
    run(source, output)
    song(source / "broken.wav", 0.5)
    assert run(source, output) == 0
    assert by_name(output)["broken"]["status"] == "ok"
    before = len(rows(output, "failures"))
    assert run(source, output, retry=[str(source / "full.wav")]) == 0
    assert len(rows(output, "failures")) == before == 1, "it fails again, and is one failure still"


def test_damage_is_found_and_mended_and_computed_again(here, source, tmp_path):
    output = tmp_path / "out"
    run(source, output)
    assert verify(Output(str(output)), deep=True).exit_code == 0
    found = by_name(output)
    asset = {name: found[name]["asset_id"] for name in "abc"}
    (output / "notes" / asset["a"][:2] / asset["a"] / "loud.txt").unlink()
    (output / "notes" / asset["b"][:2] / asset["b"] / "loud.txt").write_text("quiet: not what it began with")
    foreign = output / "notes" / "mine.txt"
    foreign.write_text("a user's own")
    orphan = output / "notes" / "ab" / ("ab" + "0" * 62) / "loud.txt"
    orphan.parent.mkdir(parents=True)
    orphan.write_text("loud: []")
    report = verify(Output(str(output)))
    assert set(report.found) == {"missing_note", "broken_note", "orphan_note"}
    assert verify(Output(str(output)), repair=True).exit_code == 0
    assert foreign.exists()
    assert not orphan.exists()
    assert by_name(output)["a"]["loud_seconds"] is None
    assert run(source, output) == 0
    assert {name: by_name(output)[name]["loud_seconds"] for name in "abc"} == {"a": 2, "b": 2, "c": 0}
    assert verify(Output(str(output)), deep=True).exit_code == 0


def test_rows_of_its_table_that_are_lost_or_nobody_s_are_found(here, source, tmp_path):
    output = tmp_path / "out"
    run(source, output)
    root = Output(str(output))
    [part] = root.parts("seconds")[:1]
    table = pq.read_table(output / part)
    root.write_table(part, table.slice(0, 0))
    report = verify(root)
    assert set(report.found) == {"missing_seconds"}
    assert verify(root, repair=True).exit_code == 0
    assert run(source, output) == 0
    assert len(rows(output, "seconds")) == 4


def test_it_is_planned_and_reported(source, tmp_path):
    output = tmp_path / "out"
    numbers = plan(TOY, configured(source, output), quiet=True)
    assert set(numbers["stages"]) == {"decode", "soften", "listen", "write"}
    assert "python jobs/toy.py" in numbers["command"]
    result = run_job(TOY, configured(source, output), Asked(quiet=True))
    page = Path(result.report).read_text()
    assert "soften" in page
    assert "listen" in page
    manifest = json.loads((output / "runs" / result.run_id / "manifest.json").read_text())
    entry = next(a for a in manifest["assets"] if a["uri"].endswith("a.wav"))
    assert {e["name"]: e["payload"] for e in entry["extractors"]} == {
        "soft": {"soft_samples": SECONDS * RATE},
        "loud": {"loud_seconds": 2},
    }


def test_an_output_is_of_one_job(here, source, tmp_path):
    run(source, tmp_path / "out")
    assert Output(str(tmp_path / "out")).contents.job == "toy"
    other = ExtractConfig()
    other.source.uri, other.output.uri, other.ray.address = str(source), str(tmp_path / "out"), "inline"
    other.features.enabled, other.clap.enabled, other.separation.enabled = ["loudness"], False, False
    with pytest.raises(UserError, match="holds what the job toy wrote, and this is extract"):
        run_job(EXTRACT, other, Asked(quiet=True))
    with pytest.raises(UserError, match="is of a job called 'toy'"):
        job_of(Output(str(tmp_path / "out")))
    other.output.overwrite = True
    assert run_job(EXTRACT, other, Asked(quiet=True)).exit_code == 0
    now = Output(str(tmp_path / "out"))
    assert (now.contents.job, job_of(now)) == ("extract", EXTRACT)
    assert list(now.contents.tables) == ["segments", "tag_segments"], "all that this job can have"


@pytest.mark.chaos
def test_ten_hours_in_bounded_memory(tmp_path):
    """What the first stage makes of it is 1.2 GB: it lies in a temporary file, and no process holds it."""
    hours = 10
    (tmp_path / "in").mkdir()
    second = (0.4 * np.sin(2 * np.pi * 500 * np.arange(RATE) / RATE)).astype(np.float32)
    with soundfile.SoundFile(tmp_path / "in" / "long.wav", "w", RATE, 1, "ULAW") as file:
        for _ in range(hours * 60):
            file.write(np.tile(second, 60))
    config = configured(tmp_path / "in", tmp_path / "out")
    config.hardware.max_track_bytes = 64 << 20
    result = run_job(TOY, config, Asked(quiet=True))
    [row] = rows(tmp_path / "out")
    assert (row["soft_samples"], row["loud_seconds"]) == (hours * 3600 * RATE, hours * 3600)
    numbers = json.loads((tmp_path / "out" / "runs" / result.run_id / "performance.json").read_text())
    assert max(process["peak_rss_bytes"] for process in numbers["processes"]) < 600 << 20
    assert verify(Output(str(tmp_path / "out"))).exit_code == 0
