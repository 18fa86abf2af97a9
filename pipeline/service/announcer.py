"""Says what became of songs: answers and offsets together, in one transaction of Kafka.

Either both are there or neither is: whoever reads committed messages sees each answer once, whenever this process is
killed. A thread of its own, because a broker may let it wait.
"""

from __future__ import annotations

import queue
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import wait
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from pipeline.service.asked import Asked
from pipeline.service.client_log import ClientLog
from pipeline.service.kafka import Broker, Outgoing
from pipeline.service.logs import StepLog
from pipeline.service.offsets import Offsets, ahead_of

WAIT_S = 10.0
"""A call to the broker waits so long, at most, before it is tried anew."""
BATCH = 100
FAILURES = 3
"""After so many in a row answers are made one by one, and the service is not ready."""


@dataclass(eq=False)
class Assigned:
    """A partition for as long as it is this consumer's.

    Args:
        offsets: None until the broker has said how far it is done.
        valid: false once it has been taken away.
    """

    topic: str
    partition: int
    offsets: Offsets | None = None
    valid: bool = True


@dataclass(eq=False)
class Claim:
    """A message that was received.

    Args:
        taken: its partition's `Offsets` know that it is in hand.
    """

    assigned: Assigned
    offset: int
    taken: bool = False


@dataclass(frozen=True)
class Announcement:
    """What is to be said of a message that is done; with no messages only its offset is."""

    claim: Claim
    messages: Sequence[Outgoing] = ()
    video_id: str | None = None
    said: Callable[[], None] = field(default=lambda: None)


