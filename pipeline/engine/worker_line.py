"""The workers of all stages in this process, one after the other: what the in-process driver runs."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from typing import Any

import pyarrow as pa

from pipeline.engine.guard import rows_of, told_of
from pipeline.engine.node import Node, Worker
from pipeline.engine.process import note_ready

AT, OUT, FATAL = "at", "out", "fatal"


class MakingFailed(Exception):
    """A worker could not be made; ``told`` is what `pipeline.engine.guard.raise_fatal` takes."""

    def __init__(self, told: dict[str, str]) -> None:
        super().__init__(told["error"])
        self.told = told


class WorkerLine:
    """Makes the workers of ``nodes``, and sends tables through all of them.

    Raises:
        MakingFailed: one of them cannot be made.
    """

    def __init__(self, nodes: Sequence[Node]) -> None:
        self._nodes = list(nodes)
        # The first one waits for a process of its own meanwhile, which decodes. The others are made one after the
        # other: networks that load put the state of random numbers aside, which all of them share.
        with ThreadPoolExecutor(1, "first worker") as beside:
            first = [beside.submit(_made, node) for node in self._nodes[:1]]
            others = [_made(node) for node in self._nodes[1:]]
            self._workers: list[Worker] = [*(one.result() for one in first), *others]
        note_ready()

    def run(self, table: pa.Table) -> Iterator[tuple[Any, ...]]:
        """Send ``table`` through, and say what goes on.

        Yields:
            ``(AT, stage, files)`` before each stage, files as `Ledger.entered` takes them; at last
            ``(OUT, table, stage → seconds)``, or ``(FATAL, told)`` of what a stage raised.
        """
        busy: dict[str, float] = {}
        for node, worker in zip(self._nodes, self._workers, strict=True):
            yield AT, node.name, rows_of(table)
            began = time.perf_counter()
            try:
                table = worker(table)
            except Exception as error:  # noqa: BLE001  as under Ray: it ends the run with its own words
                yield FATAL, told_of(error, node.name)
                return
            busy[node.name] = time.perf_counter() - began
        yield OUT, table, busy


def _made(node: Node) -> Worker:
    try:
        return node.make()
    except Exception as error:
        raise MakingFailed(told_of(error, node.name)) from error


def receipts_of(table: pa.Table) -> list[dict[str, Any]]:
    """What the sink returned."""
    return [json.loads(receipt) for receipt in table["receipt"].to_pylist()]


def called(function: str, *arguments: Any) -> Any:
    """The result of ``module:function``."""
    module, _, name = function.partition(":")
    return getattr(import_module(module), name)(*arguments)
