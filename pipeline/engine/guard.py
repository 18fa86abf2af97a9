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
import ray

from pipeline.dataset.storage import one_line
from pipeline.engine.process import note_ready

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


def guarded(stage: type, name: str, ledger: Any = None) -> type:
    """A class like ``stage`` whose calls never raise.

    Args:
        stage: takes and returns a table.
        name: as in `timings`.
        ledger: is told which files are about to be worked on; None tells nobody.
    """

    class Guarded(stage):  # type: ignore[misc, valid-type]
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            note_ready()

        def __call__(self, table: pa.Table) -> pa.Table:
            if FATAL in table.column_names:
                return table
            try:
                if ledger is not None:
                    ray.get(ledger.entered.remote(name, _rows(table)))
                return super().__call__(table)
            except Exception as error:  # noqa: BLE001  see above
                told = {
                    "stage": name,
                    "error": f"{type(error).__name__}: {one_line(error)}",
                    "traceback": "".join(traceback.format_exception(error)),
                }
                return pa.table({FATAL: [json.dumps(told)]})

    Guarded.__name__ = stage.__name__
    Guarded.__qualname__ = stage.__qualname__
    return Guarded


def raise_fatal(told: Mapping[str, str]) -> None:
    """Raise what a stage raised elsewhere."""
    raise StageFailed(told["stage"], told["error"], told["traceback"])


def _rows(table: pa.Table) -> list[tuple[int, str | None]]:
    assets = table["asset_id"].to_pylist() if "asset_id" in table.column_names else [None] * table.num_rows
    return list(zip(table["index"].to_pylist(), assets, strict=True))
