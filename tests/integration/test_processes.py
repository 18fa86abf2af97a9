"""What an actor is given: threads of every library, a part of a card; and what ``auto`` makes of a cluster."""

import dataclasses
import json
import os
import sys
import time
from pathlib import Path

import pyarrow as pa
import pytest
import ray

from pipeline.engine.graph import build_dataset, receipts
from pipeline.engine.node import Node
from pipeline.engine.process import limit_gpu_memory, start_torch
from pipeline.engine.resources import StageResources
from pipeline.engine.session import connect, disconnect, gpu_cards
from pipeline.engine.starting import THREAD_VARIABLES
from pipeline.stages.clap.spec import clap_stage
from pipeline.workflows.config import ExtractConfig
from pipeline.workflows.hardware import resolve_hardware

# Workers cannot import a test module: its classes travel by value.
ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
pytestmark = pytest.mark.timeout(300)


def cpu_ticks() -> dict[str, int]:
    """CPU time of every thread of this process, in clock ticks."""
    ticks = {}
    for stat in Path("/proc/self/task").glob("*/stat"):
        fields = stat.read_text().rsplit(")", 1)[1].split()
        ticks[stat.parent.name] = int(fields[11]) + int(fields[12])
    return ticks


def busy_threads(work) -> int:
    """How many threads do a real part of ``work``, repeated for half a second of CPU time."""
    before, started = cpu_ticks(), time.process_time()
    while time.process_time() - started < 0.5:
        work()
    spent = [now - before.get(thread, 0) for thread, now in cpu_ticks().items()]
    return sum(ticks > 0.2 * sum(spent) for ticks in spent)


class Pools:
    """A stage that works in every library that brings threads, and reports what it sees of them."""

    def __init__(self, threads: int) -> None:
        start_torch("clap", "cpu", threads, 0)

    def __call__(self, table: pa.Table) -> pa.Table:
        import numba
        import numpy as np
        import scipy.linalg
        import torch
        from threadpoolctl import threadpool_info

        a, x = np.random.default_rng(0).random((600, 600)), torch.rand(600, 600)
        scipy.linalg.lu(a[:100, :100])
        found = {
            "pools": {pool["filepath"]: pool["num_threads"] for pool in threadpool_info()},
            "numba": numba.config.NUMBA_NUM_THREADS,
            "torch": [torch.get_num_threads(), torch.get_num_interop_threads()],
            "busy": {"numpy": busy_threads(lambda: a @ a), "torch": busy_threads(lambda: x @ x)},
            "environment": [os.environ.get(name) for name in THREAD_VARIABLES],
        }
        return pa.table({"receipt": [json.dumps(found)]})


class Remembering:
    """Stands for the allocator of a card that is not there."""

    def __init__(self, fails: bool = False) -> None:
        self.limits, self.fails = [], fails

    def limit(self, device: str, fraction: float) -> None:
        if self.fails:
            raise RuntimeError("CUDAPluggableAllocator does not yet support setMemoryFraction")
        self.limits.append((device, fraction))


class Budget:
    """A stage that reports how it is held to its part of the card."""

    def __call__(self, table: pa.Table) -> pa.Table:
        memory = Remembering()
        found = {
            "fraction": limit_gpu_memory("cuda", memory),
            "limits": memory.limits,
            "unlimited": limit_gpu_memory("cuda", Remembering(fails=True)),
        }
        return pa.table({"receipt": [json.dumps(found)]})


def run(stage: type, share: StageResources, environment=None, **arguments) -> list[dict]:
    blocks = [pa.table({"index": [i]}) for i in range(2)]
    nodes = [Node("stage", stage, arguments)]
    return list(
        receipts(
            build_dataset(blocks, nodes, {"stage": share}, environment=environment, gpu_memory_fraction=0.8)
        )
    )


def check_pools(found: dict, threads: int) -> None:
    assert found["pools"]
    assert set(found["pools"].values()) == {threads}, found["pools"]
    assert (found["numba"], found["torch"]) == (threads, [threads, 1])
    assert found["environment"] == [str(threads)] * len(THREAD_VARIABLES)
    assert found["busy"] == {"numpy": threads, "torch": threads}


@pytest.fixture
def own_environment():
    """`connect` sets variables of this process, for the Ray it starts: they must not outlive the test."""
    before = {name: os.environ.get(name) for name in THREAD_VARIABLES}
    yield
    disconnect()
    for name, value in before.items():
        os.environ.pop(name, None)
        if value is not None:
            os.environ[name] = value


@pytest.mark.chaos
@pytest.mark.parametrize("threads", [1, 2])
def test_actors_of_a_ray_started_here_run_so_many_threads(own_environment, threads):
    """Two actors on two cores run two threads, not four; and with two each they really would be four."""
    cluster = connect(num_cpus=2, threads=threads)
    assert cluster.environment == {}
    for found in run(Pools, StageResources(2, 0.5), cluster.environment, threads=threads):
        check_pools(found, threads)


@pytest.fixture(scope="module")
def ray_before_us():
    """A Ray that somebody else started, with a GPU that is not there: enough to schedule, not to compute."""
    card = {"accelerator_type:A10G": 1}  # as a node with such a card has it
    ray.init(
        address="local",
        num_cpus=2,
        num_gpus=1,
        resources=card,
        include_dashboard=False,
        log_to_driver=False,
    )
    yield
    ray.shutdown()


@pytest.mark.chaos
def test_actors_of_a_ray_that_ran_before_are_told_their_threads(ray_before_us, monkeypatch):
    for name in THREAD_VARIABLES:
        monkeypatch.setenv(name, "7")  # of this process, which the actors must not follow
    cluster = connect(threads=1)
    assert (cluster.nodes, cluster.gpus, cluster.accelerators) == (1, 1, ("A10G",))
    for found in run(Pools, StageResources(2, 0.5), cluster.environment, threads=1):
        check_pools(found, 1)


def test_each_actor_is_held_to_its_part_of_the_budget(ray_before_us):
    for found in run(Budget, StageResources(1, 0.5, 0.25)):
        assert found == {"fraction": 0.2, "limits": [["cuda", 0.2]], "unlimited": None}
    for found in run(Budget, StageResources(1, 0.5)):
        assert found == {"fraction": None, "limits": [], "unlimited": None}


def test_a_process_that_is_no_actor_is_not_held(ray_before_us):
    memory = Remembering()
    assert limit_gpu_memory("cuda", memory) is None
    assert memory.limits == []


def test_a_card_that_ray_counts_but_that_does_not_run_is_no_card(ray_before_us):
    import torch

    if torch.cuda.is_available():
        pytest.skip("needs a machine without a GPU")
    assert gpu_cards() == ([], "no CUDA device is visible to this process")
    auto = dataclasses.replace(
        ExtractConfig().hardware, name="auto", block_audio_seconds=0, max_files_per_block=9
    )
    hardware, reasons = resolve_hardware(auto, [clap_stage("checkpoint", "key", None)])
    assert hardware.gpu_shares == hardware.batch_items == {"clap": 0, "separation": 0}
    assert (hardware.block_audio_seconds, hardware.max_files_per_block) == (300, 9)
    assert reasons == ("hardware=auto takes the CPU: no CUDA device is visible to this process",)


def test_a_profile_stays_as_it_is():
    profile = ExtractConfig().hardware
    assert resolve_hardware(profile, ["decode"]) == (profile, ())
