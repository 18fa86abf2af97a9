"""The process in which `pipeline.engine.inline.InlineDriver` has its workers: it may die, and the job does not.

Speaks pickled tuples over a socket, as asked: ``(WARM, modules)``, ``(CALL, function, *arguments)``,
``(MAKE, nodes, GPU memory fraction)`` and ``(RUN, table, parts)``, answered as `pipeline.engine.worker_line.WorkerLine`
does, with ``(CLAIM, asset id, uri)`` between, which is answered with ``(CLAIM, owner)``, and, where ``parts`` is true,
``(PART, pipeline.engine.within.Part)``.
"""

from __future__ import annotations

import faulthandler
import importlib
import json
import pickle
import threading
from collections.abc import Iterable, Iterator
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Any

from pipeline.audio.children import end_with_parent, leave_no_core_file
from pipeline.engine.ledger import Ledger
from pipeline.engine.process import allow_end, hold_gpu_memory
from pipeline.engine.within import Part, listen
from pipeline.engine.worker_line import FATAL, OUT, MakingFailed, WorkerLine, called, receipts_of
from pipeline.engine.worker_process import CALL, CLAIM, MAKE, PART, RAISED, READY, VALUE, WARM


class _Told:
    """Of this process: how it asks the other one something. Several threads may speak at once."""

    channel: Connection | None = None
    asking = threading.Lock()


def _say(message: tuple[Any, ...]) -> None:
    with _Told.asking:
        _Told.channel.send(message)


def _say_part(part: Part) -> None:
    _say((PART, part))


class _LedgerHere(Ledger):
    """Asks the job's ledger, which other processes like this one ask, too."""

    def claim(self, asset_id: str, uri: str) -> str:
        """As in the job's ledger."""
        with _Told.asking:
            _Told.channel.send((CLAIM, asset_id, uri))
            return _Told.channel.recv()[1]


def ledger_here() -> Ledger:
    """What the job's ledger becomes on its way to this process."""
    return _LedgerHere()


def main(settings: str) -> None:
    """Serve until the other side ends. ``settings`` is JSON, see `pipeline.engine.inline`."""
    told = json.loads(settings)
    end_with_parent(told["lifeline"], told["parent"])
    with suppress(RuntimeError):  # without a stderr
        faulthandler.enable()
    leave_no_core_file()
    allow_end()
    channel = Connection(told["socket"])
    _Told.channel = channel
    line: WorkerLine | None = None
    with suppress(EOFError, BrokenPipeError, ConnectionResetError):
        while True:
            kind, *asked = channel.recv()
            if kind == WARM:
                _warm(*asked)
            elif kind == CALL:
                _say(_value(*asked))
            elif kind == MAKE:
                line = None  # its decoder ends before another one begins
                line, answer = _made(*asked)
                _say(answer)
            else:
                for message in _run(line, *asked):
                    _say(message)


def _warm(modules: Iterable[str]) -> None:
    for module in modules:
        with suppress(Exception):  # whoever needs it says so better
            importlib.import_module(module)


def _value(function: str, *arguments: Any) -> tuple[str, Any]:
    try:
        return VALUE, called(function, *arguments)
    except Exception as error:  # noqa: BLE001  raised again by who asked
        with suppress(Exception):
            pickle.loads(pickle.dumps(error))  # noqa: S301  our own
            return RAISED, error
        return RAISED, RuntimeError(f"{type(error).__name__}: {error}")


def _made(nodes: list[Any], gpu_memory_fraction: float) -> tuple[WorkerLine | None, tuple[Any, ...]]:
    hold_gpu_memory(gpu_memory_fraction)
    try:
        return WorkerLine(nodes), (READY,)
    except MakingFailed as failed:
        return None, (FATAL, failed.told)


def _run(line: WorkerLine, table: Any, parts: bool) -> Iterator[tuple[Any, ...]]:
    listen(_say_part if parts else None)
    for message in line.run(table):
        yield (OUT, receipts_of(message[1]), message[2]) if message[0] == OUT else message
