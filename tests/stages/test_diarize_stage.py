"""Who speaks when by a backend that makes turns of its own: what becomes of them in rows."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pytest

from pipeline.dataset.output import Output
from pipeline.engine.batch import pcm_array
from pipeline.models.speech.diarize import Told
from pipeline.stages.diarize import worker
from pipeline.stages.diarize.spec import diarize_product, diarize_stage
from pipeline.stages.vad.spec import VIEW

RATE = 16_000


class Teller:
    """A stand-in for a backend that makes turns by itself."""

    name, version, sample_rate = "teller", "3", RATE

    def __init__(self) -> None:
        self.counts: dict[str, int | None] = {}
        self.samples = 0

    def model_id(self) -> str:
        return "weights"

    def stream(self, **counts):
        self.counts = counts
        return self

    def push(self, block) -> None:
        self.samples += len(block)

    def finish(self) -> Told:
        turns = ((0.5, 1.0, "b"), (0.0, 0.75, "a"))
        return Told(turns, self.samples / RATE, {"b": np.array([0.0, 2.0])})


@pytest.fixture
def teller(monkeypatch) -> Teller:
    made = Teller()

    def load(*given):
        assert given == ("teller", "cpu", "some/model")
        return made

    monkeypatch.setattr(worker, "load_backend", load)
    return made


def test_turns_that_a_backend_tells_are_rows(teller, tmp_path):
    stage = worker.DiarizeWorker(
        "teller",
        {"num": None, "minimum": 2, "maximum": 3},
        "some/model",
        output=Output(str(tmp_path / "out")),
        products=(diarize_product("k"),),
        reads=(VIEW,),
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
            "views": [json.dumps({VIEW.name: [VIEW.name, RATE, 1]})],
            f"pcm@{VIEW.name}": pcm_array([samples]),
        }
    )
    found = stage(table)
    assert teller.counts == {"num": None, "minimum": 2, "maximum": 3}
    assert teller.samples == RATE
    assert found["diarize_backend"].to_pylist() == ["teller"]
    assert found["diarize_model"].to_pylist() == ["3:weights"]
    assert found["diarize_speakers"].to_pylist() == [2]
    assert found["diarize_overlap_share"].to_pylist() == [pytest.approx(0.25)]
    [turns] = found["rows@turns"].to_pylist()
    assert [(turn["start_s"], turn["end_s"], turn["speaker"]) for turn in turns] == [
        (0.0, 0.75, "S1"),
        (0.5, 1.0, "S2"),
    ]
    assert all(turn["confidence"] is None and turn["overlap"] for turn in turns)
    [speakers] = found["rows@speakers"].to_pylist()
    assert [speaker["seconds"] for speaker in speakers] == [0.75, 0.5]
    assert speakers[0]["centroid"] is None
    assert list(speakers[1]["centroid"]) == [0.0, 1.0]


def test_the_key_changes_with_the_backend_and_its_weights_and_not_with_the_place():
    counts = {"num": None, "minimum": 1, "maximum": None}

    def key(backend: str, model: str, source: str | None = None) -> str | None:
        return diarize_stage(backend, model, counts, source=source).products[0].key

    keys = {key(*given) for given in (("campplus", "1:x"), ("ecapa", "1:x"), ("ecapa", "1:y"))}
    assert len(keys) == 3
    assert key("ecapa", "1:x", "/models/ecapa") == key("ecapa", "1:x")
    assert key("campplus", "1:x") == "f6239426158e", "as before there were others: no output is stale"
