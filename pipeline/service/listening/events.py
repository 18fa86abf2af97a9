"""What happens to a song, numbered, for any number of listeners who come and go."""

from __future__ import annotations

import asyncio
import secrets
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager, suppress
from typing import Any

LAST = ("done", "failed", "cancelled")
"""Behind one of these kinds nothing comes."""


class Bell:
    """Wakes coroutines of any loop from any thread; who rings waits for nobody."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: dict[int, tuple[asyncio.AbstractEventLoop, asyncio.Event]] = {}

    def ring(self) -> None:
        """Something happened."""
        with self._lock:
            waiting = list(self._waiting.values())
        for loop, event in waiting:
            with suppress(RuntimeError):  # the loop is closed: its listener has gone
                loop.call_soon_threadsafe(event.set)

    @contextmanager
    def heard(self) -> Iterator[asyncio.Event]:
        """An event that is set by each ring; whoever waits clears it, looks, and only then waits."""
        event = asyncio.Event()
        with self._lock:
            self._waiting[id(event)] = (asyncio.get_running_loop(), event)
        try:
            yield event
        finally:
            with self._lock:
                del self._waiting[id(event)]

    @property
    def listeners(self) -> int:
        """How many wait, or are about to."""
        with self._lock:
            return len(self._waiting)


class Events:
    """The events of a song, from number 1 on; they stay, so that who was away gets those that were missed.

    Args:
        bell: is rung by each.
    """

    def __init__(self, bell: Bell) -> None:
        self._bell = bell
        self._lock = threading.Lock()
        self._events: list[dict[str, Any]] = []
        self.run = secrets.token_hex(4)
        """Stands in each event: a song that is made anew counts from 1 again."""

    def add(self, kind: str, **more: Any) -> None:
        """The next one; nothing where the last one was there already."""
        with self._lock:
            if self._events and self._events[-1]["type"] in LAST:
                return
            self._events.append({"n": len(self._events) + 1, "run": self.run, "type": kind, **more})
        self._bell.ring()

    def after(self, number: int) -> list[dict[str, Any]]:
        """Those that are there behind a number."""
        with self._lock:
            return self._events[max(0, number) :]

    async def follow(self, after: int = 0) -> AsyncIterator[dict[str, Any]]:
        """Those behind a number as they come, up to the last one."""
        with self._bell.heard() as rung:
            while True:
                rung.clear()
                for event in self.after(after):
                    yield event
                    after = event["n"]
                    if event["type"] in LAST:
                        return
                if self.ended and not self.after(after):
                    return
                await rung.wait()

    @property
    def ended(self) -> bool:
        """Whether the last one is there."""
        with self._lock:
            return bool(self._events) and self._events[-1]["type"] in LAST
