"""Each kind of damage is made, found, mended where it can be, and gone afterwards."""

import hashlib
import io
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers.flac import encode_flac24
from helpers.small_output import (
    LATER,
    RUN,
    STAGES,
    asset,
    build,
    finish,
    mel_path,
    part_name,
    track_row,
    unit,
    write_part,
)
from helpers.standard_schemas import segments_of

from pipeline.dataset.output import Output, blob_path, npy_bytes
from pipeline.dataset.tables.failures import select_failures
from pipeline.dataset.verify import Report, check, findings, verify
from pipeline.dataset.verify.findings import Finding
from pipeline.dataset.verify.repair import mend
from pipeline.errors import UserError
from pipeline.stages.separation.spec import STEM_FILES

FIRST, SECOND = part_name(0), part_name(3)


@pytest.fixture
def output(tmp_path) -> Output:
    return build(Output(str(tmp_path / "out")))


def rows(output: Output, part: str) -> list[dict]:
    return pq.read_table(output.path(part)).to_pylist()


def rewrite(output: Output, part: str, change) -> None:
    """Let ``change`` edit the rows of a part in place."""
    table = pq.read_table(output.path(part))
    found = table.to_pylist()
    change(found)
    output.write_table(part, pa.Table.from_pylist(found, schema=table.schema))


def put(part_row: int, **values):
    return lambda found: found[part_row].update(values)


def kinds(output: Output) -> dict[str, int]:
    return dict(check(output)[0].counts)


def files(output: Output) -> dict[str, bytes]:
    root = Path(output.uri)
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}


def mended(output: Output) -> Report:
    """Repair, and see that a second verify is clean and changes nothing."""
    report = verify(output, repair=True)
    assert report.exit_code == 0, [f.message for f in report.remaining.kept]
    after = files(output)
    again = verify(output, repair=True)
    assert not again.found
    assert files(output) == after
    return report


def test_a_whole_output_is_clean_and_left_alone(output):
    before = files(output)
    report = verify(output, repair=True)
    assert (report.exit_code, report.tracks, report.rounds) == (0, 5, 0)
    assert not report.found
    assert files(output) == before


def test_checking_alone_changes_nothing(output):
    output.discard(mel_path("a.wav"))
    output.write(blob_path(asset("gone"), "mel", "1", "mel"), b"x")
    before = files(output)
    report = verify(output)
    assert report.found == {"missing_blob": 1, "orphan_blob": 1}
    assert report.exit_code == 1
    assert files(output) == before


@pytest.mark.parametrize("table", ["segments", "timings", "failures"])
def test_a_part_without_tracks_is_removed(output, table):
    source = {"segments": FIRST, "timings": FIRST, "failures": FIRST}[table]
    output.write(f"{table}/{part_name(9)}", output.read(f"{table}/{source}"))
    assert kinds(output) == {"orphan_part": 1}
    mended(output)
    assert f"{table}/{part_name(9)}" not in output.parts(table)
    assert f"{table}/{source}" in output.parts(table)


def test_an_interrupted_block_goes_with_its_files(output):
    """Everything was written but its tracks part."""
    write_part(output, 9, ["e.wav"])
    output.discard(f"tracks/{part_name(9)}")
    assert kinds(output) == {"orphan_part": 2, "orphan_blob": 1, "orphan_stem": 1}
    mended(output)
    assert not Path(output.path(mel_path("e.wav"))).exists()
    assert Path(output.path(mel_path("a.wav"))).exists()


def test_the_empty_part_of_a_table_without_rows_is_no_orphan(tmp_path):
    output = Output(str(tmp_path / "out"))
    write_part(output, 0, ["a.wav"])
    finish(output)
    output.fill_empty({"failures": pq.read_schema(output.path(f"tracks/{FIRST}"))})
    from pipeline.dataset.tables.schemas import FAILURES

    output.write_table("failures/part-empty.parquet", FAILURES.empty_table())
    assert kinds(output) == {}


