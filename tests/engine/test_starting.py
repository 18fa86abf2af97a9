"""Starting is told from working: of a decoder's child, of an actor, in the report of a run. No time is asserted."""

from __future__ import annotations

import json
import os
import time

import numpy as np
import pyarrow as pa
import pytest
import soundfile

from pipeline.audio.isolated import IsolatedDecoder
from pipeline.audio.stream import AudioFile
from pipeline.audio.views import View, Wanted
from pipeline.dataset.sources.listing import SourceItem
from pipeline.engine import process
from pipeline.engine.batch import collect
from pipeline.engine.guard import guarded
from pipeline.engine.node import Node
from pipeline.engine.packing import pack, planned
from pipeline.engine.process import note_ready, note_started, process_facts, process_note
from pipeline.engine.progress import Progress
from pipeline.report.performance import markdown, performance
from pipeline.stages.decode.worker import DecodeWorker

WANTED = Wanted((View("native", None, None),), 10_000_000, 60.0)
SLOW = 0.3


@pytest.fixture(autouse=True)
def not_started_yet(monkeypatch):
    monkeypatch.setattr(process, "_starting", process._Starting())


@pytest.fixture
def file(tmp_path) -> AudioFile:
    path = tmp_path / "a.wav"
    soundfile.write(path, np.full(800, 0.5), 8000)
    return AudioFile(path.name, path.stat().st_size, path=path)


def test_a_decoder_that_was_waited_for_starts_no_more_with_its_first_file(file):
    decoder = IsolatedDecoder(WANTED)
    decoder.wait_until_ready()
    before = decoder.starting_s
    assert before > 0
    pid = decoder.pid
    decoder.decode(file)
    assert decoder.starting_s - before < before
    assert decoder.pid == pid
    decoder.close()


def test_a_child_that_cannot_start_is_the_first_files_failure_and_not_the_constructors(file):
    decoder = IsolatedDecoder(WANTED, decoder="no_such_module:decode")
    decoder.wait_until_ready()
    with pytest.raises(Exception, match="exited with code"):
        decoder.decode(file)
    decoder.close()


class SlowToStart(IsolatedDecoder):
    """Its child dies before each file but the first, and takes a while to be there again."""

    def _start(self):
        known = self._child
        super()._start()
        if self._child is not known:
            time.sleep(SLOW)
            self.starting_s += SLOW

    def decode(self, file):
        found = super().decode(file)
        self.close()
        return found


def test_no_file_pays_for_a_child_that_starts(tmp_path):
    items = []
    for number in range(3):
        path = tmp_path / f"{number}.wav"
        soundfile.write(path, np.full(8000, number / 10), 8000)
        items.append(SourceItem(str(path), path.stat().st_size))
    stage = DecodeWorker([View("native", None, None)])
    stage.decoder.close()
    stage.decoder = SlowToStart(stage.decoder.wanted)
    [block] = pack(planned(items), 1000.0, 100)
    started = time.perf_counter()
    table = stage(block)
    elapsed = time.perf_counter() - started
    spent = sum(t["compute_s"] for row in collect(table, "timings") for t in row)
    assert 0 < spent <= elapsed - 3 * SLOW
    notes = [json.loads(note) for note in table["process@decode"].to_pylist()]
    assert all(note["startup_s"] >= 3 * SLOW for note in notes)
    stage.decoder.close()


def test_an_actor_says_when_it_could_work_and_what_that_took():
    class Stage:
        def __init__(self, number: int) -> None:
            self.number = number

        def __call__(self, table: pa.Table) -> pa.Table:
            return table

    assert process_facts("s")["ready_at"] is None
    stage = guarded(Node("s", Stage, {"number": 3}))()
    facts = process_facts("s")
    [(name, worker)] = stage.workers
    assert (name, worker.number) == ("s", 3)
    assert (facts["stage"], facts["pid"]) == ("s", os.getpid())
    assert facts["ready_at"] <= time.time()
    assert facts["startup_s"] > 0
    assert json.loads(process_note("s")).keys() == facts.keys()


def test_a_worker_that_waited_for_its_stage_has_not_been_starting_all_that_time(monkeypatch):
    monkeypatch.setattr(process, "age_s", lambda: 10_000.0)
    monkeypatch.setattr(process, "_LOADED_AT", time.time() - 2)
    note_ready()
    assert 2 <= process_facts("s")["startup_s"] < 1000
    monkeypatch.setattr(process, "age_s", lambda: None)
    note_ready()
    note_started(5.0)
    assert 5 <= process_facts("s")["startup_s"] < 1000


def test_performance_has_the_starts_of_each_stage_beside_its_compute():
    sums = {
        "compute_s": 1.0,
        "wait_s": 0.0,
        "padding_weighted": 0.0,
        "rows": 4,
        "cache_hits": 0,
        "device": "cpu",
    }
    processes = {
        ("n", pid): {
            "stage": stage, "node": "n", "pid": pid, "peak_rss_bytes": 1, "startup_s": seconds, "ready_at": ready,
        }
        for pid, stage, seconds, ready in [(1, "decode", 2.0, 9.0), (2, "decode", 3.5, 9.5), (3, "write", 0.0, None)]
    }  # fmt: skip
    progress = Progress(files=4, stages={"decode": sums, "write": sums}, processes=processes)
    numbers = performance("r", progress, 1.0, 0.0, {}, moments={"ray": 8.0})
    assert numbers["moments"] == {"ray": 8.0}
    decode, write = numbers["actors"]["decode"], numbers["actors"]["write"]
    assert (decode["processes"], decode["startup_s"], decode["startup_max_s"]) == (2, 5.5, 3.5)
    assert (write["processes"], write["startup_s"], write["startup_max_s"]) == (0, None, None)
    text = markdown(numbers, {"cpu_count": 1, "python": "3", "packages": {"ray": "2", "torch": "2"}})
    assert "| decode | 2 | 5.5 | 3.5 |" in text
    assert "| write | 0" not in text
