"""Temporary folders of workers, which must not pile up where workers are killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from pipeline.engine import scratch
from pipeline.engine.scratch import scratch_folder

HOLDER = """
import sys
from pipeline.engine.scratch import scratch_folder
with scratch_folder() as folder:
    (folder / "song.wav").write_bytes(bytes(1000))
    print(folder, flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.setattr(scratch.tempfile, "tempdir", str(tmp_path))
    scratch.remove_abandoned.cache_clear()
    yield tmp_path
    scratch.remove_abandoned.cache_clear()


def use_and_raise(place) -> None:
    with scratch_folder() as folder:
        (folder / "a").write_text("x")
        assert folder.parent == place
        raise ZeroDivisionError


def test_it_is_there_within_and_gone_after_whatever_happens(place):
    with pytest.raises(ZeroDivisionError):
        use_and_raise(place)
    assert list(place.iterdir()) == []


def test_that_of_a_killed_process_is_removed_and_that_of_a_living_one_is_not(place):
    held = [
        subprocess.Popen(
            [sys.executable, "-c", HOLDER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env={**os.environ, "TMPDIR": str(place)},
        )
        for _ in range(2)
    ]  # fmt: skip
    killed, living = (process.stdout.readline().strip() for process in held)
    held[0].send_signal(signal.SIGKILL)
    held[0].wait(60)
    (place / f"{scratch._PREFIX}begun").mkdir()  # nobody knows yet whose that is
    with scratch_folder() as own:
        assert {str(path) for path in place.iterdir()} == {
            living,
            str(own),
            f"{place}/{scratch._PREFIX}begun",
        }
    held[1].communicate("", timeout=60)
    assert held[1].returncode == 0
    assert not any(os.path.exists(folder) for folder in (killed, living))  # noqa: PTH110
