"""The stage of the descriptors: a row and costs of its own for each track of a block."""

from __future__ import annotations

import time

import numpy as np
import pytest
import soundfile

from pipeline.audio.views import View
from pipeline.dataset.sources.listing import SourceItem
from pipeline.engine.batch import collect
from pipeline.engine.packing import pack, planned
from pipeline.features import REGISTRY
from pipeline.stages.decode.worker import DecodeWorker
from pipeline.stages.features.worker import FeaturesWorker

RATE = 22050
VIEWS = [View("native", None, None), View("mono", RATE, 1)]
SECONDS = (3.0, 0.5, 2.0, 4.0)
NAMES = ("mel", "chroma", "loudness")


@pytest.fixture
def block(tmp_path):
    """Four tracks of noise and a chord in one block, the second one an empty file that does not decode."""
    items = []
    for number, seconds in enumerate(SECONDS):
        path = tmp_path / f"{number}.wav"
        time_ = np.arange(round(seconds * RATE)) / RATE
        chord = sum(np.sin(2 * np.pi * f * time_) for f in (261.6, 329.6, 392.0))
        noise = np.random.default_rng(number).standard_normal(len(time_))
        soundfile.write(path, 0.1 * chord + 0.01 * noise, RATE, subtype="FLOAT")
        if number == 1:
            path.write_bytes(b"")
        items.append(SourceItem(str(path), path.stat().st_size))
    (found,) = pack(planned(items), 300.0, 8)
    return DecodeWorker(VIEWS)(found)


@pytest.fixture
def stage():
    return FeaturesWorker([REGISTRY[name]() for name in NAMES], RATE, blob_names=("mel",))


def test_each_track_has_its_own_costs_which_add_up_to_no_more_than_the_block(block, stage):
    started = time.perf_counter()
    table = stage(block)
    wall = time.perf_counter() - started
    timings = [[t for t in row if t["stage"].startswith("features.")] for row in collect(table, "timings")]
    assert [len(row) for row in timings] == [3, 0, 3, 3]
    assert [[t["batch_audio_s"] for t in row] for row in timings] == [[3.0] * 3, [], [2.0] * 3, [4.0] * 3]
    flat = [t for row in timings for t in row]
    assert {(t["device"], t["batch_items"], t["gpu_peak_bytes"]) for t in flat} == {("cpu", 1, None)}
    assert all(t["compute_s"] > 0 for t in flat)
    assert sum(t["compute_s"] for t in flat) <= wall


def test_the_neighbours_in_a_block_do_not_change_a_bit(block, stage):
    together = stage(block)
    alone = [stage(block.slice(number, 1)) for number in range(len(SECONDS))]
    for field in (f.name for name in NAMES for f in REGISTRY[name]().columns()):
        if field in together.column_names:
            assert together[field].to_pylist() == [table[field][0].as_py() for table in alone], field
    assert [v is None for v in together["mel_mean"].to_pylist()] == [s == 0.5 for s in SECONDS]


def test_an_extractor_that_fails_on_one_track_leaves_the_others_their_rows(block, stage, monkeypatch):
    start = REGISTRY["chroma"].start

    def failing(chroma, track):
        if track.seconds == 3.0:
            raise ArithmeticError("as planned")
        return start(chroma, track)

    monkeypatch.setattr(REGISTRY["chroma"], "start", failing)
    table = stage(block)
    assert [v is None for v in table["chroma_mean"].to_pylist()] == [True, True, False, False]
    assert [v is None for v in table["mel_mean"].to_pylist()] == [False, True, False, False]
    failed = [
        [f["stage"] for f in row if f["stage"] == "features.chroma"] for row in collect(table, "failures")
    ]
    assert failed == [["features.chroma"], [], [], []]
