"""One file at a time through all stages, in a process that may hang, grow or die without taking anybody along.

`ProcessPlace` has a process beside this one, `pipeline.engine.ray_place.RayPlace` an actor.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import Any, Protocol

import psutil
import pyarrow as pa

from pipeline.engine.answer import Answer, answer_of
from pipeline.engine.guard import raise_fatal
from pipeline.engine.node import Node
from pipeline.engine.worker_line import AT, FATAL, OUT
from pipeline.engine.worker_process import READY, ChildDied, WorkerProcess

TICK_S = 0.25
"""How often whoever waits is asked whether to wait on."""


class PlaceLost(Exception):
    """The process ended over a file, or while it made its workers; the message says how."""


class GivenUp(Exception):
    """Whoever waited had the process ended; the message is what it gave as the reason."""


class OverMemory(Exception):
    """The process held more memory than it may, and was ended."""


class Place(Protocol):
    """Where files are worked on, one after the other. Another thread may `end` it."""

    def prepare(self, nodes: Sequence[Node], until: Callable[[], str | None]) -> None:
        """Make the workers of ``nodes``, unless they are there already. Raises as `work` does."""

    def work(self, nodes: Sequence[Node], table: pa.Table, until: Callable[[], str | None]) -> Answer:
        """Send a table of one file through ``nodes``, the last of which is a `pipeline.engine.answer.AnswerWorker`.

        Args:
            until: asked four times a second; a text ends the process, and the wait.

        Raises:
            PlaceLost: the process ended. The next call starts another one.
            GivenUp: ``until`` said so.
            OverMemory: it held more than it may.
            StageFailed: a stage raised, or could not be made.
        """

    def memory_bytes(self) -> int:
        """What the process holds now, its children's included; 0 where it is not there, or nobody can see it."""

    def end(self) -> None:
        """End the process, whatever it does."""


class ProcessPlace:
    """A process beside this one, see `Place`.

    Args:
        threads: of OpenMP, MKL, OpenBLAS, numexpr and numba.
        memory_limit_bytes: that it may hold, its children's included; None for no limit.
        gpu_memory_fraction: of a card that it may use.
    """

    def __init__(
        self, threads: int = 1, memory_limit_bytes: int | None = None, gpu_memory_fraction: float = 0.75
    ) -> None:
        self._process = WorkerProcess(threads)
        self._limit, self._fraction = memory_limit_bytes, gpu_memory_fraction
        self._made: Sequence[Node] | None = None

    def prepare(self, nodes: Sequence[Node], until: Callable[[], str | None]) -> None:
        """See `Place`."""
        if self._made is nodes:
            return
        with self._watched():
            self._made = None
            self._process.make(nodes, self._fraction)
            kind, *told = self._next(until)
            if kind != READY:
                raise_fatal(*told)
            self._made = nodes

    def work(self, nodes: Sequence[Node], table: pa.Table, until: Callable[[], str | None]) -> Answer:
        """See `Place`."""
        self.prepare(nodes, until)
        with self._watched():
            self._process.run(table)
            while True:
                kind, *told = self._next(until)
                if kind == OUT:
                    (receipt,), seconds = told
                    return answer_of(receipt, seconds)
                if kind == FATAL:
                    raise_fatal(*told)
                if kind != AT:
                    raise PlaceLost(f"the worker process said {kind!r}")

    def memory_bytes(self) -> int:
        """See `Place`."""
        return held_bytes(self._process.pid)

    def end(self) -> None:
        """See `Place`."""
        self._made = None
        self._process.close()

    def _next(self, until: Callable[[], str | None]) -> tuple[Any, ...]:
        while not self._process.channel.poll(TICK_S):
            reason = until()
            if reason is not None:
                raise GivenUp(reason)
            if self._limit is not None and (held := self.memory_bytes()) > self._limit:
                raise OverMemory(f"the worker process held {held >> 20} MB, and may hold {self._limit >> 20}")
        return self._process.receive()

    def _watched(self) -> _Watched:
        return _Watched(self)


class _Watched:
    """Ends the process of a place where anything is raised; what it died of becomes `PlaceLost`."""

    def __init__(self, place: ProcessPlace) -> None:
        self._place = place

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if error is None:
            return
        self._place.end()
        if isinstance(error, ChildDied):
            raise PlaceLost(str(error)) from None


def held_bytes(pid: int | None) -> int:
    """Memory of a process and its children that is theirs, bytes: what they share with each other counts once for each.

    Args:
        pid: None, or one that has ended, holds nothing.
    """
    if pid is None:
        return 0
    held = 0
    for process in _family(pid):
        with suppress(psutil.Error):
            held += process.memory_info().rss
    return held


def _family(pid: int) -> Iterator[psutil.Process]:
    with suppress(psutil.Error):
        parent = psutil.Process(pid)
        yield parent
        yield from parent.children(recursive=True)


def deadline(seconds: float, why: str) -> Callable[[], str | None]:
    """What `Place.work` may be given: says ``why`` once ``seconds`` have passed."""
    end = time.monotonic() + seconds
    return lambda: why if time.monotonic() > end else None
