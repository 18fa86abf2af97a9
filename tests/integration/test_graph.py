"""The graph itself: what Ray makes of our resources, and what happens when a stage breaks."""

import json
import os
import sys
import threading
import time

import pyarrow as pa
import pytest
import ray
from ray.data import DataContext

from pipeline.engine.driver import root_cause
from pipeline.engine.graph import build_dataset, receipts
from pipeline.engine.groups import grouped
from pipeline.engine.guard import StageFailed
from pipeline.engine.ledger import last_seen, start_ledger
from pipeline.engine.node import Node
from pipeline.engine.resources import StageResources

# Workers cannot import a test module: its classes travel by value.
ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
pytestmark = pytest.mark.timeout(300)


class Echo:
    """A stand-in stage: one receipt per table it is given."""

    def __call__(self, table: pa.Table) -> pa.Table:
        return pa.table({"receipt": [json.dumps({"rows": table["index"].to_pylist()})]})


class Meeting:
    """A stand-in stage that goes on once two tables are in it at the same time."""

    def __init__(self) -> None:
        self.both = threading.Barrier(2)

    def __call__(self, table: pa.Table) -> pa.Table:
        self.both.wait(60)
        return pa.table({"receipt": [json.dumps({"rows": table["index"].to_pylist()})]})


class Slow:
    """A stand-in stage that takes longer than Ray waits."""

    def __call__(self, table: pa.Table) -> pa.Table:
        time.sleep(4)
        return pa.table({"receipt": [json.dumps({"rows": table["index"].to_pylist()})]})


class Broken:
    """A stand-in stage that raises."""

    def __call__(self, table: pa.Table) -> pa.Table:
        raise ZeroDivisionError("on purpose")


class Through:
    """A stand-in stage that says which process it is in."""

    def __init__(self, column: str) -> None:
        self.column = column

    def __call__(self, table: pa.Table) -> pa.Table:
        return table.append_column(self.column, pa.array([os.getpid()] * table.num_rows))


class Pids:
    """A stand-in for the sink: the processes that a table was in."""

    def __call__(self, table: pa.Table) -> pa.Table:
        found = {name: table[name][0].as_py() for name in table.column_names if name != "index"}
        return pa.table({"receipt": [json.dumps({**found, "write": os.getpid()})]})


class Deadly:
    """A stand-in stage that takes its process with it."""

    def __call__(self, table: pa.Table) -> pa.Table:
        os._exit(7)


@pytest.fixture(scope="module")
def two_cpus_and_a_gpu():
    """Ray is told of a GPU that is not there: enough to schedule, not to compute."""
    ray.init(address="local", num_cpus=2, num_gpus=1, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


def blocks(sizes: list[int]) -> list[pa.Table]:
    out, start = [], 0
    for size in sizes:
        out.append(pa.table({"index": list(range(start, start + size))}))
        start += size
    return out


def test_a_stage_with_a_share_of_a_gpu_takes_each_block_as_it_comes(two_cpus_and_a_gpu):
    share = StageResources(actors=1, num_cpus=0.0, num_gpus=0.25)  # as `plan_resources` makes it
    dataset = build_dataset(blocks([1, 3, 2]), [Node("echo", Echo)], {"echo": share})
    found = sorted(tuple(r["rows"]) for r in receipts(dataset))
    assert found == [(0,), (1, 2, 3), (4, 5)], "neither split nor bundled"


def test_an_actor_on_a_gpu_works_on_several_blocks_at_once(two_cpus_and_a_gpu):
    share = StageResources(actors=1, num_cpus=0.0, num_gpus=0.5)
    dataset = build_dataset(blocks([1, 1, 1, 1]), [Node("meeting", Meeting)], {"meeting": share})
    assert sorted(tuple(r["rows"]) for r in receipts(dataset)) == [(0,), (1,), (2,), (3,)]


def test_a_block_may_take_longer_than_ray_waits_for_progress(two_cpus_and_a_gpu, monkeypatch):
    # Half an hour unless it is told otherwise: a recording of ten hours takes longer in a stage.
    monkeypatch.setattr(DataContext.get_current(), "execution_no_progress_timeout_s", 1.0)
    share = StageResources(actors=1, num_cpus=0.5)
    dataset = build_dataset(blocks([1]), [Node("slow", Slow)], {"slow": share})
    assert [r["rows"] for r in receipts(dataset)] == [[0]]


def test_the_cause_of_a_broken_stage_is_found_below_rays_layers(two_cpus_and_a_gpu):
    share = StageResources(actors=1, num_cpus=0.5)
    dataset = build_dataset(blocks([1]), [Node("broken", Broken)], {"broken": share})
    with pytest.raises(Exception) as caught:  # noqa: PT011  Ray wraps it in classes of its own
        list(receipts(dataset))
    assert root_cause(caught.value) == "ZeroDivisionError: on purpose (in broken)"


def chain(last: Node) -> list[Node]:
    return [Node("first", Through, {"column": "first"}), Node("second", Through, {"column": "second"}), last]


def run(nodes: list[Node], groups: list[list[str]], ledger=None) -> list[dict]:
    joined = grouped(nodes, groups)
    share = StageResources(actors=1, num_cpus=0.3)
    retries = 0 if ledger is not None else 3
    dataset = build_dataset(
        blocks([1, 1]), joined, {n.name: share for n in joined}, ledger=ledger, retries=retries
    )
    return list(receipts(dataset))


def test_stages_of_a_group_are_in_one_process_and_others_are_not(two_cpus_and_a_gpu):
    for receipt in run(chain(Node("write", Pids)), [["first", "second"], ["write"]]):
        assert receipt["first"] == receipt["second"] != receipt["write"]


def test_what_a_stage_of_a_group_raises_is_told_by_its_own_name(two_cpus_and_a_gpu):
    with pytest.raises(StageFailed, match=r"ZeroDivisionError: on purpose \(in broken\)"):
        run(chain(Node("broken", Broken)), [["first", "second", "broken"]])


@pytest.mark.chaos
def test_where_in_a_group_a_process_died_is_known(two_cpus_and_a_gpu):
    ledger = start_ledger()
    assert run(chain(Node("deadly", Deadly)), [["first", "second", "deadly"]], ledger) == []
    assert {stage for stage, _ in last_seen(ledger).values()} == {"deadly"}