def test_files_that_are_not_ours_stay(output):
    theirs = [
        "blobs/notes.txt",
        "stems/song/vocals.flac",
        f"blobs/ab/{asset('x')[:10]}/a.npy",
        "tracks/.hidden.tmp",
    ]
    for name in theirs:
        path = Path(output.uri) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"theirs")
    output.write_table("segments/mine.parquet", pq.read_table(output.path(f"segments/{FIRST}")))
    report = verify(output, repair=True)
    assert report.remaining.counts == {"orphan_part": 1}
    assert report.exit_code == 1
    assert all((Path(output.uri) / name).exists() for name in [*theirs, "segments/mine.parquet"])


def test_repair_refuses_a_name_that_is_not_ours(output):
    (Path(output.uri) / "precious.txt").write_text("x")
    for name in ("precious.txt", "runs/../precious.txt", "tracks/other.parquet", f"runs/{RUN}/config.yaml"):
        with pytest.raises(ValueError, match="not one of our names"):
            mend(output, [Finding("x", name, "x", mend="x", remove=name)])
    assert (Path(output.uri) / "precious.txt").exists()


def test_temporary_files_of_interrupted_writes_are_removed(output):
    names = [f"tracks/.{FIRST}.0123abcd.tmp", f"runs/{RUN}/.report.html.0123abcd.tmp", "runs/probe-0123abcd"]
    blob = mel_path("a.wav")
    names.append(f"{blob.rpartition('/')[0]}/.x.npy.0123abcd.tmp")
    for name in names:
        (Path(output.uri) / name).write_bytes(b"half")
    assert kinds(output) == {"temporary_file": 4}
    mended(output)
    assert not [name for name in names if (Path(output.uri) / name).exists()]


def test_a_missing_blob_makes_its_extractor_run_again(output):
    output.discard(mel_path("b.wav"))
    assert kinds(output) == {"missing_blob": 1}
    mended(output)
    other, row = rows(output, f"tracks/{FIRST}")[:2]
    assert row["mel_blob"] is None
    assert row["mel_shape"] is None
    assert set(dict(row["extractor_keys"])) == {"clap", "separation"}
    assert row["clap_embedding"] is not None
    assert other == rows(output, f"tracks/{FIRST}")[0]
    assert other["mel_blob"] == mel_path("a.wav")


def npy(array, **options) -> bytes:
    sink = io.BytesIO()
    np.save(sink, array, **options)
    return sink.getvalue()


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "not a readable"),
        (b"not numpy at all", "not a readable"),
        (npy_bytes(np.ones((8, 16), np.float16))[:-1], "bytes of"),
        (npy_bytes(np.ones((8, 16), np.float16)) + b"x", "bytes of"),
        (npy_bytes(np.ones((8, 15), np.float16)), "shape [8, 15]"),
        (npy(np.array([[None] * 16] * 8)), "Python objects"),
        (npy(np.asfortranarray(np.ones((8, 16), np.float16))), "C order"),
    ],
)
def test_a_broken_blob_is_removed_and_computed_again(output, data, said):
    output.write(mel_path("a.wav"), data)
    found = check(output)[0]
    assert found.counts == {"broken_blob": 1}
    assert said in found.kept[0].message
    report = mended(output)
    assert report.mended == {"broken_blob": 1, "orphan_blob": 1}
    assert not Path(output.path(mel_path("a.wav"))).exists()
    assert "mel" not in dict(rows(output, f"tracks/{FIRST}")[0]["extractor_keys"])


def test_a_blob_outside_the_root_is_not_looked_at(output):
    rewrite(output, f"tracks/{FIRST}", put(0, mel_blob="../../etc/passwd"))
    assert kinds(output) == {"missing_blob": 1, "orphan_blob": 1}
    mended(output)


@pytest.mark.parametrize(
    ("data", "kind"), [(None, "missing_stem"), (b"RIFF", "broken_stem"), (b"", "broken_stem")]
)
def test_a_missing_or_broken_stem_makes_the_separation_run_again(output, data, kind):
    path = STEM_FILES.path(asset("c.wav"), "vocals.flac")
    output.discard(path)
    if data is not None:
        output.write(path, data)
    assert kinds(output) == {kind: 1}
    mended(output)
    row = rows(output, f"tracks/{SECOND}")[0]
    assert row["stem_gain_vocals_db"] is None
    assert "separation" not in dict(row["extractor_keys"])


