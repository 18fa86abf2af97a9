"""One job at a time on an output."""

import json
import os
import subprocess
import sys
import time

import pytest

from pipeline.dataset.lock import PATH, OutputLock, holder, read_lock
from pipeline.dataset.output import Output
from pipeline.errors import UserError


@pytest.fixture
def output(tmp_path) -> Output:
    return Output(str(tmp_path / "out"))


@pytest.fixture
def new_lock(output):
    """Makes locks of ``output``; lets go of all of them in the end, or their threads would beat into other tests."""
    made = []

    def make(owner: str, **settings) -> OutputLock:
        made.append(OutputLock(output, owner, **settings))
        return made[-1]

    yield make
    for lock in made:
        lock.release()


def left_behind(output: Output, **fields) -> None:
    """A lock as another job would have left it."""
    other = OutputLock(output, "other")
    other.acquire()
    held = {**read_lock(output), "token": "theirs", **fields}
    other.release()
    output.write(PATH, json.dumps(held).encode())


def test_the_second_job_is_refused_and_told_who_holds_it(output, new_lock):
    first = new_lock("run-1")
    first.acquire()
    with pytest.raises(UserError, match=rf"run run-1 \(pid {os.getpid()}"):
        new_lock("run-2").acquire()
    assert holder(output) == "run-1"
    first.release()
    assert holder(output) is None
    new_lock("run-2").acquire()


def test_the_lock_of_a_process_that_is_gone_is_taken_over_at_once_and_said(output, new_lock):
    code = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
    process = subprocess.Popen([sys.executable, "-c", code])
    process.wait()
    left_behind(output, pid=process.pid)
    said = []
    lock = new_lock("mine")
    lock.acquire(said.append)
    assert said == [f"run other left its lock behind (its process {process.pid} is gone): taken over"]
    assert read_lock(output)["run_id"] == "mine"
    lock.release()


def test_a_pid_that_was_given_anew_is_not_the_job(output, new_lock):
    left_behind(output, process_started="12")
    new_lock("mine").acquire()
    assert holder(output) == "mine"


def test_a_lock_of_another_machine_is_stale_only_when_it_stands_still(output, new_lock):
    left_behind(output, host="elsewhere")
    with pytest.raises(UserError, match="on elsewhere"):
        new_lock("mine").acquire()
    left_behind_long_ago = {**read_lock(output), "heartbeat": "2020-01-01T00:00:00+00:00"}
    output.write(PATH, json.dumps(left_behind_long_ago).encode())
    said = []
    new_lock("mine", heartbeat_s=0.01).acquire(said.append)
    assert "not renewed for" in said[0]


def test_a_job_that_lost_its_lock_notices_and_does_not_remove_the_others(output, new_lock):
    lock = new_lock("slow", heartbeat_s=0.01)
    lock.acquire()
    output.write(PATH, json.dumps({**read_lock(output), "token": "theirs", "run_id": "next"}).encode())
    for _ in range(500):
        if lock.lost:
            break
        time.sleep(0.01)
    assert lock.lost
    lock.release()
    assert read_lock(output)["run_id"] == "next"


def test_a_half_written_lock_is_taken_over(output, new_lock):
    output.write(PATH, b"{")
    new_lock("mine", heartbeat_s=0.01).acquire()
    assert read_lock(output)["run_id"] == "mine"
