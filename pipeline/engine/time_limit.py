"""How long a stage may be at work on one file. Whoever gets on notices it by itself; who hangs takes its process along.

A process that ends costs the files that it held a second try, one by one, and after some of those the file that hung
is given up: see `pipeline.workflows.attempts`.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from pipeline.engine.process import may_end

LEAST_S = 600.0
"""However short a file is: networks load, and machines are busy."""
GRACE_S = 600.0
"""After its time is up, and a quarter of that besides, something that gets on would have noticed."""
EVERY_S = 5.0
EXIT = 75


class TookTooLong(Exception):
    """A file that took a stage longer than it may."""


class TimeLimit:
    """The limit of one worker, whose tracks may be worked on by several threads.

    Args:
        stage: whose.
        factor: seconds of wall time for each second of audio; 0 is no limit.
        every_s: how often is looked whether something hangs.
    """

    def __init__(self, stage: str, factor: float, every_s: float = EVERY_S) -> None:
        self._stage, self._factor, self._every_s = stage, factor, every_s
        self._began: dict[int, tuple[float, float]] = {}
        self._lock = threading.Lock()
        self._watch: threading.Thread | None = None

    @contextmanager
    def of(self, index: int, duration_s: float) -> Iterator[None]:
        """Within it the stage is at work on a file.

        Args:
            index: of the file.
            duration_s: of its audio.
        """
        if self._factor <= 0:
            yield
            return
        allowed = max(LEAST_S, self._factor * duration_s)
        with self._lock:
            self._began[index] = (time.monotonic(), allowed)
            if self._watch is None:
                self._watch = threading.Thread(target=self._look, name="time limit", daemon=True)
                self._watch.start()
        try:
            yield
        finally:
            with self._lock:
                self._began.pop(index, None)

    def check(self, index: int) -> None:
        """Raise `TookTooLong` where a file's time is up."""
        began, allowed = self._began.get(index, (time.monotonic(), 1.0))
        spent = time.monotonic() - began
        if spent > allowed:
            raise TookTooLong(
                f"{self._stage} was at it for {spent:.0f} s, and {allowed:.0f} s are allowed: "
                "hardware.time_limit is their factor"
            )

    def _look(self) -> None:
        while True:
            time.sleep(self._every_s)
            now = time.monotonic()
            with self._lock:
                hanging = any(
                    now - began > 1.25 * allowed + GRACE_S for began, allowed in self._began.values()
                )
            if hanging and may_end():
                print(f"{self._stage} hangs: its process ends", file=sys.stderr, flush=True)
                os._exit(EXIT)
