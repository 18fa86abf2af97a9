"""What waits on disk: in order, in nobody's way, adopted by others, never lost."""

import json
import os
import random
import threading
import time
from pathlib import Path

import pytest
from helpers.merging_index import NEVER, MergingIndex, drained

from pipeline.service import spool_files
from pipeline.service.spool import Spool
from pipeline.service.spool_entry import Entry, Step

ODD_IDS = ["", "../../etc/passwd", "a/b", "x" * 5000, "ä日本😀", "a\0b", ".", "\ud800", "con.json"]


@pytest.fixture
def spool(tmp_path) -> Spool:
    return Spool(tmp_path / "spool")


def test_put_and_drain(spool):
    spool.put("v", {"a": {"x": 1}, "b": None})
    spool.put("w", {"a": 1})
    spool.put("v", {"a": {"y": 2}, "b": {"z": 3}})
    assert spool.waiting() == 2
    assert spool.holds("v")
    assert not spool.holds("u")
    index = MergingIndex()
    index.songs["v"] = {"b": {"old": 0}, "c": 1}
    assert spool.drain(index, NEVER) == 2
    assert index.songs == {"v": {"a": {"x": 1, "y": 2}, "b": {"z": 3}, "c": 1}, "w": {"a": 1}}
    assert spool.waiting() == 0
    assert not spool.holds("v")


def test_a_video_id_is_no_path(tmp_path):
    spool = Spool(tmp_path / "deep" / "spool")
    for number, video_id in enumerate(ODD_IDS):
        spool.put(video_id, {"number": number})
    assert {path.name for path in tmp_path.rglob("*.json") if path.parent == spool.folder} == {
        path.name for path in tmp_path.rglob("*.json")
    }
    assert drained(Spool(spool.folder)) == {v: {"number": n} for n, v in enumerate(ODD_IDS)}


def test_the_oldest_first(spool):
    names = [f"v{n}" for n in random.Random(1).sample(range(1000), 30)]
    for name in names:
        spool.put(name, {"x": 1})
    spool.put(names[0], {"y": 2})  # it has waited the longest for all that
    index = MergingIndex()
    Spool(spool.folder).drain(index, NEVER)
    assert list(dict.fromkeys(index.order)) == names


def test_an_index_that_is_away_leaves_everything(spool):
    for number in range(5):
        spool.put(f"v{number}", {"x": number})
    index = MergingIndex()
    index.away_after = 2
    assert spool.drain(index, NEVER) == 2
    assert spool.waiting() == 3
    assert spool.drain(index, NEVER) == 0
    index.away_after = None
    assert spool.drain(index, NEVER) == 3
    assert index.songs == {f"v{n}": {"x": n} for n in range(5)}


def test_a_conflict_over_one_is_not_in_the_way_of_the_others(spool):
    for name in "abc":
        spool.put(name, {"x": 1})
    index = MergingIndex()
    index.stumbles = {"a"}
    assert spool.drain(index, NEVER) == 2
    assert spool.holds("a")


def test_stop_ends_it(spool):
    for name in "abc":
        spool.put(name, {"x": 1})
    index, stop = MergingIndex(), threading.Event()
    index.during = lambda video_id: stop.set()
    assert spool.drain(index, stop) == 1
    assert spool.waiting() == 2


def test_what_comes_while_the_older_is_on_its_way_waits_behind_it(spool):
    spool.put("v", {"x": 1})
    index = MergingIndex()
    index.during = lambda video_id: spool.put("v", {"x": 2}) if not index.order else None
    assert spool.drain(index, NEVER) == 0
    assert index.songs["v"] == {"x": 1}
    assert spool.drain(index, NEVER) == 1
    assert index.songs["v"] == {"x": 2}


def test_what_is_refused_lies_beside_its_reason(spool):
    for name in "abc":
        spool.put(name, {"x": name})
    index = MergingIndex()
    index.refuses = {"a", "b"}
    assert spool.drain(index, NEVER) == 3
    assert index.songs == {"c": {"x": "c"}}
    assert (spool.waiting(), spool.refused()) == (0, 2)
    kept = sorted((spool.folder / "refused").glob("*.json"))
    assert {json.loads(path.read_bytes())["video_id"] for path in kept} == {"a", "b"}
    for path in kept:
        assert path.with_suffix(".txt").read_text() == "400 mapper_parsing_exception: no\n"
    index.refuses = {"b"}
    assert spool.take_back() == 2
    assert (spool.waiting(), spool.refused()) == (2, 0)
    assert not list((spool.folder / "refused").glob("*.txt"))
    spool.drain(index, NEVER)
    assert index.songs["a"] == {"x": "a"}
    assert spool.refused() == 1


def test_what_was_refused_does_not_come_over_what_went_through_later(spool):
    success = {"path": "/a", "audio": {"error": None}}
    failure = {"audio": {"error": {"code": "X"}}}
    index = MergingIndex()
    spool.refuse("covered", success, "401")
    spool.refuse("behind", success, "401")
    for video_id, document in (("covered", success), ("behind", failure)):
        index.update(video_id, document)
        spool.applied(video_id, document)
    assert spool.refused() == 1
    spool.refuse("drained", success, "401")
    spool.put("drained", failure)
    spool.drain(index, NEVER)
    spool.take_back()
    spool.drain(index, NEVER)
    expected = {"path": "/a", "audio": {"error": {"code": "X"}}}
    assert index.songs == {"covered": success, "behind": expected, "drained": expected}


