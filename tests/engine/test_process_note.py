"""What a process says of itself with every block: memory, its card, and what its stage adds."""

from __future__ import annotations

import json

import pytest

from pipeline.engine import process
from pipeline.engine.progress import Progress
from pipeline.models.utilisation import CardUse

USE = CardUse("GPU-1", "Played Card", 0.83, 40, 8.0, memory_bytes=3 << 30, memory_total_bytes=80 << 30)


class Watch:
    restarted = 0

    def use(self) -> CardUse:
        return USE

    def restart(self) -> None:
        self.restarted += 1


@pytest.fixture
def watch(monkeypatch):
    played = Watch()
    monkeypatch.setattr(process._Gpu, "watch", played)
    monkeypatch.setattr(process._Gpu, "figures", {})
    return played


def test_a_note_without_a_card_has_no_figures_of_one(monkeypatch):
    monkeypatch.setattr(process._Gpu, "watch", None)
    monkeypatch.setattr(process._Gpu, "figures", {})
    note = json.loads(process.process_note("decode"))
    assert note["stage"] == "decode"
    assert note["peak_rss_bytes"] > 0
    assert "card" not in note
    assert "device_s" not in note


def test_the_card_and_what_the_stage_adds_travel_with_the_note(watch):
    process.note_extra({"device_s": 1.0, "host_s": 0.5, "starved_s": 0.25})
    process.note_extra({"device_s": 2.0})
    note = json.loads(process.process_note("clap"))
    assert note["card"] == vars(USE)
    assert (note["device_s"], note["host_s"], note["starved_s"]) == (2.0, 0.5, 0.25)


def test_the_watch_begins_when_the_stage_can_take_work(watch):
    process.note_ready()
    assert watch.restarted == 1


def receipt(number: int, **figures) -> dict:
    note = {"stage": "clap", "node": "n", "pid": 1, "peak_rss_bytes": 100, **figures}
    empty = {"copies": [], "status": {}, "audio_s": 0.0, "bytes": 0, "write_s": 0.0, "failures": []}
    return {**empty, "indexes": [number], "fallbacks": [], "stages": {}, "processes": [note]}


def test_the_latest_note_of_a_process_counts_in_whatever_order_they_come():
    progress = Progress(files=3)
    for number, device_s in enumerate((1.0, 3.0, 2.0)):
        progress.add(receipt(number, device_s=device_s))
    [note] = progress.processes.values()
    assert note["device_s"] == 3.0
