"""What the report says in numbers: tables that lack columns, estimate against fact, CPU against GPU."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pytest
from report_tables import RUN, digest, write_run

from pipeline.dataset.output import Output
from pipeline.dataset.tables.schemas import TIMINGS
from pipeline.features.key import KEYS
from pipeline.report import charts, devices, estimate, html
from pipeline.report.details import facts
from pipeline.report.formatting import clock, count, decimal, factor, key_label, percent, size
from pipeline.report.overview import overview

LATER = "20260102T000000-bbbb"


@pytest.fixture
def output(tmp_path) -> Output:
    return Output(str(tmp_path / "out"))


def write_tracks(output: Output, number: int, **columns) -> None:
    length = len(next(iter(columns.values())))
    names = [f"{number}/{n}" for n in range(length)]
    table = pa.table(
        {"asset_id": list(map(digest, names)), "uri": names, "status": ["ok"] * length, **columns}
    )
    output.write_table(f"tracks/part-{number:09d}-0123abcd.parquet", table)


FORMAT = {
    "container": ["wav", None],
    "codec": ["pcm", None],
    "sample_rate": [8000, None],
    "channels": [1, None],
}


def test_parts_may_lack_columns_and_numbers_may_be_missing(output):
    write_tracks(
        output, 0, **FORMAT, duration_s=[2.0, None], key_name=["A", "H"], key_mode=["minor", "major"]
    )
    write_tracks(
        output, 1, **FORMAT, duration_s=[float("inf"), 3.0], tempo_bpm=pa.array([120.0, None], pa.float32())
    )
    found = overview(output)
    assert found.rows["tracks"] == 4
    assert found.status == {"ok": 4}
    assert found.formats == {("wav", "pcm", 8000, 1): 2}
    assert found.known("duration_s").tolist() == [2.0, 3.0]
    assert found.known("tempo_bpm").tolist() == [120.0]
    assert found.known("loudness_integrated_lufs").size == 0
    assert found.keys.tolist() == [KEYS.index(("A", "minor")), -1, -1, -1]
    assert found.parts.tolist() == [0, 0, 1, 1]


def test_a_weak_key_is_called_unsure_and_none_is_none(output):
    names, modes = ["A", "A", "C#", None], ["minor", "minor", "major", None]
    weak = pa.array([0.05, 0.6, 0.1, None], pa.float32())
    four = {name: values * 2 for name, values in FORMAT.items()}
    write_tracks(output, 0, **four, key_name=names, key_mode=modes, key_confidence=weak)
    # Essentia's keys, and those of old tables, have no confidence.
    write_tracks(output, 1, **FORMAT, key_name=["A", None], key_mode=["minor", None])
    found = overview(output)
    assert found.unsure.tolist() == [True, False, True, False, False, False]
    assert charts.key_counts(found) == [("A minor", 3, 1), ("D♭ major", 1, 1)]
    said = html._figures(found, {"stages": {}, "processes": []}, [])["keys"]["caption"]
    assert said.startswith("4 of 6 tracks with a key, 2 of them unsure (key_confidence below 0.6).")
    hover = [text for trace in charts.key_wheel(found).data for text in trace.hovertext or ()]
    assert {"A minor: 3, 1 unsure", "D♭ major: 1, 1 unsure", "C major: 0"} <= set(hover)
    told = [
        facts({"key_name": "A", "key_mode": "minor", "key_confidence": c}) for c in (0.05, 0.6, None, np.nan)
    ]
    assert told == ["A minor, unsure", "A minor", "A minor", "A minor"]


def test_descriptors_are_those_that_are_there(output):
    write_tracks(
        output, 0, **FORMAT, mfcc_mean=[[1.0, 2.0], [3.0, 4.0]], spectral_centroid_mean_hz=[1024.0, None],
        clap_embedding=pa.nulls(2, pa.list_(pa.float32())),
    )  # fmt: skip
    found = overview(output)
    assert found.groups == {"mfcc_mean": 2, "spectral_centroid_mean_hz": 1}
    assert found.descriptors.result()[1].tolist() == [[1.0, 2.0, 10.0]]
    assert found.embeddings.seen == 0


def test_lists_of_another_length_and_with_nan_do_not_count(output):
    write_tracks(output, 0, **FORMAT, clap_embedding=[[1.0, 0.0], None])
    write_tracks(output, 1, **FORMAT, clap_embedding=[[1.0, float("nan")], [1.0, 2.0, 3.0]])
    write_tracks(output, 2, **FORMAT, clap_embedding=[[0.0, 1.0], []])
    found = overview(output)
    assert sorted(found.embeddings.result()[1].tolist()) == [[0.0, 1.0], [1.0, 0.0]]


def test_every_track_is_in_one_bar():
    values = np.array([-70.0, -23.0, -14.0, -14.0, 0.0])
    edges = charts.stepped(values, (1, 2))
    assert np.histogram(values, edges)[0].sum() == 5
    assert len(edges) <= 61
    assert (edges % 2 == 0).all()
    assert np.histogram([3.0], charts.stepped(np.array([3.0]), (1,)))[0].tolist() == [1]


def test_extractors_wait_together():
    stages = {"features.mel": {"wait_s": 3.0}, "features.key": {"wait_s": 3.0}, "write": {"wait_s": None}}
    assert charts.waits(stages) == {"features": {"wait_s": 3.0}, "write": {"wait_s": 0.0}}


def test_numbers_are_written_as_people_read_them():
    assert [clock(s) for s in (None, 0, 0.004, 5, 59.7, 185, 8040, 500_000)] == [
        "–", "0 s", "4.0 ms", "5.00 s", "1 min 00 s", "3 min 05 s", "2 h 14 min", "138 h",
    ]  # fmt: skip
    assert count(1234567) == "1\u202f234\u202f567"
    assert decimal(-14.04) == "−14.0"
    assert decimal(float("nan")) == "–"
    assert [factor(9.96), factor(123.4)] == ["10.0", "123"]
    assert percent(0.123) == "12.3\u202f%"
    assert (size(999), size(4_200_000)) == ("999\u202fB", "4.2\u202fMB")
    assert (key_label("C#", "major"), key_label("C#", "minor")) == ("D♭ major", "C♯ minor")


PLAN = {
    "files": 100, "audio_hours": 1.0, "wall_s": {"low": 10, "expected": 28.0, "high": 40}, "gpu_hours": None,
    "command_s": {"low": 20, "expected": 40.0, "high": 60},
    "failures_expected": {"rate": 0.02, "sampled": 50}, "output_bytes": None,
    "stages": {"decode": {"compute_s": 2.0}, "gone": {"compute_s": 1.0}}, "peak_rss_bytes": {"features": 2**30},
}  # fmt: skip


def test_the_estimate_is_set_against_what_the_run_took(output):
    numbers = write_run(output, 100, 3600.0) | {"command_s": 50.0}
    output.write(f"runs/{RUN}/plan.json", json.dumps(PLAN).encode())
    rows = {row.what: row for row in estimate.compare(output, numbers).rows}
    wall = rows["wall time of the work"]
    assert (wall.estimate, wall.fact) == ("28 s (10 s – 40 s)", "14 s")
    assert (wall.ratio, wall.within) == ("0.50×", True)
    command = rows["wall time of the command"]
    assert (command.estimate, command.fact) == ("40 s (20 s – 1 min 00 s)", "50 s")
    assert (command.ratio, command.within) == ("1.25×", True)
    assert rows["compute in decode"].ratio == "2.00×"
    assert (rows["compute in gone"].fact, rows["compute in gone"].ratio) == ("–", "–")
    assert rows["peak memory of features"].ratio == "1.50×", "of the largest process"
    assert rows["files that fail, of 50 probed"].ratio == "0.50×"
    assert not any("GPU" in what or "disk" in what for what in rows), "what was not estimated is left out"


def test_a_fact_outside_of_the_range_is_told(output):
    numbers = {**write_run(output, 100, 3600.0, device="cuda"), "wall_s": 41.0}
    plan = {**PLAN, "gpu_hours": {"low": 0.1, "expected": 0.2, "high": 0.3}, "output_bytes": 10}
    output.write(f"runs/{RUN}/plan.json", json.dumps(plan).encode())
    output.write("blobs/ab/x.npy", b"0123456789" * 2)
    rows = {row.what: row for row in estimate.compare(output, numbers).rows}
    assert rows["wall time of the work"].within is False
    assert rows["GPU hours, in stages on a GPU"].within is False
    assert rows["output on disk, all runs"].ratio == "2.00×"


@pytest.mark.parametrize("plan", [b"[1, 2]", b"{", b"null"])
def test_a_plan_that_is_none(output, plan):
    numbers = write_run(output, 1, 1.0)
    assert estimate.compare(output, numbers).instead == estimate.NO_ESTIMATE
    output.write(f"runs/{RUN}/plan.json", plan)
    assert estimate.compare(output, numbers).instead == estimate.UNREADABLE


def test_a_plan_with_odd_values_is_read_as_far_as_it_goes(output):
    numbers = write_run(output, 10, 1.0)
    plan = {
        "files": "many",
        "wall_s": 7.0,
        "stages": [],
        "peak_rss_bytes": {"decode": True},
        "failures_expected": 3,
    }
    output.write(f"runs/{RUN}/plan.json", json.dumps(plan).encode())
    [wall] = estimate.compare(output, numbers).rows
    assert (wall.what, wall.ratio, wall.within) == ("wall time of the work", "2.00×", None)


def timing(name: str, stage: str, device: str, seconds: float, cached: bool = False) -> dict:
    return {
        "asset_id": digest(name),
        "stage": stage,
        "device": device,
        "compute_s": seconds,
        "cache_hit": cached,
    }


def test_a_stage_with_both_devices_in_timings_is_compared(output):
    write_tracks(output, 0, **FORMAT, duration_s=[100.0, 300.0])
    rows = [
        timing("0/0", "clap", "cpu", 10.0), timing("0/1", "clap", "cuda", 1.5), timing("0/1", "decode", "cpu", 1.0),
        timing("0/0", "clap", "cuda", 0.0, cached=True), timing("unknown", "clap", "cuda", 0.5),
    ]  # fmt: skip
    output.write_table("timings/part-000000000-0123abcd.parquet", pa.Table.from_pylist(rows, schema=TIMINGS))
    numbers = write_run(output, 2, 400.0, device="cuda")
    [found] = devices.compare(output, overview(output), numbers)
    assert (found.stage, found.cpu.rows, found.gpu.rows) == ("clap", 1, 2)
    assert found.cpu.real_time_factor == pytest.approx(10)
    assert found.gpu.real_time_factor == pytest.approx(150)


def test_another_run_of_the_output_is_compared(output):
    write_tracks(output, 0, **FORMAT, duration_s=[100.0, 300.0])
    write_run(output, 2, 900.0, device="cpu")
    output.write("runs/20260101T101500-cccc/performance.json", b"not JSON")
    numbers = write_run(output, 2, 1800.0, run=LATER, device="cuda")
    [found] = devices.compare(output, overview(output), numbers)
    assert found.stage == "clap"
    assert found.gpu.real_time_factor == pytest.approx(2 * found.cpu.real_time_factor)
    assert found.cpu.source == f"run {RUN}"


def test_without_a_gpu_there_is_nothing_to_compare(output):
    write_tracks(output, 0, **FORMAT, duration_s=[100.0, 300.0])
    assert devices.compare(output, overview(output), write_run(output, 2, 400.0)) == []
