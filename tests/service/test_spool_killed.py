"""A spool that dies at any moment: what was acknowledged is there, and what was older stays older."""

import itertools
import os
import random
import shutil
import signal
import subprocess
import sys
from pathlib import Path

from helpers.merging_index import NEVER, MergingIndex, drained

from pipeline.service.spool import Spool


class Died(BaseException):
    """In the place of a kill, at one operation on a file."""


class DiesAt:
    """Lets so many operations on files through; from then on nothing works any more, as after a kill."""

    def __init__(self, monkeypatch, number: int) -> None:
        self.left = number
        for place, name in (
            (Path, "rename"),
            (Path, "replace"),
            (Path, "unlink"),
            (Path, "rmdir"),
            (os, "fsync"),
        ):
            monkeypatch.setattr(place, name, self._counted(getattr(place, name)))

    def _counted(self, real):
        def call(*args, **named):
            self.left -= 1
            if self.left < 0:
                raise Died
            return real(*args, **named)

        return call


def died_everywhere(tmp_path, monkeypatch, prepare, act):
    """Folders in which ``act`` died after 0, 1, 2, … operations on files, and at last one in which it did not."""
    for number in itertools.count():
        folder = tmp_path / str(number)
        prepared = prepare(folder)
        with monkeypatch.context() as patched:
            DiesAt(patched, number)
            try:
                act(folder, prepared)
                ended = True
            except Died:
                ended = False
        yield folder, ended
        if ended:
            assert number >= 3
            return


def test_adopt_may_be_killed_anywhere(tmp_path, monkeypatch):
    def prepare(folder):
        own, left = Spool(folder / "own"), Spool(folder / "left")
        left.put("v", {"path": "/old", "score": 1})
        own.put("v", {"path": "/new"})
        left.put("w", {"path": "/w"})
        left.refuse("r", {"path": "/r"}, "401")

    def act(folder, prepared):
        Spool.adopt(folder / "own", [folder / "left"])

    for folder, _ in died_everywhere(tmp_path, monkeypatch, prepare, act):
        Spool.adopt(folder / "next", [folder / "own", folder / "left"])
        songs = {"v": {"path": "/new", "score": 1}, "w": {"path": "/w"}, "r": {"path": "/r"}}
        assert drained(Spool(folder / "next")) == songs, folder


def test_drain_and_take_back_may_be_killed_anywhere(tmp_path, monkeypatch):
    def prepare(folder):
        spool = Spool(folder)
        spool.refuse("r", {"x": 0}, "401")
        spool.put("r", {"x": 1})
        spool.put("v", {"y": 1})
        index = MergingIndex()
        index.refuses = {"r"}
        return spool, index

    def act(folder, prepared):
        spool, index = prepared
        spool.drain(index, NEVER)
        spool.take_back()
        spool.drain(index, NEVER)

    for folder, _ in died_everywhere(tmp_path, monkeypatch, prepare, act):
        spool = Spool(folder)
        spool.take_back()
        assert drained(spool)["r"] == {"x": 1}, folder


def test_put_may_be_killed_anywhere(tmp_path, monkeypatch):
    def prepare(folder):
        spool = Spool(folder)
        spool.put("v", {"x": 1})
        return spool

    def act(folder, spool):
        spool.put("v", {"y": 2})

    for folder, ended in died_everywhere(tmp_path, monkeypatch, prepare, act):
        found = drained(Spool(folder))
        whole = {"v": {"x": 1, "y": 2}}
        assert found == whole or (not ended and found == {"v": {"x": 1}})


PUTS = """
import sys
from pathlib import Path
from pipeline.service.spool import Spool

spool = Spool(Path(sys.argv[1]))
for number in range(int(sys.argv[2]), 1_000_000):
    spool.put(f"v{number % 7}", {"last": number, f"f{number % 3}": {"n": number}})
    print(number, flush=True)
"""


def test_kill_9_loses_nothing_that_was_acknowledged(tmp_path, repo):
    chance, acknowledged = random.Random(3), []
    for _ in range(4):
        begin = acknowledged[-1] + 1 if acknowledged else 0
        command = [sys.executable, "-c", PUTS, str(tmp_path), str(begin)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=repo) as process:
            enough = chance.randint(5, 60)
            for line in itertools.islice(process.stdout, enough):
                acknowledged.append(int(line))
            process.send_signal(signal.SIGKILL)
            acknowledged += [int(line) for line in process.stdout if line.endswith("\n")]
        # The one that was on its way may be there or not.
        acknowledged_or_more = _as_drained(tmp_path)
        expected = _as_expected(range(acknowledged[-1] + 1))
        and_one_more = _as_expected(range(acknowledged[-1] + 2))
        assert acknowledged_or_more in (expected, and_one_more)
    assert acknowledged == sorted(acknowledged)


def _as_drained(folder: Path) -> dict[str, dict]:
    copied = folder.with_name(f"{folder.name}-copy")
    shutil.copytree(folder, copied)
    try:
        return drained(Spool(copied))
    finally:
        shutil.rmtree(copied)


def _as_expected(numbers) -> dict[str, dict]:
    index = MergingIndex()
    for number in numbers:
        index.update(f"v{number % 7}", {"last": number, f"f{number % 3}": {"n": number}})
    return index.songs
