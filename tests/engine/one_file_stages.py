"""Stages for ``test_one_file.py``: what a file is to do to its worker stands in its uri."""

from __future__ import annotations

import os
import signal
import time

import pyarrow as pa


class Obedient:
    """Does what the uri says: ``die``, ``hang``, ``raise``, or ``grow``; else nothing."""

    held = b""

    def __init__(self, refuses: bool = False) -> None:
        if refuses:
            raise ValueError("no weights here")

    def __call__(self, table: pa.Table) -> pa.Table:
        """The same table with the process that had it."""
        (uri,) = table["uri"].to_pylist()
        if uri == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        if uri == "raise":
            raise ZeroDivisionError("on purpose")
        if uri == "grow":
            Obedient.held = os.urandom(1 << 20) * 600
        if uri in ("hang", "grow"):
            time.sleep(600)
        return table.append_column("pid", pa.array([os.getpid()]))