@pytest.mark.parametrize(
    ("vector", "said"),
    [
        ([float("nan"), *unit(0)[1:]], "NaN"),
        ([None, *unit(0)[1:]], "null"),
        ([0.0] * 512, "all zero"),
        ([2 * v for v in unit(0)], "norm 2"),
        ([], "all zero"),
    ],
)
def test_a_bad_embedding_becomes_null_with_its_segments(output, vector, said):
    rewrite(output, f"tracks/{FIRST}", put(0, clap_embedding=vector))
    found = check(output)[0]
    assert found.counts == {"embedding": 1}
    assert said in found.kept[0].message
    mended(output)
    row = rows(output, f"tracks/{FIRST}")[0]
    assert row["clap_embedding"] is None
    assert "clap" not in dict(row["extractor_keys"])
    assert asset("a.wav") not in {s["asset_id"] for s in rows(output, f"segments/{FIRST}")}
    assert asset("b.wav") in {s["asset_id"] for s in rows(output, f"segments/{FIRST}")}


def test_an_embedding_within_the_tolerance_is_fine(output):
    rewrite(output, f"tracks/{FIRST}", put(0, clap_embedding=[1.0005 * v for v in unit(0)]))
    assert kinds(output) == {}


def test_null_embeddings_are_fine(output):
    rewrite(output, f"segments/{FIRST}", put(0, clap_embedding=None, rms_dbfs=None))
    assert kinds(output) == {}


@pytest.mark.parametrize("values", [{"clap_embedding": [0.0] * 512}, {"rms_dbfs": float("nan")}])
def test_a_bad_segment_costs_the_embedding_of_its_track(output, values):
    rewrite(output, f"segments/{FIRST}", put(1, **values))
    assert kinds(output) == {"segment_value": 1}
    mended(output)
    assert rows(output, f"tracks/{FIRST}")[0]["clap_windows"] is None
    assert {s["asset_id"] for s in rows(output, f"segments/{FIRST}")} == {asset("b.wav")}


@pytest.mark.parametrize("value", [{"mel_mean": [1.0, float("inf")]}, {"mel_mean": [float("nan")]}])
def test_a_value_that_is_not_finite_becomes_null(output, value):
    rewrite(output, f"tracks/{SECOND}", put(1, **value))
    assert kinds(output) == {"not_finite": 1}
    mended(output)
    row = rows(output, f"tracks/{SECOND}")[1]
    assert row["mel_mean"] is None
    assert "mel" not in dict(row["extractor_keys"])


def test_a_value_that_no_extractor_computes_cannot_be_mended(output):
    rewrite(output, f"tracks/{SECOND}", put(1, duration_s=float("nan")))
    report = verify(output, repair=True)
    assert report.exit_code == 1
    assert "run the job again" in report.remaining.kept[0].advice


def test_of_two_rows_of_a_uri_the_newest_runs_stays(output):
    write_part(output, 9, ["a.wav", "e.wav"], run=LATER)
    finish(output, LATER)
    found = kinds(output)
    assert found["duplicate_track"] == 1
    assert found["duplicate_segment"] == 1
    mended(output)
    times = [
        t["stage"]
        for part in output.parts("timings")
        for t in rows(output, part)
        if t["asset_id"] == asset("a.wav")
    ]
    assert sorted(times) == sorted(STAGES), "two rows may have two times, one has one"
    uris = {part: [r["uri"] for r in rows(output, part)] for part in output.parts("tracks")}
    assert uris[f"tracks/{FIRST}"] == ["/audio/b.wav", "/audio/bad.mp3"]
    assert uris[f"tracks/{part_name(9)}"] == ["/audio/a.wav", "/audio/e.wav"]
    assert {s["asset_id"] for s in rows(output, f"segments/{FIRST}")} == {asset("b.wav")}


