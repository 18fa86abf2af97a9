"""One at a time for each result: a request that comes twice is worked on once, and answered twice."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

TICK_S = 0.25


class Turns:
    """Locks by name, there only while somebody holds or awaits them."""

    def __init__(self) -> None:
        self._held: set[str] = set()
        self._changed = threading.Condition()

    @contextmanager
    def of(self, name: str, going_on: Callable[[], None]) -> Iterator[None]:
        """Within it nobody else has the turn of ``name``.

        Args:
            going_on: called while it is awaited; what it raises ends the wait.
        """
        with self._changed:
            while name in self._held:
                going_on()
                self._changed.wait(TICK_S)
            self._held.add(name)
        try:
            yield
        finally:
            with self._changed:
                self._held.discard(name)
                self._changed.notify_all()
