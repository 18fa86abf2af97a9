"""The tracks of a block in the stage of the descriptors: worked on together, each with its own row and costs."""

from __future__ import annotations

import time
from functools import partial

import numpy as np
import pytest
import soundfile

from pipeline.dataset.sources import SourceItem
from pipeline.engine.batch import collect
from pipeline.engine.plan import pack, planned
from pipeline.engine.stages import features
from pipeline.engine.stages.decode import DecodeStage, ViewSpec
from pipeline.engine.stages.features import FeaturesStage
from pipeline.features import REGISTRY
from pipeline.features.together import run_together

RATE = 22050
VIEWS = [ViewSpec("native", None, None, 1), ViewSpec("mono", RATE, 1, 1)]
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
    return DecodeStage(VIEWS)(found)


def run(block, monkeypatch, packed: bool):
    monkeypatch.setattr(features, "run_together", partial(run_together, pack=packed))
    stage = FeaturesStage([REGISTRY[name]() for name in NAMES], RATE, blob_names=("mel",))
    started = time.perf_counter()
    table = stage(block)
    return table, time.perf_counter() - started


def test_rows_of_a_packed_block_are_those_of_single_tracks(block, monkeypatch):
    single, _ = run(block, monkeypatch, packed=False)
    packed, _ = run(block, monkeypatch, packed=True)
    assert packed.column_names == single.column_names
    assert packed["uri"].to_pylist() == single["uri"].to_pylist()
    names = [f.name for name in NAMES for f in REGISTRY[name]().columns()]
    for name in names:
        for here, there in zip(packed[name].to_pylist(), single[name].to_pylist(), strict=True):
            if there is None or isinstance(there, str):
                assert here == there, name
            else:
                np.testing.assert_allclose(here, there, rtol=1e-5, atol=1e-3, err_msg=name)
    assert [v is None for v in packed["mel_mean"].to_pylist()] == [s == 0.5 for s in SECONDS]
    assert collect(packed, "failures") == collect(single, "failures")


def test_the_costs_of_a_packed_block_say_what_went_together_and_add_up(block, monkeypatch):
    table, wall = run(block, monkeypatch, packed=True)
    timings = [[t for t in row if t["stage"].startswith("features.")] for row in collect(table, "timings")]
    assert [len(row) for row in timings] == [3, 0, 3, 3]
    assert {t["batch_items"] for row in timings for t in row} == {3}
    assert {t["batch_audio_s"] for row in timings for t in row} == {9.0}
    spent = [sum(t["compute_s"] for t in row) for row in timings]
    assert all(seconds > 0 for seconds, row in zip(spent, timings, strict=True) if row)
    assert sum(spent) <= wall
    alone, _ = run(block, monkeypatch, packed=False)
    single = [t for row in collect(alone, "timings") for t in row if t["stage"].startswith("features.")]
    assert {(t["batch_items"], t["batch_audio_s"]) for t in single} == {(1, 2.0), (1, 3.0), (1, 4.0)}


def test_an_extractor_that_fails_on_one_track_of_a_packed_block_leaves_the_others_their_rows(
    block, monkeypatch
):
    start = REGISTRY["chroma"].start

    def failing(chroma, track):
        if track.seconds == 3.0:
            raise ArithmeticError("as planned")
        return start(chroma, track)

    monkeypatch.setattr(REGISTRY["chroma"], "start", failing)
    table, _ = run(block, monkeypatch, packed=True)
    assert [v is None for v in table["chroma_mean"].to_pylist()] == [True, True, False, False]
    assert [v is None for v in table["mel_mean"].to_pylist()] == [False, True, False, False]
    failed = [
        [f["stage"] for f in row if f["stage"] == "features.chroma"] for row in collect(table, "failures")
    ]
    assert failed == [["features.chroma"], [], [], []]
