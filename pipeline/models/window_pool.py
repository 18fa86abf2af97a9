"""Windows of many tracks, of several callers at once, through one network in full batches.

Each caller cuts windows out of its own tracks, and takes back what came of them. Whichever of the callers finds
enough windows waiting has the next batch run, for all of them. So a network that wants 64 windows gets them although
a caller has only six, and a single caller works as if there were no pool. On a GPU a batch is only launched: while
it runs, the next one is filled, and launched behind it.
"""

from __future__ import annotations

import functools
import threading
import time
from collections import deque
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

import torch

from pipeline.models.batching import BatchRunner
from pipeline.models.window_batches import Answer, Batch, Busy

# Batches on a GPU that are launched and not done: one runs, the next waits behind it.
IN_FLIGHT = 2
# Windows that are waiting or not taken back yet, in batches; what a caller cuts beyond would only take memory. On a
# CPU nothing goes on beside the caller.
WAITING, WAITING_ON_CPU = 3, 2
# However large a batch somebody asks for: beyond so many windows no network gains, and they would fill the card.
LARGEST_BATCH = 256
# Some caller may be about to bring more. A card with nothing to do waits for it no longer than that.
LINGER_S = 0.02


def device_event(device: torch.device) -> Callable[[], Any] | None:
    """What makes the events of a device that works on its own; None for a CPU."""
    # Blocking: whoever waits leaves the processor to others.
    make = functools.partial(torch.cuda.Event, enable_timing=True, blocking=True)
    return make if device.type == "cuda" else None


class PoolItem(Protocol):
    """A window on its way.

    Attributes:
        group: windows of one group may share a batch; those of another length cannot.
        owner: whose it is: a batch that fails is run again owner by owner, and only the culprit fails.
        seconds: audio in it, by which the cost of a batch is split.
        unwanted: whether its owner has failed meanwhile, so that nobody reads the answer.
    """

    group: Hashable
    owner: Hashable
    seconds: float

    @property
    def unwanted(self) -> bool: ...


Item = TypeVar("Item", bound=PoolItem)
Result = TypeVar("Result")


@dataclass
class Call:
    """One caller's use of a pool.

    Args:
        elsewhere_s: time that this caller spent on batches, its own and others', and waiting, s; the rest of its
            time went into its own windows.
    """

    elsewhere_s: float = 0.0
    exhausted: bool = False
    asked: int = 0
    given: int = 0
    answers: dict[int, Answer] = field(default_factory=dict)

    @property
    def outstanding(self) -> int:
        """Windows that were handed in and not taken back."""
        return self.asked - self.given


