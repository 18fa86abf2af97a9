"""One job at a time on an output."""

import json
import os
import subprocess
import sys
import time

import pytest

from pipeline.dataset.lock import PATH, OutputLock, read_lock
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
    assert read_lock(output)["run_id"] == "run-1"
    first.release()
    assert read_lock(output) is None
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
    assert read_lock(output)["run_id"] == "mine"


def test_a_lock_of_another_machine_is_stale_only_when_it_stands_still(output, new_lock):
    left_behind(output, host="elsewhere")
    with pytest.raises(UserError, match="on elsewhere"):
        new_lock("mine").acquire()
    left_behind_long_ago = {**read_lock(output), "heartbeat": "2020-01-01T00:00:00+00:00"}
    output.write(PATH, json.dumps(left_behind_long_ago).encode())
    said = []
    new_lock("mine", heartbeat_s=0.01).acquire(said.append)
    assert "waiting 0 s to see whether run other still renews its lock" in said[0]
    assert "run other left its lock behind (not renewed for" in said[1]


@pytest.mark.parametrize("foreign", [{"pids_of": "another boot pid:[1]"}, {"pids_of": None}])
def test_processes_of_another_container_are_not_looked_for_by_their_numbers(output, new_lock, foreign):
    """It has the same host name where containers share the host's network, and numbers of its own."""
    left_behind(output, pid=2**22 + 1, **foreign)
    with pytest.raises(UserError, match="is being written by run other"):
        new_lock("mine").acquire()


def test_a_process_in_a_namespace_of_its_own_is_left_alone(output, new_lock):
    """The same with a real one: the kernel gives it another view of processes."""
    script = f"""
import sys
from pipeline.dataset.lock import OutputLock
from pipeline.dataset.output import Output
lock = OutputLock(Output({output.uri!r}), "inside", heartbeat_s=0.1)
lock.acquire()
print("holds it", flush=True)
sys.stdin.read()
lock.release()
"""
    command = ["unshare", "--pid", "--fork", "--mount-proc", sys.executable, "-c", script]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as inside:
        if inside.stdout.readline() != "holds it\n":
            pytest.skip(f"no namespaces here: {inside.stderr.read().strip()}")
        with pytest.raises(UserError, match="is being written by run inside"):
            new_lock("mine").acquire()
        inside.stdin.close()
        assert inside.wait(30) == 0
    new_lock("mine").acquire()


def test_a_time_in_the_future_does_not_hold_for_ever(output, new_lock):
    left_behind(output, host="elsewhere", heartbeat="2999-01-01T00:00:00+00:00")
    said = []
    new_lock("mine", heartbeat_s=0.01).acquire(said.append)
    assert "its time lies in the future" in said[1]


def test_a_clock_that_is_ahead_is_no_reason_to_take_over(output, new_lock):
    other = new_lock("other", heartbeat_s=0.01)
    other.acquire()

    def ahead(lock=other):
        beat = f"2999-01-01T00:00:00.{time.time_ns() // 1000 % 10**6:06d}+00:00"
        fields = json.loads(OutputLock._content(lock))
        return json.dumps({**fields, "host": "elsewhere", "heartbeat": beat}).encode()

    other._content = ahead
    output.write(PATH, ahead())
    with pytest.raises(UserError, match="is being written by run other"):
        new_lock("mine", heartbeat_s=0.1).acquire()


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
    said = []
    new_lock("mine", heartbeat_s=0.01).acquire(said.append)
    assert "None" not in "".join(said)
    assert "a job whose lock cannot be read left its lock behind" in said[1]
    assert read_lock(output)["run_id"] == "mine"