def test_a_row_whose_content_changed_leaves_nothing_behind(output):
    """The older row of the uri had another asset: its windows, times and files go with it."""
    write_part(output, 9, ["e.wav"], run=LATER)
    rewrite(output, f"tracks/{part_name(9)}", put(0, uri="/audio/a.wav"))
    finish(output, LATER)
    assert kinds(output) == {"duplicate_track": 1}
    report = mended(output)
    assert report.rounds == 2
    assert not Path(output.path(mel_path("a.wav"))).exists()
    assert Path(output.path(mel_path("e.wav"))).exists()


def test_equal_bytes_under_two_uris_are_no_duplicates(output):
    """One row each, one asset, the segments stored once, the times of both."""
    rewrite(
        output,
        f"tracks/{FIRST}",
        lambda found: found.append({**track_row("a.wav"), "uri": "/audio/copy.wav"}),
    )
    rewrite(output, f"timings/{FIRST}", lambda found: found.extend(t for t in found[: len(STAGES)]))
    finish(output)
    assert kinds(output) == {}


@pytest.mark.parametrize("table", ["segments", "timings"])
def test_repeated_rows_are_removed(output, table):
    before = rows(output, f"{table}/{FIRST}")
    rewrite(output, f"{table}/{FIRST}", lambda found: found.append(found[0]))
    assert {"segments": "duplicate_segment", "timings": "duplicate_timing"}[table] in kinds(output)
    mended(output)
    assert rows(output, f"{table}/{FIRST}") == before


def test_windows_without_segments_are_computed_again(output):
    rewrite(output, f"segments/{FIRST}", lambda found: found.__delitem__(slice(0, 2)))
    assert kinds(output) == {"missing_segments": 1}
    mended(output)
    assert "clap" not in dict(rows(output, f"tracks/{FIRST}")[0]["extractor_keys"])


@pytest.mark.parametrize(
    ("table", "kind"),
    [
        ("segments", "segments_without_track"),
        ("timings", "timings_without_track"),
        ("failures", "failure_without_track"),
    ],
)
def test_rows_of_no_track_are_removed(output, table, kind):
    before = rows(output, f"{table}/{FIRST}")
    stranger = {"asset_id": asset("nobody"), **({"uri": "/nobody"} if table == "failures" else {})}
    rewrite(output, f"{table}/{FIRST}", lambda found: found.append({**found[-1], **stranger}))
    assert kind in kinds(output)
    mended(output)
    assert rows(output, f"{table}/{FIRST}") == before


def test_a_failed_row_without_a_failure_gets_one_that_says_that_its_reason_is_lost(output):
    rewrite(output, f"failures/{FIRST}", lambda found: found.clear())
    assert kinds(output) == {"status_without_failure": 1}
    mended(output)
    [failure] = rows(output, f"failures/{FIRST}")
    assert (failure["uri"], failure["stage"]) == ("/audio/bad.mp3", "decode")
    assert failure["error_class"] == "ReasonLost"
    assert select_failures(output) == {"/audio/bad.mp3": ("decode",)}, "it can be tried again"


def test_a_partial_row_without_a_failure_gets_one_for_each_extractor_that_failed(output):
    lost = put(0, status="partial", failed_keys=[("clap", "222222222222"), ("mel", "111111111111")])
    rewrite(output, f"tracks/{SECOND}", lost)
    assert kinds(output) == {"status_without_failure": 1}
    mended(output)
    found = {(f["stage"], f["extractor_key"]) for f in rows(output, f"failures/{SECOND}")}
    assert found == {("clap", "222222222222"), ("features.mel", "111111111111")}


def test_a_worker_that_died_in_any_stage_is_why_a_file_failed(output):
    rewrite(output, f"failures/{FIRST}", put(0, stage="clap", worker_died=True))
    assert kinds(output) == {}


