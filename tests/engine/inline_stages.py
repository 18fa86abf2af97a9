"""Stages for the in-process driver, in a module that loads nothing else: its child imports it."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path

import pyarrow as pa

from pipeline.engine import within
from pipeline.engine.batch import Track
from pipeline.engine.ledger import Claims


class Receipts:
    """The end: one receipt per table, with its files, this process, and who computes the content of each."""

    def __init__(self, ledger: object = None) -> None:
        self.claims = Claims(ledger)

    def __call__(self, table: pa.Table) -> pa.Table:
        files = table["index"].to_pylist()
        owners = [self.claims.owner(f"content {file % 2}", str(file)) for file in files]
        found = {
            "indexes": files,
            "pid": os.getpid(),
            "owners": owners,
            "threads": os.environ.get("OMP_NUM_THREADS"),
        }
        return pa.table({"receipt": [json.dumps(found)]})


class Raises:
    """Raises at every table."""

    def __call__(self, table: pa.Table) -> pa.Table:
        raise ZeroDivisionError("on purpose")


class CannotBeMade:
    """Raises when it is made."""

    def __init__(self) -> None:
        raise ValueError("not on this machine")


class DiesWhenMade:
    """Ends its process when it is made, ``times`` times: a file counts them."""

    def __init__(self, counter: str, times: int) -> None:
        made = Path(counter).read_text() if Path(counter).exists() else ""
        Path(counter).write_text(made + "x")
        if len(made) < times:
            print("no such library", file=sys.stderr, flush=True)
            os._exit(7)

    def __call__(self, table: pa.Table) -> pa.Table:
        return table


class MeetsTheOther:
    """Waits at its first table until ``count`` processes are at theirs."""

    def __init__(self, folder: str, count: int) -> None:
        self.folder, self.count = Path(folder), count

    def __call__(self, table: pa.Table) -> pa.Table:
        (self.folder / f"{os.getpid()}.there").touch()
        while len(list(self.folder.glob("*.there"))) < self.count:
            time.sleep(0.01)
        return table


class DiesBesideAnother:
    """Ends every process but the first in which it is made."""

    def __init__(self, folder: str) -> None:
        first = Path(folder) / "first"
        try:
            first.touch(exist_ok=False)
        except FileExistsError:
            os._exit(7)

    def __call__(self, table: pa.Table) -> pa.Table:
        return table


class Waits:
    """Writes that it is there, and waits for ever."""

    def __init__(self, there: str) -> None:
        self.there = Path(there)

    def __call__(self, table: pa.Table) -> pa.Table:
        self.there.write_text(str(os.getpid()))
        signal.pause()
        return table


def loaded(name: str) -> bool:
    """Whether this process has imported a module."""
    return name in sys.modules


def process() -> dict[str, int]:
    """This process and the one that started it."""
    return {"pid": os.getpid(), "parent": os.getppid()}


def refuse(reason: str) -> None:
    """Raises."""
    raise KeyError(reason)


def die() -> None:
    """End this process as the kernel does where memory is short."""
    os.kill(os.getpid(), signal.SIGKILL)


class SaysHowFar:
    """Says how far it is within each file, at once and not only after a second; ``poison`` ends its process then."""

    def __init__(self, poison: int = -1) -> None:
        self.poison = poison
        within.EVERY_S = 0.0

    def __call__(self, table: pa.Table) -> pa.Table:
        tracks = [Track(index, f"/songs/{index}.flac", 1000) for index in table["index"].to_pylist()]
        for track in tracks:
            within.tell("far", track, 0.5)
            if track.index == self.poison:
                die()
        within.leave("far", tracks)
        return table
