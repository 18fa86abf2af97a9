"""Ctrl-C on a terminal: the run stops, says what is committed and how to go on, and leaves nothing behind."""

import json
import os
import pty
import re
import select
import signal
import subprocess
import time
from pathlib import Path

import pyarrow.dataset
import pytest
from helpers.undisturbed import REPO, command, parts, workers_of, write_files

pytestmark = pytest.mark.timeout(240)
FILES = 60


def read(terminal: int, seconds: float) -> bytes:
    """What came on the terminal within ``seconds``; empty at its end, too."""
    ready, _, _ = select.select([terminal], [], [], seconds)
    try:
        return os.read(terminal, 65536) if ready else b""
    except OSError:  # the other side is closed
        return b""


def until(terminal: int, condition, process: subprocess.Popen, seconds: float) -> bytes:
    """Read until ``condition`` holds or the process has ended."""
    seen, deadline = b"", time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        seen += read(terminal, 0.1)
        if process.poll() is not None:
            break
    return seen


def alive(pid: int) -> bool:
    status = Path(f"/proc/{pid}/status")
    return status.exists() and "State:\tZ" not in status.read_text()


def test_ctrl_c_stops_the_run_and_says_how_to_go_on(tmp_path):
    write_files(tmp_path / "in", count=FILES)
    output = tmp_path / "out"
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        command(str(tmp_path / "in"), str(output)), cwd=REPO, stdin=theirs, stdout=theirs, stderr=theirs,
        start_new_session=True, env={**os.environ, "TERM": "xterm", "COLUMNS": "120"},
    )  # fmt: skip
    os.close(theirs)
    try:
        text = until(ours, lambda: parts(output) >= 3, process, 120)
        assert process.poll() is None, text.decode()
        workers = workers_of(process.pid)
        os.killpg(process.pid, signal.SIGINT)  # what a terminal sends to everything that runs in it
        text += until(ours, lambda: process.poll() is not None, process, 60)
        assert process.poll() == 130, text.decode()
        text += read(ours, 0.5)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        os.close(ours)
    said = text.decode()
    assert "audio-s/s" in said, "the live view"
    assert "Traceback" not in said
    stopped = re.search(r"stopped by Ctrl-C: (\d+) of (\d+) files? committed, which stay", said)
    assert stopped, said
    rows = pyarrow.dataset.dataset(str(output / "tracks"), format="parquet").count_rows()
    assert rows == int(stopped[1]) > 0, "also those of parts whose receipts were still on their way"
    assert int(stopped[2]) == FILES + 3
    [log] = (output / "runs").glob("*/log.jsonl")
    last = [json.loads(line) for line in log.read_text().splitlines()][-3:]
    assert [r["event"] for r in last] == ["written", "doubts", "next"]
    assert last[0]["text"].startswith("written: ")
    assert f" of {FILES + 3} files not done" in last[1]["text"]
    assert "next: the same command goes on with the rest" in last[2]["text"]
    statuses = [json.loads(file.read_text())["status"] for file in (output / "runs").glob("*/status.json")]
    assert statuses == ["stopped"]
    assert list((output / "runs").glob("*/report.html")), "what there is, is reported"
    assert not (output / "runs" / "output.lock").exists()
    deadline = time.monotonic() + 30
    while any(map(alive, workers)) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert workers
    assert not any(map(alive, workers))
