"""One file at a time through all stages in an actor of Ray, see `pipeline.engine.one_file.Place`."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

import pyarrow as pa
import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from pipeline.engine.answer import Answer, answer_of
from pipeline.engine.guard import raise_fatal
from pipeline.engine.node import Node
from pipeline.engine.one_file import TICK_S, GivenUp, OverMemory, PlaceLost, held_bytes
from pipeline.engine.process import hold_gpu_memory
from pipeline.engine.worker_line import OUT, MakingFailed, WorkerLine, receipts_of


class _Line:
    """What lives in the actor."""

    def __init__(self, gpu_memory_fraction: float) -> None:
        hold_gpu_memory(gpu_memory_fraction)
        self._line: WorkerLine | None = None

    def where(self) -> tuple[str, int]:
        """Node and process id."""
        return ray.get_runtime_context().get_node_id(), os.getpid()

    def make(self, nodes: Sequence[Node]) -> dict[str, str] | None:
        """None, or why the workers cannot be made."""
        self._line = None
        try:
            self._line = WorkerLine(nodes)
        except MakingFailed as failed:
            return failed.told
        return None

    def run(self, table: pa.Table) -> tuple[Any, ...]:
        """The last thing that the line says."""
        *_, last = self._line.run(table)
        return (OUT, receipts_of(last[1]), last[2]) if last[0] == OUT else last


class RayPlace:
    """An actor on this node, started when there is something to do.

    Args:
        threads: CPUs that it reserves.
        memory_limit_bytes: that it may hold, where it runs on this machine; None for no limit.
        gpus: share of a card that it reserves.
        gpu_memory_fraction: of a card, for all workers on it together.
        environment: variables that it must be given.
    """

    def __init__(
        self,
        threads: int = 1,
        memory_limit_bytes: int | None = None,
        *,
        gpus: float = 0.0,
        gpu_memory_fraction: float = 0.75,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self._limit = memory_limit_bytes
        self._fraction = gpu_memory_fraction
        self._options = {
            "num_cpus": threads,
            "num_gpus": gpus,
            "max_restarts": 0,
            # On this node: what the stages write is taken from its disk.
            "scheduling_strategy": NodeAffinitySchedulingStrategy(
                ray.get_runtime_context().get_node_id(), soft=False
            ),
        }
        if environment:
            self._options["runtime_env"] = {"env_vars": dict(environment)}
        self._actor: Any = None
        self._pid: int | None = None
        self._made: Sequence[Node] | None = None

    def prepare(self, nodes: Sequence[Node], until: Callable[[], str | None]) -> None:
        """See `Place`."""
        if self._made is nodes:
            return
        self._made = None
        if self._actor is None:
            self._actor = ray.remote(_Line).options(**self._options).remote(self._fraction)
            node, pid = self._waited(self._actor.where.remote(), until)
            self._pid = pid if node == ray.get_runtime_context().get_node_id() else None
        told = self._waited(self._actor.make.remote(list(nodes)), until)
        if told is not None:
            self.end()
            raise_fatal(told)
        self._made = nodes

    def work(self, nodes: Sequence[Node], table: pa.Table, until: Callable[[], str | None]) -> Answer:
        """See `Place`."""
        self.prepare(nodes, until)
        kind, *told = self._waited(self._actor.run.remote(table), until)
        if kind == OUT:
            (receipt,), seconds = told
            return answer_of(receipt, seconds)
        self.end()
        raise_fatal(*told)

    def memory_bytes(self) -> int:
        """See `Place`."""
        return held_bytes(self._pid)

    def end(self) -> None:
        """See `Place`."""
        actor, self._actor, self._pid, self._made = self._actor, None, None, None
        if actor is not None:
            with suppress(Exception):  # it may be dead, or Ray may be
                ray.kill(actor)

    def _waited(self, reference: Any, until: Callable[[], str | None]) -> Any:
        try:
            while not ray.wait([reference], timeout=TICK_S)[0]:
                reason = until()
                if reason is not None:
                    raise GivenUp(reason)
                if self._limit is not None and (held := self.memory_bytes()) > self._limit:
                    raise OverMemory(f"the actor held {held >> 20} MB, and may hold {self._limit >> 20}")
            return ray.get(reference)
        except ray.exceptions.RayActorError as error:
            self.end()
            raise PlaceLost(f"the actor ended: {str(error).splitlines()[0]}") from None
        except BaseException:
            self.end()
            raise
