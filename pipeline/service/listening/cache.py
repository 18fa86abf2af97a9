"""What was found out before, as much of it as there is room for. Any thread may ask."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from typing import Generic, TypeVar

T = TypeVar("T")


class Cache(Generic[T]):
    """The values that were used last; one is made by one thread, while others who want it wait.

    Args:
        capacity: values that are kept; those in use are kept beyond it.
        let_go: is handed what is kept no longer.
    """

    def __init__(self, capacity: int, let_go: Callable[[T], None] = lambda value: None) -> None:
        self._capacity, self._let_go = capacity, let_go
        self._lock = threading.Lock()
        self._entries: OrderedDict[Hashable, _Entry[T]] = OrderedDict()
        self.made = 0
        """How many values had to be made."""

    def __contains__(self, key: Hashable) -> bool:
        with self._lock:
            entry = self._entries.get(key)
            return entry is not None and entry.made

    @contextmanager
    def held(self, key: Hashable, make: Callable[[], T]) -> Iterator[T]:
        """The value of ``key``, which is not let go within the context.

        Raises:
            Exception: what ``make`` raises; nothing is kept then.
        """
        with self._lock:
            entry = self._entries.setdefault(key, _Entry())
            self._entries.move_to_end(key)
            entry.users += 1
        try:
            with entry.making:
                if not entry.made:
                    entry.value, entry.made = make(), True
                    with self._lock:
                        self.made += 1
            yield entry.value
        finally:
            with self._lock:
                entry.users -= 1
                if not entry.made and not entry.users:
                    del self._entries[key]
            self._shrink(self._capacity)

    def get(self, key: Hashable, make: Callable[[], T]) -> T:
        """The value of ``key``; for values that nobody lets go. Raises what ``make`` raises."""
        with self.held(key, make) as value:
            return value

    def clear(self) -> None:
        """Let go of all that nobody uses."""
        self._shrink(0)

    def _shrink(self, capacity: int) -> None:
        gone: list[T] = []
        with self._lock:
            for key in [key for key, entry in self._entries.items() if not entry.users]:
                if len(self._entries) <= capacity:
                    break
                gone.append(self._entries.pop(key).value)
        for value in gone:
            self._let_go(value)


class _Entry(Generic[T]):
    def __init__(self) -> None:
        self.making = threading.Lock()
        self.made = False
        self.users = 0
        self.value: T