class WindowPool(Generic[Item, Result]):
    """Runs windows of several callers in shared batches.

    Args:
        runner: group → what runs its batches; one per group, kept.
        new_event: makes an event of the device that batches are launched on, see `device_event`; None where a batch is
            done when it was run.

    Usage, in each of any number of threads::

        for answer in pool.run(windows_of_my_tracks()):
            ...
    """

    def __init__(
        self,
        runner: Callable[[Hashable], BatchRunner[Item, Result]],
        new_event: Callable[[], Any] | None = None,
    ) -> None:
        self._make_runner = runner
        self._new_event = new_event
        # All batches are launched by one thread: cuDNN keeps its plans for each thread anew.
        self._launcher = ThreadPoolExecutor(1, "launcher") if new_event is not None else None
        self._runners: dict[Hashable, BatchRunner[Item, Result]] = {}
        self._changed = threading.Condition()
        self._queues: dict[Hashable, deque[tuple[Call, int, Item]]] = {}
        self._calls: list[Call] = []
        self._driven = False
        self._broken: BaseException | None = None
        self._flying: deque[Batch] = deque()
        self._ran: list[Batch] = []
        self._arrived = 0.0
        self._busy = Busy()

    def run(self, items: Iterable[Item], call: Call | None = None) -> Iterator[Answer[Item, Result]]:
        """The answers to ``items``, in their order. Both are made and taken in the caller's thread.

        Args:
            items: are asked for as there is room; the whole of a long track is never waiting.
            call: of this caller, to read its costs from.

        Raises:
            torch.AcceleratorError: the GPU failed; the process cannot go on using it.
        """
        call = call or Call()
        source = iter(items)
        with self._changed:
            self._calls.append(call)
            self._busy.enter()
        try:
            while not (call.exhausted and not call.outstanding):
                if self._broken is not None:
                    raise self._broken
                answer = self._next(call, wait=False)
                if answer is None and not self._timed_drive(call, full=True):
                    if self._may_ask(call):
                        self._ask(call, source)
                    elif not self._timed_drive(call, full=False):
                        answer = self._wait(call)
                if answer is not None:
                    yield answer
        finally:
            self._leave(call)

    def spent(self) -> dict[str, float]:
        """Seconds since the first call: ``device_s`` in batches, ``starved_s`` without callers, ``host_s`` the rest."""
        with self._changed:
            return self._busy.seconds()

    def forget_spent(self) -> None:
        """Begin to count anew: what came before was warming up."""
        with self._changed:
            self._busy = Busy()

    def _leave(self, call: Call) -> None:
        with self._changed:
            self._calls.remove(call)
            for queue in self._queues.values():
                kept = [entry for entry in queue if entry[0] is not call]
                queue.clear()
                queue.extend(kept)
            self._busy.leave()
            self._changed.notify_all()

    def _next(self, call: Call, wait: bool) -> Answer | None:
        """The next answer in order; None where it is not there yet or, without ``wait``, its batch is not done."""
        with self._changed:
            answer = call.answers.get(call.given)
        if answer is None or (answer.batch is not None and not wait and not answer.batch.done()):
            return None
        if answer.batch is not None:
            answer.batch.wait()
        with self._changed:
            del call.answers[call.given]
            call.given += 1
        return answer

    def _may_ask(self, call: Call) -> bool:
        with self._changed:
            return self._has_room(call)

    def _has_room(self, call: Call) -> bool:
        if call.exhausted:
            return False
        most = max((r.batch_items for r in self._runners.values()), default=1)
        # A caller that holds nothing always may: so all of them get on.
        waiting = (WAITING_ON_CPU if self._launcher is None else WAITING) * min(most, LARGEST_BATCH)
        return not call.outstanding or sum(c.outstanding for c in self._calls) < waiting

    def _ask(self, call: Call, source: Iterator[Item]) -> None:
        item = next(source, None)
        with self._changed:
            if item is None:
                call.exhausted = True
            else:
                if item.group not in self._runners:
                    self._runners[item.group] = self._make_runner(item.group)
                self._queues.setdefault(item.group, deque()).append((call, call.asked, item))
                call.asked += 1
                self._arrived = time.perf_counter()

    def _timed_drive(self, call: Call, full: bool) -> bool:
        started = time.perf_counter()
        drove = self._drive(full)
        if drove:
            call.elsewhere_s += time.perf_counter() - started
        return drove

    def _drive(self, full: bool) -> bool:
        """Run a batch, a full one or what there is; false where there is none, or somebody else is at it."""
        with self._changed:
            taken = None if self._driven else self._take_batch(full)
            if taken is None:
                return False
            self._driven = True
        try:
            if self._launcher is None:
                self._run_batch(*taken)
            else:
                self._launcher.submit(self._run_batch, *taken).result()
        except BaseException as error:
            # The windows of other callers are lost with it.
            self._broken = error
            raise
        finally:
            with self._changed:
                self._driven = False
                self._changed.notify_all()
        return True

    def _wait(self, call: Call) -> Answer | None:
        """Wait for the caller's next answer, or for what other callers do."""
        started = time.perf_counter()
        answer = self._next(call, wait=True)
        if answer is None:
            with self._changed:
                if call.given not in call.answers:
                    self._changed.wait(LINGER_S)
        call.elsewhere_s += time.perf_counter() - started
        return answer

    def _take_batch(self, full: bool) -> tuple[Hashable, list[tuple[Call, int, Item]]] | None:
        """The windows of the next batch; fewer than it wants only where nobody is about to bring more."""
        while self._flying and self._flying[0].done():
            self._flying.popleft()
        waiting = {group: queue for group, queue in self._queues.items() if queue}
        if not waiting or len(self._flying) >= IN_FLIGHT:
            return None
        groups = [g for g, queue in waiting.items() if len(queue) >= self._runners[g].batch_items]
        if not groups:
            lingered = time.perf_counter() - self._arrived >= LINGER_S
            coming = not lingered and any(self._has_room(c) for c in self._calls)
            if full or coming or self._flying:
                return None
            groups = list(waiting)
        # Most windows first: others of a rare length may still come.
        group = max(groups, key=lambda g: len(waiting[g]))
        queue, size = waiting[group], self._runners[group].batch_items
        return group, [queue.popleft() for _ in range(min(size, len(queue)))]

    def _run_batch(self, group: Hashable, taken: Sequence[tuple[Call, int, Item]]) -> None:
        wanted = [entry for entry in taken if not entry[2].unwanted]
        answers = self._answers(self._runners[group], [item for _, _, item in wanted])
        with self._changed:
            for (call, number, _), answer in zip(wanted, answers, strict=True):
                call.answers[number] = answer
            for call, number, item in taken:
                call.answers.setdefault(number, Answer(item))

    def _answers(self, runner: BatchRunner, items: list[Item]) -> list[Answer]:
        """Run a batch. If it fails, run it again owner by owner, and let only the culprit carry the error."""
        if not items:
            return []
        self._ran = ran = []
        started = time.perf_counter()
        try:
            values = runner.run(items)
        except torch.AcceleratorError:
            raise  # the GPU context is lost: only a new process can go on
        except Exception as error:  # noqa: BLE001  whatever a network raises, its neighbours go on
            lost = time.perf_counter() - started
            owners = dict.fromkeys(item.owner for item in items)
            if len(owners) == 1:
                answers = [Answer(item, error=error) for item in items]
            else:
                found = {o: iter(self._answers(runner, [i for i in items if i.owner == o])) for o in owners}
                answers = [next(found[item.owner]) for item in items]
        else:
            # What the runner took for itself, and for attempts that did not fit, is shared by all.
            lost = 0.0 if self._new_event else time.perf_counter() - started - sum(b.compute_s for b in ran)
            answers, steps = [], tuple(runner.take_fallbacks())
            for batch in ran:
                for item in items[len(answers) : len(answers) + batch.items]:
                    answers.append(Answer(item, values[len(answers)], batch=batch, fallbacks=steps))
        if self._new_event is None:
            self._busy.device_s += sum(batch.compute_s for batch in ran)
        total = sum(item.seconds for item in items)
        for answer in answers:
            answer.lost_s += max(0.0, lost) * answer.item.seconds / total if total else 0.0
        return answers

    def timed(
        self, forward: Callable[[Sequence[Item], str], Sequence[Result]]
    ) -> Callable[[Sequence[Item], str], Sequence[Result]]:
        """``forward`` for a runner of this pool, with each batch that succeeds put on record."""

        def run(items: Sequence[Item], device: str) -> Sequence[Result]:
            batch = Batch(len(items), sum(item.seconds for item in items))
            events = None
            if self._new_event is not None:
                events = self._new_event(), self._new_event()
                events[0].record()
            started = time.perf_counter()
            results = forward(items, device)
            if events is None:
                batch.compute_s = time.perf_counter() - started
            else:
                events[1].record()
                batch.events = events
                self._flying.append(batch)
                self._busy.watch(batch)
            self._ran.append(batch)
            return results

        return run