class Announcer:
    """Takes announcements from any thread, and makes them.

    Args:
        broker: where.
        consumer: whose offsets are committed.
        instance: name of this process among those of its group.
        log: of steps.
        clients: takes what the producer itself says.
    """

    def __init__(
        self,
        broker: Broker,
        consumer: Any,
        instance: str,
        log: StepLog,
        *,
        clients: ClientLog | None = None,
    ) -> None:
        self._clients = clients
        self._broker, self._consumer, self._instance, self._log = broker, consumer, instance, log
        self._queue: queue.SimpleQueue[Announcement] = queue.SimpleQueue()
        self._stop = threading.Event()
        self._producer: Any = None
        self._made: Any = None
        self._failures, self._trouble = 0, ""
        self._membership: Any = None
        # Producers with a call in them that never ends: whoever destroyed one would wait with it.
        self._hanging: list[Any] = []
        self._to_commit: queue.SimpleQueue[list[Any]] = queue.SimpleQueue()
        self._in_doubt = False
        self._pending = 0
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="announcer", daemon=True)

    def start(self) -> None:
        """Begin. Raises `UserError` where the client refuses its settings."""
        self._made = self._broker.producer(self._instance, self._clients)
        self._thread.start()

    def standing(self) -> tuple[bool, str]:
        """Whether answers get through, for `pipeline.service.health`."""
        if not self._thread.is_alive():
            return False, "the thread has ended"
        ok = self._producer is not None and self._failures < FAILURES
        return ok, f"{self.pending} answers wait" + (f": {self._trouble}" if self._trouble else "")

    def put(self, announcement: Announcement) -> None:
        """To be made soon."""
        with self._lock:
            self._pending += 1
        self._queue.put(announcement)

    def member_as(self, membership: Any) -> None:
        """Note as whom the consumer is in its group now. Its own thread says so: another one that asks may wait for
        ever while that one polls."""
        self._membership = membership

    def commit(self) -> None:
        """Have the consumer commit what was said without transactions; its own thread calls this, see `member_as`."""
        while not self._to_commit.empty():
            if offsets := self._to_commit.get():
                self._consumer.commit(offsets=offsets, asynchronous=True)

    def commit_again(self, assigned: Iterable[Assigned]) -> None:
        """As `commit`, and how far all of these are: a commit that nobody waits for may have got lost. Before the
        consumer is closed."""
        if not self._broker.exactly_once:
            self._to_commit.put(
                [_position(a, ()) for a in assigned if a.offsets is not None and a.offsets.begun]
            )
        self.commit()

    @property
    def pending(self) -> int:
        """Announcements that are not made yet."""
        with self._lock:
            return self._pending

    def close(self, wait_s: float) -> None:
        """End, once what is waiting is said, or after ``wait_s``."""
        self._stop.set()
        self._thread.join(wait_s)

    def _run(self) -> None:
        waiting: list[Announcement] = []
        while True:
            waiting += self._taken(block=not waiting)
            try:
                if self._producer is not None:
                    self._producer.poll(0)  # what it has to say would pile up
                self._say(waiting)
                self._failures, self._trouble = 0, ""
            except Exception as error:  # noqa: BLE001  whatever a broker says, answers are not lost: they are said again
                self._failures += 1
                self._in_doubt, self._trouble = True, _words(error)
                self._log.step("announce", level="warning", error=self._trouble, attempt=self._failures)
                # One that no broker takes must not keep the others: next time another one is the first.
                waiting[:] = [*waiting[1:], *waiting[:1]]
                time.sleep(min(5.0, 0.1 * 2 ** min(self._failures, 6)))
            if self._stop.is_set() and not waiting and self._queue.empty():
                return

    def _taken(self, block: bool) -> list[Announcement]:
        found = []
        with suppress(queue.Empty):
            if block:
                found.append(self._queue.get(timeout=0.2))
            while len(found) < BATCH:
                found.append(self._queue.get_nowait())
        return found

    def _say(self, waiting: list[Announcement]) -> None:
        """Say what can be said, and take it out of ``waiting``; one at a time after so many failures. Raises what the
        client raises."""
        if self._in_doubt:
            self._settle_doubt()
            waiting[:] = self._not_said(waiting)
        else:
            self._ready()
        while waiting:
            some = waiting[: 1 if self._failures >= FAILURES else BATCH]
            self._say_some(some)
            waiting[:] = waiting[len(some) :]

    def _say_some(self, waiting: list[Announcement]) -> None:
        # Taken before it is seen whose partitions still are ours: what is taken away after that makes it too old.
        group = self._membership if self._broker.exactly_once else None
        ours = [a for a in waiting if a.claim.assigned.valid]
        if ours:
            self._publish(ours, group)
        self._forget(waiting, ours)

    def _publish(self, ours: Sequence[Announcement], group: Any) -> None:
        by_partition = _by_partition(ours)
        producer = self._producer
        offsets = [_position(assigned, offsets) for assigned, offsets in by_partition.items()]
        if group is not None:
            producer.begin_transaction()
        self._in_doubt = True
        refused: list[str] = []

        def delivered(error: Any, message: Any) -> None:
            if error is not None:
                refused.append(error.str())

        for announcement in ours:
            for message in announcement.messages:
                headers = list(message.headers)
                producer.produce(
                    message.topic, message.value, message.key, headers=headers, on_delivery=delivered
                )
        if group is not None:
            self._send_offsets(producer, offsets, group)
            producer.commit_transaction(WAIT_S)
        else:
            if producer.flush(WAIT_S) or refused:
                raise TimeoutError(refused[0] if refused else "the broker does not take the answers")
            # Not waited for: where it gets lost the next one says the same and more, and after a crash an answer
            # comes twice.
            self._to_commit.put(offsets)
        self._in_doubt = False
        for assigned, done in by_partition.items():
            assigned.offsets.finish(done)

    def _send_offsets(self, producer: Any, offsets: Sequence[Any], group: Any) -> None:
        """In a thread of its own, because librdkafka may forget its timeout where the group's coordinator was away (its
        issues 5511 and 5456): the next producer of this name fences the one that hangs."""
        asked = Asked(lambda: producer.send_offsets_to_transaction(list(offsets), group, WAIT_S)).begin()
        wait([asked], WAIT_S + 1.0)
        if not asked.done():
            self._hanging.append(producer)
            self._producer = None
            raise TimeoutError("the group's coordinator does not answer")
        asked.result()

    def _forget(self, waiting: Sequence[Announcement], said: Sequence[Announcement]) -> None:
        with self._lock:
            self._pending -= len(waiting)
        for announcement in said:
            announcement.said()
        lost = [a for a in waiting if a not in said]
        for announcement in lost:
            self._log.step("not_announced", announcement.video_id, reason="the partition was taken away")

    def _ready(self) -> None:
        if self._producer is None:
            producer, self._made = self._made or self._broker.producer(self._instance, self._clients), None
            if self._broker.exactly_once:
                producer.init_transactions(WAIT_S)
            self._producer = producer

    def _settle_doubt(self) -> None:
        """Have the transaction before ended, one way or the other: a new producer of the same name sees to that."""
        producer, self._producer = self._producer, None
        if producer is not None:
            with suppress(Exception):  # it may be too late for that, and then there is nothing to abort
                if self._broker.exactly_once:
                    producer.abort_transaction(WAIT_S)
            producer.purge()
            producer.flush(1.0)
        self._ready()

    def _not_said(self, waiting: list[Announcement]) -> list[Announcement]:
        """Without those that the broker knows: the transaction may have ended well, and its answer got lost."""
        by_partition = _by_partition([a for a in waiting if a.claim.assigned.valid])
        if not by_partition:
            self._in_doubt = False
            return waiting
        known: set[int] = set()
        committed = self._consumer.committed([_partition(a) for a in by_partition], WAIT_S)
        for (assigned, offsets), found in zip(by_partition.items(), committed, strict=True):
            if found.error is not None:
                raise RuntimeError(found.error.str())
            if found.offset < 0:  # nothing is committed yet
                continue
            ahead = ahead_of(found.offset, found.metadata)
            done = [offset for offset in offsets if offset < found.offset or offset in ahead]
            assigned.offsets.finish(done)
            known |= {id(a) for a in waiting if a.claim.assigned is assigned and a.claim.offset in done}
        self._in_doubt = False
        said = [a for a in waiting if id(a) in known]
        self._forget(said, said)
        return [a for a in waiting if id(a) not in known]


def _by_partition(announcements: Sequence[Announcement]) -> dict[Assigned, list[int]]:
    found: dict[Assigned, list[int]] = defaultdict(list)
    for announcement in announcements:
        found[announcement.claim.assigned].append(announcement.claim.offset)
    return found


def _partition(assigned: Assigned) -> Any:
    from confluent_kafka import TopicPartition

    return TopicPartition(assigned.topic, assigned.partition)


def _position(assigned: Assigned, done: Sequence[int]) -> Any:
    from confluent_kafka import TopicPartition

    offset, metadata = assigned.offsets.commit_of(done)
    return TopicPartition(assigned.topic, assigned.partition, offset, metadata)


def _words(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error)[:300]}"
