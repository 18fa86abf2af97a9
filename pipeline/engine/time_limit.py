"""How long a stage may be at work on one file. Whoever gets on notices it by itself, and says so by asking; who hangs,
which is not to have asked for that long, takes its process along.

A process that ends costs the files that it held a second try, and the one that hung is then given up at once: it is
noted before, see `pipeline.engine.hung`.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from pipeline.engine.hung import HungFiles
from pipeline.engine.process import may_end

LEAST_S = 600.0
"""However short a file is: networks load, and machines are busy."""
GRACE_S = 600.0
"""What has not asked for so long, and five quarters of its time besides, does not get on."""
EVERY_S = 5.0
EXIT = 75


class TookTooLong(Exception):
    """A file that took a stage longer than it may."""


@dataclass
class _AtWork:
    """One file: when it was begun, what it may take, s, and when it last gave a sign of life."""

    began: float
    allowed: float
    seen: float


class TimeLimit:
    """The limit of one worker, whose tracks may be worked on by several threads.

    Args:
        stage: whose.
        factor: seconds of wall time for each second of audio; 0 is no limit.
        every_s: how often is looked whether something hangs.
        hung: knows the files in which the stage hung before.
    """

    def __init__(
        self, stage: str, factor: float, every_s: float = EVERY_S, hung: HungFiles | None = None
    ) -> None:
        self._stage, self._factor, self._every_s, self._hung = stage, factor, every_s, hung
        self._at_work: dict[int, _AtWork] = {}
        self._lock = threading.Lock()
        self._watch: threading.Thread | None = None

    @contextmanager
    def of(self, index: int, duration_s: float) -> Iterator[None]:
        """Within it the stage is at work on a file.

        Args:
            index: of the file.
            duration_s: of its audio.

        Raises:
            TookTooLong: the stage hung in it before, and its process had to end.
        """
        if self._factor <= 0:
            yield
            return
        if self._hung is not None and self._hung.has(self._stage, index):
            raise TookTooLong(
                f"{self._stage} hung in it, and its process was ended: hardware.time_limit says when that is done"
            )
        allowed = max(LEAST_S, self._factor * duration_s)
        with self._lock:
            now = time.monotonic()
            self._at_work[index] = _AtWork(now, allowed, now)
            if self._watch is None:
                self._watch = threading.Thread(target=self._look, name="time limit", daemon=True)
                self._watch.start()
        try:
            yield
        finally:
            with self._lock:
                self._at_work.pop(index, None)

    def check(self, index: int) -> None:
        """Raise `TookTooLong` where a file's time is up. To ask is a sign of life."""
        file = self._at_work.get(index)
        if file is None:
            return
        file.seen = time.monotonic()
        spent = file.seen - file.began
        if spent > file.allowed:
            raise TookTooLong(
                f"{self._stage} was at it for {spent:.0f} s, and {file.allowed:.0f} s are allowed: "
                "hardware.time_limit is their factor"
            )

    def hanging(self) -> list[int]:
        """The files that have given no sign of life for too long."""
        now = time.monotonic()
        with self._lock:
            return [i for i, f in self._at_work.items() if now - f.seen > 1.25 * f.allowed + GRACE_S]

    def _look(self) -> None:
        while True:
            time.sleep(self._every_s)
            if (hanging := self.hanging()) and may_end():
                for index in hanging if self._hung is not None else ():
                    self._hung.add(self._stage, index)
                print(f"{self._stage} hangs: its process ends", file=sys.stderr, flush=True)
                os._exit(EXIT)
