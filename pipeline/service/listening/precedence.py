"""Whoever waits for a first sound comes first: renderings that are being heard already give way for a moment."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

MOST_S = 2.0
"""Nobody gives way for longer: what is rendered lasts a listener for that, and the plan of many hours takes longer."""


class Precedence:
    """Who waits for a first sound. Any thread may ask."""

    def __init__(self, most_s: float = MOST_S) -> None:
        self._most_s = most_s
        self._change = threading.Condition()
        self._first = 0
        self._until = 0.0

    @contextmanager
    def first(self) -> Iterator[None]:
        """Somebody waits for a first sound within the context."""
        with self._change:
            self._first += 1
            self._until = time.monotonic() + self._most_s
        try:
            yield
        finally:
            with self._change:
                self._first -= 1
                self._change.notify_all()

    def give_way(self) -> None:
        """Wait until nobody waits for a first sound, or has had the time for it."""
        with self._change:
            end = time.monotonic() + self._most_s  # however many come meanwhile
            while self._first and (left := min(self._until, end) - time.monotonic()) > 0.0:
                self._change.wait(left)
