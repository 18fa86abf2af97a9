"""How far a stage is within a long file, through Ray: it arrives, and an actor that is lost costs the work nothing."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import pyarrow as pa
import pytest
import ray

from pipeline.engine import within, within_ray
from pipeline.engine.batch import Track
from pipeline.engine.graph import build_dataset, receipts
from pipeline.engine.node import Node
from pipeline.engine.resources import StageResources
from pipeline.engine.within import BOARD
from pipeline.engine.within_ray import LONG_S, followed, start_board

ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
pytestmark = pytest.mark.timeout(300)


class Patient:
    """A stand-in stage that says how far it is until a file is there, or for ``times`` times."""

    def __init__(self, seen: str, times: int) -> None:
        self.seen, self.times = Path(seen), times

    def __call__(self, table: pa.Table) -> pa.Table:
        from pipeline.engine import within as here

        here.EVERY_S = 0.0
        for _ in range(self.times):
            here.tell("patient", Track(0, "a.flac", 1000), 0.5)
            if self.seen.exists():
                break
            time.sleep(0.05)
        found = {"seen": self.seen.exists()}
        return pa.table({"receipt": [json.dumps(found)]})


@pytest.fixture(scope="module")
def one_cpu():
    ray.init(address="local", num_cpus=1, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


def run(board: object, seen: Path, times: int) -> list[dict]:
    table = pa.table({"index": [0], "estimated_s": [LONG_S]})
    node = Node("patient", Patient, {"seen": str(seen), "times": times})
    share = StageResources(actors=1, num_cpus=0.5)
    dataset = build_dataset([table], [node], {"patient": share}, board=board)
    with followed(board):
        return list(receipts(dataset))


def test_what_a_worker_says_arrives_where_the_run_is(one_cpu, tmp_path, monkeypatch):
    seen = tmp_path / "seen"
    arrived = []

    def take(parts: list[within.Part]) -> None:
        arrived.extend(parts)
        if parts:
            seen.touch()

    monkeypatch.setattr(BOARD, "take", take)
    board = start_board([pa.table({"index": [0], "estimated_s": [LONG_S]})])
    assert run(board, seen, 2000) == [{"seen": True}]
    assert arrived[0] == within.Part(0, "patient", 0.5, name="a.flac", text="patient 50 %", size_bytes=1000)


def test_an_actor_that_is_lost_costs_nothing(one_cpu, tmp_path, monkeypatch):
    monkeypatch.setattr(within_ray, "EVERY_S", 0.05)
    board = start_board([pa.table({"index": [0], "estimated_s": [LONG_S]})])
    ray.get(board.parts.remote())
    ray.kill(board)
    assert run(board, tmp_path / "never", 40) == [{"seen": False}]
    assert BOARD.parts() == []
