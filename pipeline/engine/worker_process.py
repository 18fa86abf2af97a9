"""A process that holds the workers of all stages beside the job: how it is started, told and heard.

Imports nothing that takes time: a command may start one before it has loaded anything itself (`start_ahead`), which
then loads its packages on another core meanwhile.
"""

from __future__ import annotations

import os
import pickle
import socket
import tempfile
from collections import deque
from collections.abc import Iterable, Sequence
from multiprocessing.connection import Connection, wait
from typing import Any

from pipeline.audio.children import Child
from pipeline.engine.starting import THREAD_VARIABLES

WARM, CALL, MAKE, RUN = "warm", "call", "make", "run"
"""What it is asked. Nothing answers `WARM`."""

READY, CLAIM, VALUE, RAISED, PART = "ready", "claim", "value", "raised", "part"
"""What it answers, beside `pipeline.engine.worker_line`'s words. A `CLAIM` waits for `WorkerProcess.owner_is`; a `PART`
comes where that is asked for, see `pipeline.engine.within`."""

NAME = "the worker process"
CHILD = "pipeline.engine.inline_child"


class ChildDied(Exception):
    """The process ended; the message says how."""


class WorkerProcess:
    """What is sent to one process and what comes back. Everything raises `ChildDied`.

    Args:
        threads: of OpenMP, MKL, OpenBLAS, numexpr and numba.
        warm: modules that it imports before it is told anything.
    """

    def __init__(self, threads: int, warm: Sequence[str] = ()) -> None:
        self.threads = threads
        self._warm = list(warm)
        self._child: Child | None = None
        self._asked: deque[tuple[Any, ...]] = deque()

    def begin(self, calls: Sequence[tuple[Any, ...]] = ()) -> None:
        """Start it; a second call does nothing.

        Args:
            calls: what `call` will be asked, in that order: computed as soon as it has its modules.
        """
        if self._child is None:
            self._start()
            self._say_first(calls)

    def take_over(self, warm: Sequence[str], calls: Sequence[tuple[Any, ...]]) -> bool:
        """Tell a process that `start_ahead` began what it was begun for; false where it is no longer there."""
        self._warm = list(warm)
        try:
            self._say_first(calls)
            if self._child.process.poll() is not None:
                raise self._died()
        except ChildDied:
            return False
        return True

    def call(self, function: str, *arguments: Any) -> Any:
        """The result of ``module:function``, computed there. Raises what it raises."""
        self.begin()
        request = (CALL, function, *arguments)
        answer = self._answer_to(request)
        if answer is None:
            self._send(request)
            answer = self.receive()
        kind, value = answer
        if kind == RAISED:
            raise value
        return value

    def make(self, nodes: Sequence[Any], gpu_memory_fraction: float) -> None:
        """Have it make the workers of ``nodes``: it answers ``(READY,)``, or why not."""
        self.begin()
        self._answer_to(())
        self._send((MAKE, list(nodes), gpu_memory_fraction))

    def run(self, table: Any, parts: bool = False) -> None:
        """Have it send ``table`` through its workers: it says what goes on until it is ``OUT``, or why not.

        Args:
            parts: whether it also says how far it is within a file.
        """
        self._send((RUN, table, parts))

    def owner_is(self, owner: str) -> None:
        """Answer a ``CLAIM``."""
        self._send((CLAIM, owner))

    def receive(self) -> tuple[Any, ...]:
        """The next thing that it says; waits for it."""
        try:
            return self._channel.recv()
        except (EOFError, OSError):
            raise self._died() from None

    def close(self) -> None:
        """End it."""
        child, self._child = self._child, None
        self._asked.clear()
        if child is not None:
            child.end()
            self._channel.close()
            self._errors.close()
            self._folder.cleanup()

    @property
    def pid(self) -> int | None:
        """Of the process; None where there is none."""
        child = self._child
        return None if child is None else child.process.pid

    @property
    def channel(self) -> Connection:
        """What can be waited for until it says something."""
        return self._channel

    def _start(self) -> None:
        ours, theirs = socket.socketpair()
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115  closed with the child
        # It may be killed at any moment: what it leaves lying goes with its folder.
        self._folder = tempfile.TemporaryDirectory(prefix="soundmill-worker-", ignore_cleanup_errors=True)
        environment = dict.fromkeys(THREAD_VARIABLES, str(self.threads)) | {"TMPDIR": self._folder.name}
        try:
            told = {"socket": theirs.fileno()}
            passed, errors = (theirs.fileno(),), self._errors.fileno()
            self._child = Child(CHILD, told, environment, passed, errors)
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        self._channel = Connection(ours.detach())

    def _say_first(self, calls: Sequence[tuple[Any, ...]]) -> None:
        self._send((WARM, self._warm))
        for call in calls:
            self._ask(call)

    def _ask(self, call: tuple[Any, ...]) -> None:
        self._asked.append((CALL, *call))
        self._send(self._asked[-1])

    def _answer_to(self, request: tuple[Any, ...]) -> tuple[str, Any] | None:
        """The answer to what was asked ahead already; None where it was not. What else was is not asked again."""
        while self._asked:
            asked, answer = self._asked.popleft(), self.receive()
            if asked == request:
                return answer
        return None

    def _send(self, message: tuple[Any, ...]) -> None:
        data = pickle.dumps(message)
        try:
            self._channel.send_bytes(data)
        except OSError:
            raise self._died() from None

    def _died(self) -> ChildDied:
        cause = self._child.cause(NAME)
        if (self._child.process.poll() or 0) >= 0:  # a signal speaks for itself
            self._errors.seek(max(0, os.fstat(self._errors.fileno()).st_size - 2000))
            lines = self._errors.read().decode(errors="replace").strip().splitlines()
            cause += f" ({lines[-1][:200]})" if lines else ""
        self.close()
        return ChildDied(cause)


def heard(processes: Iterable[WorkerProcess]) -> list[WorkerProcess]:
    """Those that have something to say, at least one; waits for it."""
    by_channel = {process.channel: process for process in processes}
    return [by_channel[channel] for channel in wait(list(by_channel))]


class _Ahead:
    """Of this process: the one that a command began before it knew whether it would need one."""

    process: WorkerProcess | None = None


def start_ahead(warm: Sequence[str], threads: int = 1) -> None:
    """Begin a process that `ahead` may take over; it loads ``warm`` while this one loads its own packages."""
    if _Ahead.process is None:
        _Ahead.process = WorkerProcess(threads, warm)
        _Ahead.process.begin()


def started_ahead(threads: int) -> WorkerProcess | None:
    """The process that was begun ahead, once; None where there is none with so many threads."""
    process, _Ahead.process = _Ahead.process, None
    if process is not None and process.threads != threads:
        process.close()
        return None
    return process


def end_ahead() -> None:
    """End the process that nobody has taken over."""
    process = started_ahead(-1)
    if process is not None:
        process.close()
