"""Running again does only what is missing: real runs on one output."""

import json
import os
import shutil

import pandas as pd
import pytest
from helpers.undisturbed import config, contents, write_files

from pipeline.dataset.lock import OutputLock
from pipeline.dataset.output import Output
from pipeline.dataset.verify import verify
from pipeline.errors import UserError
from pipeline.workflows import retry as failures
from pipeline.workflows.jobs import extract

pytestmark = pytest.mark.timeout(600)


def tracks(output) -> pd.DataFrame:
    table = pd.read_parquet(output / "tracks")
    table["name"] = table["uri"].str.rsplit("/", n=1).str[-1]
    assert table["name"].is_unique
    return table.set_index("name")


def stages_of(output, run_id) -> dict[str, set]:
    """Asset → stages that the manifest of a run names as computed."""
    manifest = json.loads((output / "runs" / run_id / "manifest.json").read_text())
    return {a["uri"].rsplit("/", 1)[-1]: {e["name"] for e in a["extractors"]} for a in manifest["assets"]}


@pytest.fixture(scope="module")
def outputs(tmp_path_factory, in_process):
    """A first run, and then four changes to files and config with a run after each."""
    root = tmp_path_factory.mktemp("resume")
    source, output = root / "in", root / "out"
    write_files(source, count=6)
    first = config(source, output)
    first.features.enabled = ["loudness", "quality"]
    runs = [extract.run(first, quiet=True)]
    snapshots = [{**contents(output), "timings": pd.read_parquet(output / "timings")}]
    runs.append(extract.run(first, quiet=True))
    snapshots.append(contents(output))

    # One more extractor; a file changed, one renamed, one copied, one touched, one more.
    write_files(root / "more", count=8)
    (source / "002.wav").rename(source / "renamed.wav")
    shutil.copyfile(source / "003.wav", source / "another copy.wav")
    shutil.copyfile(root / "more" / "006.wav", source / "004.wav")
    os.utime(source / "005.wav", (1, 1))
    shutil.copyfile(root / "more" / "007.wav", source / "new.wav")
    second = config(source, output)
    second.features.enabled = ["loudness", "mel", "quality"]
    runs.append(extract.run(second, quiet=True))
    snapshots.append(contents(output))
    return source, output, runs, snapshots


def test_a_second_run_has_nothing_to_do_and_says_so(outputs):
    _, output, runs, snapshots = outputs
    assert runs[1].exit_code == 0
    assert snapshots[1] == {name: held for name, held in snapshots[0].items() if name != "timings"}
    log = (output / "runs" / runs[1].run_id / "log.jsonl").read_text()
    assert "nothing to do: 7 of 9 files done, 2 failed before" in log
    assert '"event": "device"' not in log, "nothing is started for it"


def test_an_equal_file_is_computed_once_and_has_its_row(outputs):
    _, _, _, snapshots = outputs
    rows = {r["uri"].rsplit("/", 1)[-1]: r for r in snapshots[0]["tracks"]}
    copy, own = rows["zz_copy.wav"], rows["000.wav"]
    assert copy["asset_id"] == own["asset_id"]
    assert {k: v for k, v in copy.items() if k != "uri"} == {k: v for k, v in own.items() if k != "uri"}


def test_after_the_changes_every_file_is_what_a_fresh_run_says(outputs, tmp_path):
    source, _, runs, snapshots = outputs
    assert runs[2].exit_code == 0
    fresh = config(source, tmp_path / "fresh")
    fresh.features.enabled = ["loudness", "mel", "quality"]
    assert extract.run(fresh, quiet=True).exit_code == 0
    expected, found = contents(tmp_path / "fresh"), snapshots[2]
    here = {str(p) for p in source.iterdir()}
    assert [r for r in found["tracks"] if r["uri"] in here] == expected["tracks"]
    assert set(expected["blobs"].items()) == set(found["blobs"].items())
    assert [r for r in found["failures"] if r["uri"] in here] == expected["failures"]
    assert {r["uri"] for r in found["tracks"]} == here, "the row of a file goes to its new name"


def test_adding_an_extractor_computes_it_and_carries_the_others_over(outputs):
    _, output, runs, snapshots = outputs
    timings = pd.read_parquet(output / "timings")
    table = tracks(output)
    log = [json.loads(line) for line in (output / "runs" / runs[2].run_id / "log.jsonl").open()]
    [plan] = [r for r in log if r["event"] == "resume"]
    assert plan["done"] == 2, "the two that are no audio"
    kept = table.loc["001.wav"]
    assert kept["run_id"] == runs[2].run_id
    assert set(dict(kept["extractor_keys"])) == {"loudness", "mel", "quality"}
    of_asset = timings[timings["asset_id"] == kept["asset_id"]]
    assert sorted(of_asset["stage"]) == [
        "decode",
        "features.loudness",
        "features.mel",
        "features.quality",
        "write",
    ]
    # The older stages were not run again: their rows are those of the first run.
    before = snapshots[0]["timings"]
    before = before[before["asset_id"] == kept["asset_id"]].set_index("stage")["compute_s"]
    now = of_asset.set_index("stage")["compute_s"]
    assert (
        now[["features.loudness", "features.quality"]] == before[["features.loudness", "features.quality"]]
    ).all()
    assert now["decode"] != before["decode"]


@pytest.mark.chaos
def test_arrays_under_an_older_key_are_removed_once_nothing_refers_to_them(outputs, tmp_path):
    source, _, _, _ = outputs
    made = config(source, tmp_path / "out")
    made.features.enabled = ["mel"]
    made.source.glob = "00*.wav"
    assert extract.run(made, quiet=True).exit_code == 0
    before = contents(tmp_path / "out")
    made.features.mel.n_mels = 64
    assert extract.run(made, quiet=True).exit_code == 0
    after = contents(tmp_path / "out")
    assert len(after["blobs"]) == len(before["blobs"])
    assert not after["blobs"].keys() & before["blobs"].keys()
    assert {len(r["mel_mean"]) for r in after["tracks"]} == {64}
    assert not verify(Output(str(tmp_path / "out"))).found


def test_two_jobs_do_not_write_to_one_output(outputs):
    source, output, _, _ = outputs
    lock = OutputLock(Output(str(output)), "other")
    lock.acquire()
    try:
        with pytest.raises(UserError, match="is being written by run other"):
            extract.run(config(source, output), quiet=True)
    finally:
        lock.release()


def test_a_retry_tries_what_failed_again_and_nothing_else(outputs, capsys):
    _, output, _, _ = outputs
    before = tracks(output)
    assert failures.retry(Output(str(output)), "error_class = 'TruncatedAudio'") == 0
    assert "1 file to run again" in capsys.readouterr().out
    after = tracks(output)
    assert list(after[after["run_id"] != before["run_id"]].index) == ["cut.wav"]
    table = pd.read_parquet(output / "failures")
    assert sorted(table["uri"].str.rsplit("/", n=1).str[-1]) == ["cut.wav", "no_audio.mp3"]


def test_what_real_runs_leave_verifies_clean(outputs):
    _, output, _, _ = outputs
    found = verify(Output(str(output)))
    assert not found.found, found.remaining.kept
    lock = OutputLock(Output(str(output)), "other")
    lock.acquire()
    try:
        with pytest.raises(UserError, match="is being written by run other"):
            verify(Output(str(output)), repair=True)
    finally:
        lock.release()
