"""The last three lines of a run."""

from __future__ import annotations

import shlex

import pyarrow as pa

from pipeline.dataset.output import Output
from pipeline.workflows.ending import Standing, doubts_text, newest_report, next_text, rows_of, written_text

ROWS = pa.table(
    {
        "uri": ["a", "b", "c", "d", "gone"],
        "status": ["ok", "ok", "partial", "failed", "gone"],
        "key_name": ["C", None, "D", None, "E"],
        "key_confidence": pa.array([0.7, None, 0.1, None, 0.05], pa.float32()),
        "tempo_bpm": pa.array([120.0, None, None, None, 90.0], pa.float32()),
    }
)


def test_rows_are_counted_by_file():
    rows = [{"uri": uri, "status": "failed" if uri in "bx" else "ok"} for uri in "aabx"]
    found = Standing.of([pa.Table.from_pylist(rows)], ["a", "b", "c"])
    assert (found.asked_for, found.files, found.rows, found.failed) == (3, 2, 3, 1)
    assert not found.complete


def test_what_is_unsure_is_of_what_was_asked_for_and_decoded():
    found = Standing.of([ROWS], "abcd", ("key", "tempo", "mel"))
    assert found == Standing(4, 4, 4, failed=1, partial=1, gone=1, keyless=1, unsure_keys=1, tempoless=2)
    assert found.complete
    assert Standing.of([ROWS], "abcd", ("mel",)).keyless == 0, "nobody asked for a key"


def test_columns_that_are_not_there_are_no_doubt(tmp_path):
    output = Output(str(tmp_path))
    output.write_table("tracks/part-0.parquet", ROWS.slice(0, 3))
    output.write_table("tracks/part-1.parquet", ROWS.select(["uri", "status"]).slice(3))
    assert Standing.of(rows_of(output), "abcd", ("key", "tempo")).keyless == 1


def test_the_first_line_counts_what_there_is_of():
    counts = {"tracks": 1204, "segments": 9, "failures": 1, "stems": 4, "arrays": 0}
    assert written_text("/out", counts, {"stems": "stem"}) == (
        "written: 1\u202f204 rows in tracks, 9 rows in segments, 1 row in failures, 4 stems in stems/, under /out"
    )
    assert written_text("/out", {"tracks": 0, "failures": 0}) == "written: nothing new in /out"


def test_the_second_line_tells_all_kinds_of_doubt():
    assert doubts_text(Standing(3, 3, 3)) == "unsure or failed: nothing"
    steps = [
        {"stage": "separation", "wanted": "demucs", "used": "spleeter", "count": 8},
        {"stage": "clap", "wanted": "bfloat16", "used": "float32", "count": 3},
        {"stage": "decode", "wanted": "fetch", "used": "retry", "count": 1},
    ]
    text = doubts_text(Standing(9, 8, 8, 2, 1, gone=1, keyless=1, unsure_keys=2, tempoless=1), steps)
    assert text == (
        "unsure or failed: 1 of 9 files not done, 2 of 9 files failed, 1 file lacking something, 12 fallbacks "
        "(separation: spleeter instead of demucs; clap: float32 instead of bfloat16; …), 1 without and 2 unsure of "
        "their key, 1 track without a tempo, 1 file gone, its row kept"
    )


def test_the_third_line_is_what_helps_and_its_commands_survive_a_shell():
    whole = Standing(3, 3, 3)
    assert next_text("/out", whole, "/out/runs/r/report.html") == "next: /out/runs/r/report.html"
    assert "jobs/verify.py output.uri=/out" in next_text("/out", whole)
    failed = next_text("/my out", Standing(3, 3, 3, failed=1), "/my out/runs/r/report.html")
    assert "python jobs/failures.py" in shlex.join(shlex.split(failed)[1:3])
    assert shlex.split(failed)[3] == "output.uri=/my out"
    assert "the same command goes on" in next_text("/out", whole, stopped=True)
    assert "jobs/verify.py" in next_text("/out", Standing(3, 2, 2), "/r.html", broken=True)


def test_no_line_gives_a_secret_away():
    uri = "https://user:secret@host/out"
    lines = (
        written_text(uri, {"tracks": 1}),
        next_text(uri, Standing(1, 1, 1, failed=1), f"{uri}/report.html"),
    )
    assert not any("secret" in line for line in lines)


def test_the_newest_report_is_that_of_a_run_that_has_one(tmp_path):
    output = Output(str(tmp_path))
    assert newest_report(output) == ""
    runs = ("20260101T000000-0000", "20260102T000000-0000", "20260103T000000-0000")
    for run in runs:
        output.write(f"runs/{run}/log.jsonl", b"")
    output.write(f"runs/{runs[1]}/report.html", b"")
    assert newest_report(output) == f"{output.uri}/runs/{runs[1]}/report.html"
