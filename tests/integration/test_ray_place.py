"""One file at a time in an actor of Ray: as in a process beside this one, see ``tests/engine/test_one_file.py``."""

import os

import pyarrow as pa
import pytest
import ray

from pipeline.engine.answer import AnswerWorker
from pipeline.engine.guard import StageFailed
from pipeline.engine.node import Node
from pipeline.engine.one_file import GivenUp, PlaceLost, deadline
from pipeline.engine.ray_place import RayPlace

pytestmark = pytest.mark.timeout(180)
NODES = [
    Node("obedient", "one_file_stages:Obedient"),
    Node("answer", AnswerWorker, {"columns": ["pid"]}),
]


@pytest.fixture
def place(repo):
    stages = {"env_vars": {"PYTHONPATH": str(repo / "tests" / "engine")}}
    ray.init(address="local", num_cpus=1, include_dashboard=False, log_to_driver=False, runtime_env=stages)
    made = RayPlace(memory_limit_bytes=2 << 30)
    yield made
    made.end()
    ray.shutdown()


def test_whatever_a_file_does_to_its_actor_the_next_one_is_worked_on(place):
    def work(uri, until=lambda: None):
        return place.work(NODES, pa.table({"index": [0], "uri": [uri]}), until).values["pid"]

    first = work("well")
    assert first != os.getpid()
    assert work("well") == first
    assert place.memory_bytes() > 0
    with pytest.raises(StageFailed, match="on purpose"):
        work("raise")
    with pytest.raises(PlaceLost, match="the actor ended"):
        work("die")
    place.prepare(NODES, lambda: None)
    with pytest.raises(GivenUp, match="enough"):
        work("hang", deadline(0.5, "enough"))
    assert work("well") != first