@pytest.mark.parametrize("rubbish", [b"", b"{", b"\xff\xfe", b"[]", b"null", b'{"video_id": 1, "steps": []}',
                                     b'{"video_id": "v", "steps": [{"at": 1, "document": 2}]}'])  # fmt: skip
def test_rubbish_is_in_nobodys_way(spool, rubbish):
    spool.put("a", {"x": 1})
    spool.put("v", {"x": 1})
    broken = next(
        path for path in spool.folder.glob("*.json") if json.loads(path.read_bytes())["video_id"] == "v"
    )
    broken.write_bytes(rubbish)
    spool.put("v", {"x": 2})
    assert drained(spool) == {"a": {"x": 1}, "v": {"x": 2}}
    (spool.folder / "refused").joinpath(broken.name).write_bytes(rubbish)
    broken.write_bytes(rubbish)
    assert drained(spool) == {}
    kept = [path for path in (spool.folder / "refused").glob("*.json") if path.read_bytes() == rubbish]
    assert len(kept) == 3
    reasons = [path.with_suffix(".txt") for path in kept if path.with_suffix(".txt").exists()]
    assert len(reasons) == 2, "all but the one that this test put there"
    assert all("cannot be read" in reason.read_text() for reason in reasons)


def test_what_was_half_written_is_swept_away(spool):
    spool.put("v", {"x": 1})
    (spool.folder / "0123.json.partial").write_bytes(b'{"video')
    (spool.folder / "refused" / "0123.txt.partial").write_bytes(b"400")
    again = Spool(spool.folder)
    assert not list(spool.folder.rglob("*.partial"))
    assert drained(again) == {"v": {"x": 1}}


def test_a_full_disk_is_said_and_loses_nothing(spool, monkeypatch):
    spool.put("v", {"x": 1})

    def full(handle):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space left"):
            spool.put("v", {"x": 2})
    assert not list(spool.folder.glob("*.partial"))
    assert drained(spool) == {"v": {"x": 1}}


def test_no_json_is_said_at_once(spool):
    for wrong in ({"x": float("nan")}, {"x": object()}):
        with pytest.raises((TypeError, ValueError)):
            spool.put("v", wrong)
    assert spool.waiting() == 0


def test_many_threads_and_two_objects(tmp_path):
    spools = [Spool(tmp_path), Spool(tmp_path)]
    index, stop = MergingIndex(), threading.Event()

    def put(number):
        for turn in range(25):
            spools[number % 2].put(f"v{turn % 5}", {f"t{number}": turn})

    def drain():
        while not stop.is_set():
            spools[0].drain(index, stop)

    writers = [threading.Thread(target=put, args=(n,)) for n in range(4)]
    drainer = threading.Thread(target=drain)
    for thread in (*writers, drainer):
        thread.start()
    for thread in writers:
        thread.join()
    stop.set()
    drainer.join()
    spools[1].drain(index, NEVER)
    assert index.songs == {f"v{n}": {f"t{t}": 20 + n for t in range(4)} for n in range(5)}


def test_adopt_puts_updates_of_several_instances_in_order(tmp_path):
    own, first, second = (Spool(tmp_path / name) for name in ("own", "first", "second"))
    first.put("v", {"path": "/old", "score": 1})
    own.put("v", {"path": "/new"})
    second.put("v", {"error": "last"})
    second.put("w", {"path": "/w"})
    second.refuse("r", {"path": "/r"}, "401")
    (second.folder / "x.json.partial").write_bytes(b"{")
    left = [first.folder, second.folder, own.folder, tmp_path / "nothing"]
    assert Spool.adopt(own.folder, left) == 4
    assert not first.folder.exists()
    assert not second.folder.exists()
    expected = {"path": "/new", "score": 1, "error": "last"}
    assert drained(own) == {"v": expected, "w": {"path": "/w"}, "r": {"path": "/r"}}
    assert Spool.adopt(own.folder, left) == 0


def test_adopt_takes_what_another_was_adopting_when_it_died(tmp_path):
    dead = Spool(tmp_path / "dead")
    spool_files.write(dead.folder / "arrived" / "0a.1.json", Entry("v", (Step(1, {"x": 1}),)).written())
    assert Spool.adopt(tmp_path / "own", [dead.folder]) == 1
    assert drained(Spool(tmp_path / "own")) == {"v": {"x": 1}}


def test_adopt_from_another_file_system(tmp_path, monkeypatch):
    shared_memory = Path("/dev/shm")  # noqa: S108  there is no other file system to be had
    if not shared_memory.is_dir() or shared_memory.stat().st_dev == tmp_path.stat().st_dev:
        real = Path.rename

        def across(path, target):
            if path.parent.parent == tmp_path:
                raise OSError(18, "Invalid cross-device link")
            return real(path, target)

        monkeypatch.setattr(Path, "rename", across)
        shared_memory = tmp_path
    left = Spool(shared_memory / f"left-{time.time_ns()}")
    left.put("v", {"x": 1})
    assert Spool.adopt(tmp_path / "own", [left.folder]) == 1
    assert not left.folder.exists()
    assert drained(Spool(tmp_path / "own")) == {"v": {"x": 1}}


def test_an_instance_that_was_taken_for_dead_goes_on(tmp_path):
    alive = Spool(tmp_path / "alive")
    alive.put("v", {"x": 1})
    Spool.adopt(tmp_path / "own", [alive.folder])
    alive.put("v", {"x": 2})
    alive.refuse("w", {"x": 3}, "401")
    assert drained(alive) == {"v": {"x": 2}}
