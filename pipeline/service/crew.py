"""The threads that songs are worked on in: each has a place of its own, and never more work than one song."""

from __future__ import annotations

import math
import queue
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from pipeline.engine.one_file import GivenUp, Place
from pipeline.service.announcer import Announcement, Announcer
from pipeline.service.intake import Task
from pipeline.service.logs import StepLog
from pipeline.service.metrics import Metrics


class Abandoned(Exception):
    """A song was put down because the service ends: nothing is said of it, and it is somebody else's."""


class Work(Protocol):
    """What is done with a task."""

    def __call__(self, task: Task, bench: Bench) -> Announcement:
        """Work on it; returns what is to be said. Raises `Abandoned`, and nothing else."""


class Bench:
    """Where one thread works.

    Args:
        number: from 0.
        place: the process or actor that it has.
        stopped: says that the service will not wait any longer.
        seconds: that whatever is done here may take.
    """

    def __init__(
        self, number: int, place: Place, stopped: threading.Event, seconds: float = math.inf
    ) -> None:
        self.number, self.place = number, place
        self._stopped = stopped
        self._seconds, self._end = seconds, time.monotonic() + seconds

    def until(self, seconds: float) -> Bench:
        """The same bench, which waits so long for whatever is done there."""
        return Bench(self.number, self.place, self._stopped, seconds)

    def reason(self) -> str | None:
        """Why whoever waits should wait no longer; None where there is none."""
        if self._stopped.is_set():
            return "the service ends"
        return f"it took longer than {self._seconds:.0f} s" if time.monotonic() > self._end else None

    def going_on(self) -> None:
        """Raises `Abandoned` where the service ends, and `GivenUp` where the time is over."""
        if self._stopped.is_set():
            raise Abandoned
        if (reason := self.reason()) is not None:
            raise GivenUp(reason)

    @property
    def stopped(self) -> bool:
        """Whether the service ends."""
        return self._stopped.is_set()


class Crew:
    """Takes tasks, see `pipeline.service.intake.Hands`.

    Args:
        places: one for each thread.
        work: what is done with a task.
        announcer: what says what became of it.
        metrics, log: where it says how it is.
    """

    def __init__(
        self, places: Sequence[Place], work: Work, announcer: Announcer, *, metrics: Metrics, log: StepLog
    ) -> None:
        self._work, self._announcer = work, announcer
        self._metrics, self._log = metrics, log
        self._tasks: queue.SimpleQueue[Task | None] = queue.SimpleQueue()
        self._lock, self._busy = threading.Lock(), 0
        self._stopped = threading.Event()
        self._benches = [Bench(number, place, self._stopped) for number, place in enumerate(places)]
        self._threads = [
            threading.Thread(target=self._run, args=(bench,), name=f"song-{bench.number}", daemon=True)
            for bench in self._benches
        ]
        self._ready = 0

    def start(self, prepare: Callable[[Bench], None]) -> None:
        """Begin; each thread prepares its bench first."""
        self._prepare = prepare
        for thread in self._threads:
            thread.start()

    def room(self) -> int:
        """How many more songs can be begun."""
        with self._lock:
            return self._ready - self._busy

    def busy(self) -> int:
        """How many songs are in hand."""
        with self._lock:
            return self._busy

    def models(self) -> tuple[bool, str]:
        """Whether a worker is ready, for `pipeline.service.health`."""
        with self._lock:
            return self._ready > 0, f"{self._ready} of {len(self._benches)} workers ready"

    def memory_bytes(self) -> int:
        """What all workers hold together."""
        return sum(bench.place.memory_bytes() for bench in self._benches)

    def begin(self, task: Task) -> None:
        """See `pipeline.service.intake.Hands`."""
        with self._lock:
            self._busy += 1
        self._metrics.in_flight(self.busy())
        self._tasks.put(task)

    def close(self, wait_s: float = 10.0) -> None:
        """End all threads; a song that is in hand is abandoned."""
        self._stopped.set()
        for _ in self._threads:
            self._tasks.put(None)
        end = time.monotonic() + wait_s
        for thread in self._threads:
            if thread.ident is not None:
                thread.join(max(0.0, end - time.monotonic()))
        for bench in self._benches:
            bench.place.end()

    def _run(self, bench: Bench) -> None:
        if not self._prepared(bench):
            return
        while not self._stopped.is_set() and (task := self._tasks.get()) is not None:
            try:
                announcement: Any = self._work(task, bench)
                self._announcer.put(announcement)
            except Abandoned:
                self._log.step("abandoned", offset=task.claim.offset)
            except Exception as error:  # noqa: BLE001  a mistake of ours: the message stays where it is, the next is begun
                self._log.step("bug", level="error", error=f"{type(error).__name__}: {error}")
            finally:
                with self._lock:
                    self._busy -= 1
                self._metrics.in_flight(self.busy())

    def _prepared(self, bench: Bench) -> bool:
        """Load what the worker needs before there is a song. While it cannot, no song is given to it."""
        wait_s = 1.0
        while not self._stopped.is_set():
            try:
                self._prepare(bench)
                break
            except Exception as error:  # noqa: BLE001  whatever it is, it may pass
                text = f"{type(error).__name__}: {error}"
                self._log.step("prepare", level="error", worker=bench.number, error=text)
                self._stopped.wait(wait_s)
                wait_s = min(60.0, 2 * wait_s)
        else:
            return False
        with self._lock:
            self._ready += 1
            ready = self._ready
        self._log.step("ready", workers=ready, of=len(self._benches))
        return True
