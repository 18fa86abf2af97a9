"""A recording of which many parts are to be written is given up where its time is up, and what is there goes again."""

from __future__ import annotations

import json
from dataclasses import replace

import pyarrow as pa

from pipeline.dataset.output import Output
from pipeline.engine.batch import collect
from pipeline.engine.time_limit import TookTooLong
from pipeline.stages.clips import worker
from pipeline.stages.clips.spec import PARTS, clips_products


class Files:
    """A stand-in for files of pieces of a recording of ten seconds, which come into being as they are named."""

    refused, gain_db = False, 0.0

    def __init__(self, written: list[str]) -> None:
        self.audio, self.written = self, written

    samples = 80_000

    def write(self, artifact, name: str, start: int, end: int) -> str:
        self.written.append(name)
        return name


def parts_of(monkeypatch, tmp_path, most: int) -> tuple[pa.Table, list[str]]:
    """The table, and the files that were written, of five parts for which there is time to ask so often."""
    written: list[str] = []
    asked = iter(range(100))

    def in_time(self, track) -> None:
        if next(asked) >= most:
            raise TookTooLong("its time is up")

    monkeypatch.setattr(worker.ClipsWorker, "in_time", in_time)
    monkeypatch.setattr(worker.ClipsWorker, "_files", lambda self, track, stack: Files(written))
    monkeypatch.setattr(worker.ClipsWorker, "load", lambda self: None)
    given = {PARTS: {"method": "time", "max_seconds": 2.0, "files": True}}
    [parts] = [replace(product, key="k") for product in clips_products([PARTS])]
    stage = worker.ClipsWorker(given, output=Output(str(tmp_path)), products=(parts,), torch=False)
    table = pa.table(
        {
            "index": [0],
            "uri": ["a.wav"],
            "asset_id": ["a" * 64],
            "sample_rate": [8000],
            "channels": [1],
            "duration_s": [10.0],
            "done_at": [0.0],
            "long": [False],
            "views": [json.dumps({"speech": ["speech", 16_000, 1]})],
        }
    )
    return stage(table), written


def test_parts_are_written_while_there_is_time(monkeypatch, tmp_path):
    found, written = parts_of(monkeypatch, tmp_path, most=5)
    assert found["parts_count"].to_pylist() == [5]
    assert len(written) == 5


def test_between_two_parts_it_asks_whether_there_still_is(monkeypatch, tmp_path):
    found, written = parts_of(monkeypatch, tmp_path, most=2)
    assert len(written) == 2
    [[failure]] = collect(found, "failures")
    assert (failure["stage"], failure["error_class"]) == ("clips.parts", "TookTooLong")
    assert failure["extractor_key"] is None, "with more time it can be done"
