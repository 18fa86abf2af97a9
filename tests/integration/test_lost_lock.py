"""A job whose output another one took over ends with one line that says so, and writes no more."""

import json

import pytest
from helpers.undisturbed import job, parts, wait_for, write_files

from pipeline.dataset.lock import PATH

pytestmark = pytest.mark.timeout(300)


def test_a_job_that_lost_its_lock_says_so_in_one_line(tmp_path):
    source, output, log = tmp_path / "in", tmp_path / "out", tmp_path / "log"
    write_files(source, count=40, seconds=6.0)
    with job(str(source), str(output), log, **{"ray.address": "inline"}) as process:
        assert wait_for(lambda: parts(output) >= 2, process)
        held = json.loads((output / PATH).read_text())
        (output / PATH).write_text(json.dumps({**held, "token": "theirs", "run_id": "20990101T000000-ffff"}))
        assert process.wait(120) == 1
    said = log.read_text()
    assert "Traceback" not in said
    assert [line for line in said.splitlines() if "took" in line and "over" in line], said
    assert json.loads((output / PATH).read_text())["token"] == "theirs", "the lock is the other's"
