"""Whoever waits for a first sound comes first: renderings that are being heard already give way for a moment."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

MOST_S = 2.0
"""Nobody is given way to for longer: the plan of many hours takes longer than what is rendered lasts a listener."""


class Precedence:
    """Who waits for a first sound. Any thread may ask."""

    def __init__(self, most_s: float = MOST_S) -> None:
        self._most_s = most_s
        self._change = threading.Condition()
        # Of each who waits: until when others give way.
        self._until: dict[object, float] = {}

    @contextmanager
    def first(self) -> Iterator[None]:
        """Somebody waits for a first sound within the context."""
        who = object()
        with self._change:
            self._until[who] = time.monotonic() + self._most_s
        try:
            yield
        finally:
            with self._change:
                del self._until[who]
                self._change.notify_all()

    def give_way(self, ahead_s: float = math.inf) -> None:
        """Wait until nobody waits for a first sound, or has had the time for it.

        Args:
            ahead_s: no longer than that: what is rendered lasts a listener for so many seconds.
        """
        with self._change:
            end = time.monotonic() + min(self._most_s, ahead_s)  # however many come meanwhile
            while (left := min(max(self._until.values(), default=0.0), end) - time.monotonic()) > 0.0:
                self._change.wait(left)
