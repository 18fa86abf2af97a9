"""A denoised file and what is heard of it stand and fall each for itself."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from pipeline.dataset.output import Output
from pipeline.engine.batch import collect, pcm_array
from pipeline.stages.denoise import worker
from pipeline.stages.denoise.spec import DENOISED, denoise_product, native_view

RATE = 16_000
HEARS = native_view(RATE)
FILE_DB, VIEW_DB = 20.0, 12.0


class Quieter:
    """A stand-in for a denoiser that halves what it hears, but fails with one limit."""

    name, version, sample_rate = "quieter", "1", RATE

    def __init__(self, fails_at: float | None) -> None:
        self.fails_at = fails_at

    def model_id(self) -> str:
        return "half"

    def stream(self, limit_db):
        return Stream(limit_db == self.fails_at)


class Stream:
    def __init__(self, fails: bool) -> None:
        self.fails = fails

    def push(self, block):
        if self.fails:
            raise ValueError("there is no such sound")
        return block / 2

    def finish(self):
        return np.empty(0, np.float32)


def denoised(monkeypatch, output: Output, fails_at: float | None) -> pa.Table:
    """What the stage makes of a recording of a second, of which the file and the view are wanted."""
    monkeypatch.setattr(worker, "load_backend", lambda *given: Quieter(fails_at))
    stage = worker.DenoiseWorker(
        "quieter",
        HEARS,
        limit_db=FILE_DB,
        view_limit_db=VIEW_DB,
        output=output,
        products=(denoise_product("k"),),
        reads=(HEARS,),
        makes=(DENOISED,),
        feeds=frozenset({"transcribe"}),
        torch=False,
    )
    samples = np.full((1, RATE), 0.5, np.float32)
    table = pa.table(
        {
            "index": [0],
            "uri": ["a.wav"],
            "asset_id": ["a" * 64],
            "duration_s": [1.0],
            "done_at": [0.0],
            "long": [False],
            "views": [json.dumps({HEARS.name: [HEARS.name, RATE, 1]})],
            f"pcm@{HEARS.name}": pcm_array([samples]),
        }
    )
    return stage(table)


@pytest.fixture
def output(tmp_path) -> Output:
    return Output(str(tmp_path / "out"))


def test_the_file_is_written_and_the_view_is_made(monkeypatch, output):
    found = denoised(monkeypatch, output, None)
    assert found["key@denoise"].to_pylist() == ["k"]
    assert DENOISED.name in json.loads(found["views"][0].as_py())
    assert collect(found, "failures") == [[]]


def test_a_view_that_fails_leaves_the_file_as_it_is_and_is_tried_again(monkeypatch, output):
    found = denoised(monkeypatch, output, VIEW_DB)
    assert found["key@denoise"].to_pylist() == ["k"]
    [file] = found["denoise_file"].to_pylist()
    assert (Path(output.uri) / file).read_bytes()[:4] == b"fLaC"
    assert [blob["path"] for [blob] in collect(found, "blobs")] == [file]
    [[failure]] = collect(found, "failures")
    assert (failure["stage"], failure["extractor_key"]) == ("denoise", None)
    assert DENOISED.name not in json.loads(found["views"][0].as_py())


def test_a_file_that_fails_fails_for_good(monkeypatch, output):
    found = denoised(monkeypatch, output, FILE_DB)
    assert found["key@denoise"].to_pylist() == [None]
    [[failure]] = collect(found, "failures")
    assert (failure["stage"], failure["extractor_key"]) == ("denoise", "k")
