"""Files that are equal, renamed, gone and back: runs on one output, of which only the first has to compute."""

import json
import os
import shutil

import pyarrow.parquet as pq
import pytest
from helpers.undisturbed import config, contents, write_files

from pipeline.dataset.output import Output
from pipeline.dataset.tables.failures import summarise
from pipeline.dataset.verify import verify
from pipeline.workflows import retry as failures
from pipeline.workflows.jobs import extract

pytestmark = pytest.mark.timeout(600)

BROKEN = ("cut.wav", "cut again.wav", "e1.wav", "e2.wav")


def run(source, output, **changes):
    """A run, and what its log says by event."""
    made = config(source, output)
    for name, value in changes.items():
        setattr(made.source if name in ("gone", "glob", "limit") else made, name, value)
    result = extract.run(made, quiet=True)
    log = [json.loads(line) for line in (output / "runs" / result.run_id / "log.jsonl").open()]
    return result, {record["event"]: record["text"] for record in log}


def status(output) -> dict[str, str]:
    table = pq.read_table(output / "tracks", columns=["uri", "status"])
    return {row["uri"].rsplit("/", 1)[-1]: row["status"] for row in table.to_pylist()}


def assert_clean(output):
    assert verify(Output(str(output))).found == {}


@pytest.fixture(scope="module")
def first(tmp_path_factory, in_process):
    """Two good files, and twice two equal broken ones, after one run."""
    root = tmp_path_factory.mktemp("names")
    source, output = root / "in", root / "out"
    write_files(source, count=2)
    for name in ("zz_copy.wav", "no_audio.mp3"):
        (source / name).unlink()
    shutil.copyfile(source / "cut.wav", source / "cut again.wav")
    (source / "e1.wav").touch()
    (source / "e2.wav").touch()
    return source, output, run(source, output, max_failure_rate=0.5)


@pytest.fixture
def both(first, tmp_path, in_process):
    """A copy of the files and of that output, for each test."""
    source, output, _ = first
    shutil.copytree(source, tmp_path / "in", copy_function=shutil.copy2)
    shutil.copytree(output, tmp_path / "out")
    # The rows name the files by where they lay: they are moved back and forth instead.
    yield source, tmp_path / "out"
    shutil.rmtree(source)
    shutil.copytree(tmp_path / "in", source, copy_function=shutil.copy2)


def test_every_one_of_equal_broken_files_has_its_failure(first):
    _, output, (result, _) = first
    rows = pq.read_table(output / "failures").to_pylist()
    assert sorted(r["uri"].rsplit("/", 1)[-1] for r in rows) == sorted(BROKEN)
    assert {r["run_id"] for r in rows} == {result.run_id}
    found = summarise(Output(str(output)))
    assert (found.files_failed, found.rows) == (4, 4)
    assert sum(f["count"] for f in result.performance["failures"]) == 4, "the report counts them alike"
    assert_clean(output)


def test_the_same_command_again_has_the_same_exit_code_and_says_what_retries(both):
    source, output = both
    again, said = run(source, output, max_failure_rate=0.5)
    assert again.exit_code == 3
    assert "nothing to do: 2 of 6 files done, 4 failed before" in said["done"]
    assert "jobs/failures.py" in said["done"]
    assert "66.7%" in said["failure_rate"]
    assert said["written"].startswith("written: nothing new in ")
    assert said["doubts"] == "unsure or failed: 4 of 6 files failed"
    assert "jobs/failures.py" in said["next"]
    assert run(source, output, max_failure_rate=0.7)[0].exit_code == 0


def test_a_retry_of_equal_broken_files_leaves_a_failure_each(both):
    _, output = both
    before = contents(output)
    assert failures.retry(Output(str(output)), "uri like '%cut%'") in (0, 3)
    assert contents(output)["failures"] == before["failures"]
    assert_clean(output)


