"""A stage that dies of one file, in a module that loads nothing else: a child imports it."""

from __future__ import annotations

import os
import signal

import pyarrow as pa


class DeadlyStage:
    """Passes tables on; the one with the file ``poison`` kills the process."""

    def __init__(self, poison: int) -> None:
        self.poison = poison

    def __call__(self, table: pa.Table) -> pa.Table:
        if self.poison in table["index"].to_pylist():
            os.kill(os.getpid(), signal.SIGKILL)
        return table
