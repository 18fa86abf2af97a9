"""What batches of a `pipeline.models.window_pool.WindowPool` were and cost, and where the seconds of a pool went."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from pipeline.errors import Fallback

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass
class Batch:
    """What one batch was and cost.

    Args:
        items: windows in it.
        audio_s: audio in it, s.
        compute_s: time that the device spent on it, s; on a GPU known once it is done.
        events: of the device, before it and behind it; None once it is done.
    """

    items: int
    audio_s: float
    compute_s: float = 0.0
    events: tuple[Any, Any] | None = None

    def wait(self) -> None:
        """Until the device has done it. Raises ``torch.AcceleratorError`` where the device failed."""
        events = self.events
        if events is not None:
            events[1].synchronize()
            self._settle(events)

    def done(self) -> bool:
        """Whether the device has done it."""
        events = self.events  # another thread may settle it meanwhile
        if events is not None and events[1].query():
            self._settle(events)
        return self.events is None

    def _settle(self, events: tuple[Any, Any]) -> None:
        self.compute_s = events[0].elapsed_time(events[1]) / 1000.0
        self.events = None


@dataclass
class Answer(Generic[Item, Result]):
    """What came of a window.

    Args:
        item: the window.
        value: what the network made of it; None where it failed or nobody wants it.
        error: why there is no value.
        batch: it was in; None where it was in none that succeeded.
        seconds: its share of what its batch and failed attempts cost, by audio seconds.
        fallbacks: the steps that memory forced on its batch.
    """

    item: Item
    value: Result | None = None
    error: Exception | None = None
    batch: Batch | None = None
    lost_s: float = 0.0
    fallbacks: tuple[Fallback, ...] = ()

    @property
    def seconds(self) -> float:
        share = self.batch.compute_s * self.item.seconds / self.batch.audio_s if self.batch else 0.0
        return share + self.lost_s


class Busy:
    """Where the seconds of a pool went."""

    def __init__(self) -> None:
        self.device_s = self.starved_s = 0.0
        self._callers = 0
        self._first: float | None = None
        self._last = 0.0
        self._watched: list[Batch] = []

    def watch(self, batch: Batch) -> None:
        self._watched.append(batch)

    def enter(self) -> None:
        now = time.perf_counter()
        if self._first is None:
            self._first = now
        elif not self._callers:
            self.starved_s += now - self._last
        self._callers += 1

    def leave(self) -> None:
        self._callers -= 1
        self._last = time.perf_counter()

    def seconds(self) -> dict[str, float]:
        watched, self._watched = self._watched, []
        for batch in watched:
            if batch.done():
                self.device_s += batch.compute_s
            else:
                self._watched.append(batch)
        ended = time.perf_counter() if self._callers else self._last
        total = ended - self._first if self._first is not None else 0.0
        rest = max(0.0, total - self.device_s - self.starved_s)
        return {"device_s": self.device_s, "starved_s": self.starved_s, "host_s": rest}