def test_prune_removes_rows_of_files_that_are_gone_with_all_that_was_theirs(output):
    rewrite(output, f"tracks/{FIRST}", put(0, status="gone"))
    rewrite(output, f"tracks/{FIRST}", put(2, status="gone"))
    report = verify(output, prune=True)
    assert report.exit_code == 0
    assert report.mended["gone_track"] == 2
    assert [r["uri"] for r in rows(output, f"tracks/{FIRST}")] == ["/audio/b.wav"]
    assert rows(output, f"failures/{FIRST}") == []
    for table in ("segments", "timings"):
        assert {r["asset_id"] for r in rows(output, f"{table}/{FIRST}")} == {asset("b.wav")}
    assert not any(asset("a.wav") in name for name in files(output)), "neither arrays nor stems are left"
    assert any(asset("b.wav") in name for name in files(output))
    assert not verify(output, repair=True).found


def test_prune_leaves_what_another_file_of_the_same_content_refers_to(output):
    rewrite(output, f"tracks/{SECOND}", put(1, **{**track_row("c.wav"), "uri": "/audio/copy.wav"}))
    rewrite(output, f"tracks/{SECOND}", put(0, status="gone"))
    assert verify(output, prune=True).exit_code == 0
    assert [r["uri"] for r in rows(output, f"tracks/{SECOND}")] == ["/audio/copy.wav"]
    assert mel_path("c.wav") in files(output)
    assert asset("c.wav") in {r["asset_id"] for r in rows(output, f"segments/{SECOND}")}


def remember(output: Output, part: str) -> None:
    """Let rows know their files, as the sink writes them."""

    def change(found):
        for row in found:
            paths = (
                [row["mel_blob"], STEM_FILES.path(row["asset_id"], "vocals.flac")] if row["mel_blob"] else []
            )
            data = {path: (Path(output.uri) / path).read_bytes() for path in paths}
            row["artifacts"] = [
                {
                    "path": path,
                    "size_bytes": len(data[path]),
                    "sha256": hashlib.sha256(data[path]).hexdigest(),
                }
                for path in paths
            ]

    rewrite(output, part, change)


@pytest.fixture
def known(output) -> Output:
    """The output, whose rows know their files."""
    for part in (FIRST, SECOND):
        remember(output, f"tracks/{part}")
    assert dict(check(output, deep=True)[0].counts) == {}
    return output


@pytest.mark.parametrize("path", [mel_path("a.wav"), STEM_FILES.path(asset("a.wav"), "vocals.flac")])
@pytest.mark.parametrize("cut", [5, 0])
def test_a_file_that_was_cut_is_found_by_its_size_and_mended(known, path, cut):
    data = (Path(known.uri) / path).read_bytes()
    (Path(known.uri) / path).write_bytes(data[:-1] if cut == 0 else data[:cut])
    assert sum(kinds(known).values()) == 1
    mended(known)
    [row] = [r for r in rows(known, f"tracks/{FIRST}") if r["uri"] == "/audio/a.wav"]
    owner = "mel" if path.endswith(".npy") else "separation"
    assert owner not in dict(row["extractor_keys"]), "the next run computes it again"
    assert not (Path(known.uri) / path).exists()


@pytest.mark.parametrize("path", [mel_path("a.wav"), STEM_FILES.path(asset("a.wav"), "vocals.flac")])
def test_a_file_with_other_bytes_is_found_by_its_content(known, path):
    data = bytearray((Path(known.uri) / path).read_bytes())
    data[-1] ^= 1
    (Path(known.uri) / path).write_bytes(bytes(data))
    assert kinds(known) == {}, "its size is right"
    report = verify(known, deep=True, repair=True)
    assert report.exit_code == 0
    assert sum(report.mended[f"broken_{noun}"] for noun in ("blob", "stem")) == 1