def test_a_renamed_file_is_not_computed_again_and_its_old_row_goes(both):
    source, output = both
    before = contents(output)
    (source / "000.wav").rename(source / "new name.wav")
    _, said = run(source, output)
    assert "device" not in said, "Ray is not started"
    assert "000.wav → new name.wav" in said["renamed"]
    assert "000.wav" not in status(output)
    assert status(output)["new name.wav"] == "ok"
    after = contents(output)
    [old] = [r for r in before["tracks"] if r["uri"].endswith("/000.wav")]
    [new] = [r for r in after["tracks"] if r["uri"].endswith("/new name.wav")]
    assert {k: v for k, v in old.items() if k != "uri"} == {k: v for k, v in new.items() if k != "uri"}
    assert after["blobs"] == before["blobs"]
    assert_clean(output)


def test_a_renamed_file_keeps_its_old_row_too_where_that_is_asked_for(both):
    source, output = both
    (source / "000.wav").rename(source / "new name.wav")
    _, said = run(source, output, gone="keep")
    assert "device" not in said
    assert status(output)["000.wav"] == status(output)["new name.wav"] == "ok"
    assert_clean(output)


def test_a_file_that_is_gone_is_marked_and_left_out_of_counts_until_it_is_back(both):
    source, output = both
    before = contents(output)
    kept = {name: (source / name).read_bytes() for name in ("001.wav", "e1.wav")}
    times = {name: (source / name).stat().st_mtime_ns for name in kept}
    for name in kept:
        (source / name).unlink()
    _, said = run(source, output)
    assert "2 files no longer there, marked as gone" in said["gone"]
    assert status(output)["001.wav"] == status(output)["e1.wav"] == "gone"
    found = summarise(Output(str(output)))
    assert (found.tracks, found.files_failed, found.rows) == (4, 3, 3)
    assert_clean(output)
    _, said = run(source, output)
    assert "gone" not in said, "once is enough"
    for name, data in kept.items():
        (source / name).write_bytes(data)
        os.utime(source / name, ns=(times[name], times[name]))
    _, said = run(source, output)
    assert "device" not in said
    assert "2 files of those that were gone are back" in said["resume"] or contents(output) == before
    assert contents(output) == before


def test_dropped_files_leave_nothing_behind_but_what_others_refer_to(both):
    source, output = both
    shutil.copyfile(source / "000.wav", source / "copy.wav")
    run(source, output)
    (source / "000.wav").unlink()
    (source / "001.wav").unlink()
    _, said = run(source, output, gone="drop")
    assert "2 files no longer there, dropped" in said["gone"]
    assert set(status(output)) == {"copy.wav", *BROKEN}
    [kept] = [r for r in contents(output)["tracks"] if r["uri"].endswith("copy.wav")]
    assert {path.split("/")[2] for path in contents(output)["blobs"]} == {kept["asset_id"]}
    assert_clean(output)


@pytest.mark.parametrize("narrower", [{"glob": "0*.wav"}, {"limit": 2}])
def test_what_a_narrower_source_leaves_out_is_not_gone(both, narrower):
    source, output = both
    before = status(output)
    run(source, output, **narrower)
    assert status(output) == before


def test_a_copy_of_a_known_file_needs_no_ray(both):
    source, output = both
    shutil.copyfile(source / "001.wav", source / "copy.wav")
    _, said = run(source, output)
    assert "device" not in said
    assert "1 file with a content that is known already" in said["copies"]
    assert status(output)["copy.wav"] == "ok"
    assert_clean(output)


def test_a_broken_file_that_is_replaced_by_a_copy_of_a_good_one_has_its_row(both):
    source, output = both
    shutil.copyfile(source / "000.wav", source / "cut.wav")
    run(source, output)
    assert status(output)["cut.wav"] == "ok"
    uris = [r["uri"].rsplit("/", 1)[-1] for r in contents(output)["failures"]]
    assert sorted(uris) == sorted(set(BROKEN) - {"cut.wav"})
    assert_clean(output)
