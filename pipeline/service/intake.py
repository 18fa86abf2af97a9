"""Takes messages from Kafka: a loop that never waits for a song, pauses partitions while hands are full, and gives up
what is taken away."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any, Protocol

from pipeline.service.announcer import Announcer, Assigned, Claim
from pipeline.service.health import ServiceState
from pipeline.service.kafka import Header, Journey, Topics, journey_of, travelling
from pipeline.service.logs import StepLog
from pipeline.service.metrics import Metrics
from pipeline.service.offsets import Offsets, ahead_of

POLL_S = 0.1
BUSY_POLL_S = 0.02
"""While messages are held here: the next one is begun so soon after hands are free."""
COMMITTED_S = 10.0
AHEAD = 8
"""So many messages that could be begun are held here; beyond that partitions are paused."""
KEY_BYTES = 1024
"""The key of a longer one does not travel along."""
PENDING = 200
"""So many answers may wait for a broker before no more songs are begun."""


@dataclass(frozen=True)
class Task:
    """A message that is to be worked on.

    Args:
        headers: those that travel along, see `pipeline.service.kafka.travelling`.
    """

    claim: Claim
    value: bytes | None
    key: bytes | None
    journey: Journey
    headers: tuple[Header, ...] = ()


class Hands(Protocol):
    """Who works on tasks."""

    def room(self) -> int:
        """How many more tasks can be begun."""

    def begin(self, task: Task) -> None:
        """Work on a task; its announcement is made when it is done."""

    def busy(self) -> int:
        """How many tasks are in hand."""


class Intake:
    """The consumer's loop.

    Args:
        consumer: not subscribed yet.
        topics: the requests and the retries are read.
        hands: what does the work.
        announcer: what says what became of it.
        state, metrics, log: where it says how it is.
        longest_wait_s: a message on the retry topic waits so long at most.
    """

    def __init__(
        self,
        consumer: Any,
        topics: Topics,
        hands: Hands,
        announcer: Announcer,
        *,
        state: ServiceState,
        metrics: Metrics,
        log: StepLog,
        longest_wait_s: float = 3600.0,
    ) -> None:
        self._longest_wait_s = longest_wait_s
        self._consumer, self._topics = consumer, topics
        self._hands, self._announcer = hands, announcer
        self._state, self._metrics, self._log = state, metrics, log
        self._assigned: dict[tuple[str, int], Assigned] = {}
        self._paused: set[tuple[str, int]] = set()
        self._backlog: list[Task] = []
        self._unasked: list[Assigned] = []
        self._asking: list[tuple[list[Assigned], Future]] = []
        self._asker = ThreadPoolExecutor(1, "committed")
        self._lag_at = 0.0
        self._seen_error = ""

    def run(self, stop: threading.Event, drained: Callable[[], bool]) -> None:
        """Until ``stop`` is set, and then until ``drained`` says so: what is in hand stays ours meanwhile."""
        self._consumer.subscribe(
            [self._topics.requests, self._topics.retries],
            on_assign=self._on_assign,
            on_revoke=self._on_revoke,
            on_lost=self._on_revoke,
        )
        while not (stop.is_set() and drained()):
            self._state.beat()
            message = self._consumer.poll(BUSY_POLL_S if self._backlog else POLL_S)
            self._announcer.member_as(self._consumer.consumer_group_metadata())
            self._announcer.commit()
            if message is not None:
                self._received(message)
            self._learn_offsets()
            if not stop.is_set():
                self._begin_what_is_due()
            self._hold_or_go_on(stop.is_set())
            self._note_lag()

    def close(self) -> None:
        """Leave the group: what is not done is somebody else's at once."""
        self._asker.shutdown(cancel_futures=True)
        self._announcer.commit_again(self._assigned.values())
        self._consumer.close()

    def assignment(self) -> tuple[bool, str]:
        """Whether partitions are assigned, for `pipeline.service.health`. No partition may be left for this one."""
        found = len(self._assigned)
        return bool(found), f"{found} partitions"

    def _received(self, message: Any) -> None:
        if message.error() is not None:
            self._say_once(message.error().str())
            if message.error().fatal():
                raise RuntimeError(f"Kafka's client cannot go on: {message.error().str()}")
            return
        self._seen_error = ""
        assigned = self._assigned.get((message.topic(), message.partition()))
        if assigned is None:  # on its way while it was taken away
            return
        claim = Claim(assigned, message.offset())
        # Of a request nobody says such things but who sends it, and he might say anything.
        again = message.topic() == self._topics.retries
        journey = journey_of(message.headers()) if again else Journey()
        journey = journey.within(self._longest_wait_s, datetime.now(timezone.utc))
        key = message.key() if len(message.key() or b"") <= KEY_BYTES else None
        self._backlog.append(Task(claim, message.value(), key, journey, travelling(message.headers())))

    def _begin_what_is_due(self) -> None:
        """Hand over what can be begun, in the order in which it came."""
        now, left = datetime.now(timezone.utc), []
        for task in self._backlog:
            assigned = task.claim.assigned
            if not assigned.valid:
                continue
            if assigned.offsets is None:
                left.append(task)
            elif not self._take(task):  # done before this consumer got it
                self._log.step("done_already", offset=task.claim.offset, partition=assigned.partition)
            elif task.journey.due_in(now) or not self._may_begin():
                left.append(task)
            else:
                self._hands.begin(task)
        self._backlog = left

    def _take(self, task: Task) -> bool:
        """Whether a message is still to be done. From now on no offset behind it is committed before it is done, also
        while it waits here: one that came later may be begun before."""
        claim = task.claim
        claim.taken = claim.taken or claim.assigned.offsets.take(claim.offset)
        return claim.taken

    def _may_begin(self) -> bool:
        return self._hands.room() > 0 and self._announcer.pending < PENDING

    def _hold_or_go_on(self, stopping: bool) -> None:
        """Pause what nothing is to be taken of now, and resume the rest.

        A few messages are held here while all hands are full: what is resumed takes the client half a second to come.
        """
        now = datetime.now(timezone.utc)
        early = [t.claim.assigned for t in self._backlog if t.journey.due_in(now)]
        full = stopping or len(self._backlog) - len(early) >= AHEAD
        held = {key for key, a in self._assigned.items() if full or a.offsets is None or a in early}
        self._paused &= self._assigned.keys()
        self._paused |= self._switched(self._consumer.pause, held - self._paused)
        self._paused -= self._switched(self._consumer.resume, self._paused - held)

    def _switched(self, do: Callable[[list[Any]], None], keys: set[tuple[str, int]]) -> set[tuple[str, int]]:
        """The partitions with which that was done; the others are taken away this moment, or are tried again."""
        from confluent_kafka import KafkaException, TopicPartition

        done = set()
        for key in keys:
            try:
                do([TopicPartition(*key)])
            except KafkaException as error:
                self._say_once(str(error))
            else:
                done.add(key)
        return done

    def _on_assign(self, consumer: Any, partitions: Sequence[Any]) -> None:
        given = []
        for partition in partitions:
            key = (partition.topic, partition.partition)
            given.append(self._assigned.setdefault(key, Assigned(*key)))
            self._paused.discard(key)
        self._log.step("assigned", partitions=[f"{a.topic}[{a.partition}]" for a in given])
        # Not from in here: while a callback runs the client may never answer.
        self._unasked += given

    def _on_revoke(self, consumer: Any, partitions: Sequence[Any]) -> None:
        self._announcer.commit()
        for partition in partitions:
            key = (partition.topic, partition.partition)
            assigned = self._assigned.pop(key, None)
            if assigned is not None:
                assigned.valid = False
            self._paused.discard(key)
            self._metrics.revoked(*key)
        self._log.step("revoked", partitions=[f"{p.topic}[{p.partition}]" for p in partitions])

    def _ask(self, assigned: list[Assigned]) -> None:
        """Have a thread ask how far these are done: the broker may take its time."""
        from confluent_kafka import TopicPartition

        asked = [TopicPartition(a.topic, a.partition) for a in assigned]
        self._asking.append((assigned, self._asker.submit(self._consumer.committed, asked, COMMITTED_S)))

    def _learn_offsets(self) -> None:
        unasked, self._unasked = [a for a in self._unasked if a.valid], []
        if unasked:
            self._ask(unasked)
        asking, self._asking = self._asking, []
        for assigned, answer in asking:
            if not any(a.valid for a in assigned):  # nobody wants to know, and others wait behind it
                answer.cancel()
                continue
            if not answer.done():
                self._asking.append((assigned, answer))
                continue
            try:
                found = answer.result()
            except Exception as error:  # noqa: BLE001  the broker is away, or is shared out anew: it is asked again
                self._say_once(str(error))
                self._unasked += assigned
                continue
            for one, position in zip(assigned, found, strict=True):
                if position.error is not None:
                    self._unasked.append(one)
                else:
                    one.offsets = Offsets(ahead_of(position.offset, position.metadata))

    def _note_lag(self) -> None:
        from confluent_kafka import KafkaException, TopicPartition

        if time.monotonic() - self._lag_at < 1.0:
            return
        self._lag_at = time.monotonic()
        for key in self._assigned:
            try:
                partition = TopicPartition(*key)
                _, high = self._consumer.get_watermark_offsets(partition, cached=True)
                (position,) = self._consumer.position([partition])
            except KafkaException:
                continue
            if high >= 0 and position.offset >= 0:
                self._metrics.lag(*key, high - position.offset)

    def _say_once(self, error: str) -> None:
        if error != self._seen_error:
            self._seen_error = error
            self._log.step("broker", level="warning", error=error)