def test_content_that_nobody_wrote_down_is_read(output):
    """Rows of older versions know nothing of their files."""
    nan = np.full((8, 16), np.nan, np.float16)
    output.write(mel_path("a.wav"), npy_bytes(nan))
    sound = 0.1 * np.sin(np.arange(20000))
    for name in ("a.wav", "b.wav", "c.wav", "d.wav"):
        output.write(STEM_FILES.path(asset(name), "vocals.flac"), encode_flac24(sound[None], 44100)[0])
    cut = output.read(STEM_FILES.path(asset("c.wav"), "vocals.flac"))
    output.write(STEM_FILES.path(asset("c.wav"), "vocals.flac"), cut[: len(cut) // 2])
    assert kinds(output) == {}
    found = check(output, deep=True)[0]
    assert found.counts == {"broken_blob": 1, "broken_stem": 1}
    assert {f.where for f in found.kept} == {
        mel_path("a.wav"),
        STEM_FILES.path(asset("c.wav"), "vocals.flac"),
    }


def test_half_of_an_output_is_not_taken_for_rubbish(output):
    for part in output.parts("tracks"):
        output.discard(part)
    output.write(f"runs/{RUN}/status.json", b'{"status": "done"}')
    before = files(output)
    for arguments in ({}, {"repair": True}, {"prune": True}):
        with pytest.raises(UserError, match="no tracks, and 5 parts of failures, segments, timings"):
            verify(output, **arguments)
    assert {k: v for k, v in files(output).items() if "lock" not in k} == before


def test_what_a_first_run_left_that_was_killed_is_mended(output):
    for part in output.parts("tracks"):
        output.discard(part)
    output.write(f"runs/{RUN}/status.json", b'{"status": "running"}')
    assert verify(output, repair=True).mended["orphan_part"] == 5


def test_a_table_that_was_empty_before_clap_ran_is_clean(output):
    """It was written when nobody knew whose embeddings it would hold."""
    output.write_table("segments/part-empty.parquet", segments_of(None).empty_table())
    assert kinds(output) == {}


@pytest.mark.parametrize("table", ["tracks", "segments", "timings", "failures"])
def test_a_foreign_file_among_the_parts_is_told(output, table):
    output.write(f"{table}/notes.txt", b"mine")
    for name in ("_SUCCESS", ".hidden"):  # readers pass over these
        (Path(output.uri) / table / name).write_bytes(b"")
    report = verify(output, repair=True)
    assert report.remaining.counts == {"foreign_file": 1}
    assert report.remaining.kept[0].where == f"{table}/notes.txt"
    assert (Path(output.uri) / table / "notes.txt").exists(), "it is not ours to remove"


def test_a_file_that_is_gone_is_no_problem(output):
    rewrite(output, f"tracks/{FIRST}", put(2, status="gone"))
    rewrite(output, f"tracks/{SECOND}", put(0, status="gone"))
    assert kinds(output) == {}


def test_a_failed_row_needs_a_failure_of_its_decode(output):
    rewrite(output, f"failures/{FIRST}", put(0, stage="clap"))
    assert kinds(output) == {"status_without_failure": 1}


def test_old_failures_of_a_row_that_is_ok_now_are_removed(output):
    write_part(output, 9, ["bad.mp3"], run=LATER)
    finish(output, LATER)
    assert kinds(output)["failure_of_ok_track"] == 1
    mended(output)
    assert rows(output, f"failures/{FIRST}") == []


def test_an_ok_row_that_failed_in_its_own_run_is_left(output):
    rewrite(output, f"tracks/{FIRST}", put(2, status="ok"))
    assert verify(output, repair=True).remaining.counts == {"failure_of_ok_track": 1}
    assert len(rows(output, f"failures/{FIRST}")) == 1


@pytest.mark.parametrize("seconds", [-1.0, float("nan"), float("inf"), None])
def test_times_that_cannot_be_are_found(output, seconds):
    rewrite(output, f"timings/{FIRST}", put(0, compute_s=seconds))
    report = verify(output, repair=True)
    assert report.remaining.counts["bad_timing"] >= 1
    assert report.exit_code == 1


def test_a_track_that_was_never_decoded_is_found(output):
    rewrite(output, f"timings/{SECOND}", lambda found: found.__delitem__(0))
    assert kinds(output) == {"missing_timing": 1}


def test_times_add_up_to_what_the_run_counted(output):
    rewrite(output, f"timings/{FIRST}", put(1, compute_s=0.2))
    [finding] = check(output)[0].kept
    assert finding.kind == "timing_sum"
    assert finding.message.startswith("features.mel: ")


def test_sums_of_a_run_whose_rows_a_later_one_replaced_are_not_compared(output):
    rewrite(output, f"tracks/{FIRST}", put(0, run_id=LATER))
    rewrite(output, f"timings/{FIRST}", put(1, compute_s=0.2))
    assert kinds(output) == {}


def test_an_unfinished_newest_run_is_found_and_an_older_one_is_history(output):
    output.write(f"runs/{LATER}/log.jsonl", b"")
    assert kinds(output) == {"unfinished_run": 1}
    output.write("runs/20260103T000000-cccc/performance.json", b"{}")
    assert kinds(output) == {}


@pytest.mark.parametrize("damage", ["cut", "empty", "page"])
def test_an_unreadable_part_is_named_and_nothing_it_may_need_is_removed(output, damage):
    data = output.read(f"tracks/{FIRST}")
    broken = {"cut": data[: len(data) // 2], "empty": b"", "page": data[:4] + b"\xff" * 400 + data[404:]}[
        damage
    ]
    output.write(f"tracks/{FIRST}", broken)
    before = files(output)
    report = verify(output, repair=True)
    assert report.remaining.counts["unreadable_part"] == 1
    assert report.exit_code == 1
    assert files(output) == before
    assert Path(output.path(mel_path("a.wav"))).exists()


@pytest.mark.parametrize("table", ["segments", "timings", "failures"])
def test_an_unreadable_part_of_another_table_is_one_finding(output, table):
    output.write(f"{table}/{FIRST}", b"PAR1 no more")
    before = files(output)
    assert verify(output, repair=True).remaining.counts == {"unreadable_part": 1}
    assert files(output) == before


def test_a_part_with_other_columns_is_found(output):
    write_part(output, 9, ["e.wav"])
    finish(output)
    table = pq.read_table(output.path(f"tracks/{SECOND}"))
    output.write_table(f"tracks/{SECOND}", table.drop_columns(["codec"]))
    [finding] = check(output)[0].kept
    assert (finding.kind, finding.where) == ("schema", f"tracks/{SECOND}")
    assert "lacks codec" in finding.message
    output.write_table(f"tracks/{SECOND}", table.drop_columns(["asset_id"]))
    assert kinds(output)["schema"] == 1


def test_more_findings_than_are_kept_are_mended_in_rounds(output, monkeypatch):
    monkeypatch.setattr(findings, "MOST", 2)
    for number in range(5):
        output.write(blob_path(asset(f"gone{number}"), "mel", "1", "mel"), b"x")
    report = mended(output)
    assert report.found == {"orphan_blob": 5}
    assert report.mended == {"orphan_blob": 5}
    assert report.rounds == 3


def test_repair_that_dies_half_way_leaves_whole_parts(output, monkeypatch):
    rewrite(output, f"tracks/{FIRST}", put(0, clap_embedding=[0.0] * 512))
    rewrite(output, f"segments/{FIRST}", put(0, clap_embedding=[0.0] * 512))
    written = []

    def dies(relative, table, real=output.write_table):
        if written:
            raise OSError(28, "No space left on device")
        written.append(relative)
        real(relative, table)

    monkeypatch.setattr(output, "write_table", dies)
    with pytest.raises(OSError, match="No space"):
        verify(output, repair=True)
    monkeypatch.undo()
    assert written == [f"segments/{FIRST}"]
    assert "unreadable_part" not in kinds(output)
    mended(output)


def test_no_tables_is_one_line(tmp_path):
    with pytest.raises(UserError, match=r"holds no tables"):
        check(Output(str(tmp_path)))


def test_the_report_is_json(output):
    output.discard(mel_path("a.wav"))
    found = json.loads(json.dumps(verify(output).as_json(), allow_nan=False))
    assert found["remaining"] == {"missing_blob": 1}
    [finding] = found["findings"]
    assert finding["where"] == mel_path("a.wav")
    assert finding["mendable"] is True
