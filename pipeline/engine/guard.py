"""Around every stage: what it raises ends the run with its own words, and not as a block that Ray drops.

Ray is told to go on when a worker dies: the files it held are run again. It would go on just the same when a stage
raises, and the disk is full for every block alike. So a stage never raises: its error travels to the driver as a
table of one column, which later stages let through.
"""

from __future__ import annotations

import json
import traceback
from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from pipeline.dataset.storage import one_line
from pipeline.engine.ledger import announce
from pipeline.engine.node import Node
from pipeline.engine.process import note_ready
from pipeline.engine.within import listen
from pipeline.engine.within_ray import teller

FATAL = "fatal"


class StageFailed(Exception):
    """A stage raised. The message names the stage and the error.

    Args:
        stage: which.
        error: class and message.
        worker_traceback: of the process it ran in.
    """

    def __init__(self, stage: str, error: str, worker_traceback: str) -> None:
        super().__init__(f"{error} (in {stage})")
        self.error_class = error.partition(":")[0]
        self.worker_traceback = worker_traceback


def guarded(node: Node, ledger: Any = None, board: Any = None) -> type:
    """A class whose objects make the worker of ``node`` where they are made, and whose calls never raise.

    Args:
        ledger: is told which files are about to be worked on; None tells nobody.
        board: hears how far the worker is within a file, see `pipeline.engine.within_ray`; None does without.
    """

    class Guarded:
        def __init__(self) -> None:
            self.workers = [(part.name, part.make()) for part in node.parts or (node,)]
            listen(teller(board))
            note_ready()

        def __call__(self, table: pa.Table) -> pa.Table:
            for name, worker in self.workers:
                if FATAL in table.column_names:
                    break
                try:
                    if ledger is not None:
                        announce(ledger, name, rows_of(table))
                    table = worker(table)
                except Exception as error:  # noqa: BLE001  see above
                    return pa.table({FATAL: [json.dumps(told_of(error, name))]})
            return table

    # By which Ray calls its operator, and `pipeline.engine.watch` finds it.
    Guarded.__name__ = Guarded.__qualname__ = node.class_name
    return Guarded


def told_of(error: BaseException, stage: str) -> dict[str, str]:
    """What `raise_fatal` takes, of an error that ``stage`` raised."""
    return {
        "stage": stage,
        "error": f"{type(error).__name__}: {one_line(error)}",
        "traceback": "".join(traceback.format_exception(error)),
    }


def raise_fatal(told: Mapping[str, str]) -> None:
    """Raise what a stage raised elsewhere."""
    raise StageFailed(told["stage"], told["error"], told["traceback"])


def rows_of(table: pa.Table) -> list[tuple[int, str | None]]:
    """The files of ``table``, each with the asset id, if that is known by now."""
    assets = table["asset_id"].to_pylist() if "asset_id" in table.column_names else [None] * table.num_rows
    return list(zip(table["index"].to_pylist(), assets, strict=True))
