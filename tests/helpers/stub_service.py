"""Members of one group of the karaoke service on the mock cluster, with a stub in the place of the work on songs.

What takes messages, remembers offsets and makes answers is the service's own.
"""

from __future__ import annotations

import io
import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from confluent_kafka import Consumer, TopicPartition

from helpers.karaoke_service import REQUESTS, RESULTS, TOPICS, committed, messages, send
from helpers.mock_kafka import MockBroker, MockCluster, Witness
from pipeline.service.announcer import Announcement, Announcer
from pipeline.service.crew import Bench, Crew
from pipeline.service.health import ServiceState
from pipeline.service.intake import Intake, Task
from pipeline.service.kafka import Outgoing, Topics
from pipeline.service.logs import StepLog
from pipeline.service.metrics import Metrics
from pipeline.service.offsets import ahead_of

GROUP = "singers"
TRANSACTIONS_AT, GROUP_AT = 2, 3
"""Brokers that coordinate; the third leads nothing that is read or written, unless there are more partitions."""
QUICK: Mapping[str, Any] = {
    "session.timeout.ms": 6000,
    "heartbeat.interval.ms": 100,
    "reconnect.backoff.ms": 20,
    "reconnect.backoff.max.ms": 200,
    "retry.backoff.ms": 20,
}
SHORT: Mapping[str, Any] = {"session.timeout.ms": 2000}
"""For what has the group shared out anew: the mock lets everybody wait for a second less than that."""
KIP_848: Mapping[str, Any] = {
    "group.protocol": "consumer",
    "session.timeout.ms": None,
    "heartbeat.interval.ms": None,
}
WAIT_S = 30.0


def until(true: Callable[[], object], what: str | Callable[[], str]) -> None:
    """Wait until ``true`` is. Raises ``AssertionError`` with ``what`` where it is not in time."""
    end = time.monotonic() + WAIT_S
    while not true():
        assert time.monotonic() < end, what() if callable(what) else what
        time.sleep(0.02)


class StubPlace:
    """In the place of a process that songs are worked on in: there is none."""

    def memory_bytes(self) -> int:
        """See `pipeline.engine.one_file.Place`."""
        return 0

    def end(self) -> None:
        """See `pipeline.engine.one_file.Place`."""


class StubSongs:
    """In the place of the work: a song is done at once, or as soon as it is no longer among those that are ``held``."""

    def __init__(self) -> None:
        self.held: set[str] = set()
        self.begun: list[str] = []

    def __call__(self, task: Task, bench: Bench) -> Announcement:
        song = json.loads(task.value)["video_id"]
        self.begun.append(song)
        while song in self.held:
            bench.going_on()
            time.sleep(0.01)
        claim = task.claim
        value = {"video_id": song, "partition": claim.assigned.partition, "offset": claim.offset}
        return Announcement(claim, [Outgoing(RESULTS, json.dumps(value).encode(), task.key)], song)


class Rounds(ServiceState):
    """Counts how often the poll loop comes round."""

    rounds = 0

    def beat(self) -> None:
        """See `ServiceState`."""
        super().beat()
        self.rounds += 1


class Member:
    """What takes requests and answers them in one process of the service.

    Args:
        broker: of this member alone.
        name: of the process.
        hands: so many songs are in hand at once, at most.
    """

    def __init__(self, broker: MockBroker, name: str, hands: int = 2) -> None:
        self.log, self.songs, self.state = io.StringIO(), StubSongs(), Rounds()
        log, metrics = StepLog(self.log, service="test", instance=name), Metrics()
        consumer = broker.consumer(name)
        self.announcer = Announcer(broker, consumer, name, log)
        places = [StubPlace() for _ in range(hands)]
        self.crew = Crew(places, self.songs, self.announcer, metrics=metrics, log=log)
        self.intake = Intake(
            consumer, Topics(), self.crew, self.announcer, state=self.state, metrics=metrics, log=log
        )
        self._stop, self._patient = threading.Event(), True
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._run, name=f"intake-{name}")

    def start(self) -> Member:
        """Begin; songs are taken once there are partitions."""
        self.announcer.start()
        self.crew.start(lambda bench: None)
        self._thread.start()
        return self

    def leave(self, patient: bool = True) -> None:
        """End as the service does; without patience what is in hand is put down."""
        self._patient = patient
        self._stop.set()
        self._thread.join(30)
        assert not self._thread.is_alive(), self.log.getvalue()
        self.crew.close()
        self.announcer.close(10.0)
        self.intake.close()
        # A client that somebody still has goes on looking for its brokers, such as the traceback of a test that failed.
        del self.announcer, self.crew, self.intake
        assert self._error is None, self._error

    def steps(self, step: str) -> list[dict[str, Any]]:
        """Lines of its log."""
        found = [json.loads(line) for line in self.log.getvalue().splitlines()]
        return [line for line in found if line["step"] == step]

    def rounds(self, count: int) -> None:
        """Wait until the loop has come round so often."""
        before = self.state.rounds
        until(lambda: self.state.rounds >= before + count, "the loop comes round")

    def _run(self) -> None:
        try:
            self.intake.run(self._stop, self._drained)
        except Exception as error:  # noqa: BLE001  whoever joins this thread says it
            self._error = error

    def _drained(self) -> bool:
        return not self._patient or (not self.crew.busy() and not self.announcer.pending)


class Scene:
    """Members of one group, whoever asks them, and whoever reads what they say.

    Args:
        cluster: on which nothing is yet.
        exactly_once: see `pipeline.service.kafka.Broker`.
        partitions: of the requests.
    """

    def __init__(self, cluster: MockCluster, *, exactly_once: bool = True, partitions: int = 2) -> None:
        self._cluster, self._exactly_once, self._partitions = cluster, exactly_once, partitions
        self._asked: Counter[int] = Counter()
        self.witness, self.members = Witness(), list[Member]()
        for topic in TOPICS:
            cluster.create_topic(topic, partitions if topic == REQUESTS else 1)
        cluster.coordinator("group", GROUP, GROUP_AT)

    def member(
        self, name: str = "one", *, hands: int = 2, options: Mapping[str, Any] | None = None
    ) -> Member:
        """Have one more begin; of ``options`` those that are None are left out."""
        self._cluster.coordinator("transaction", f"{GROUP}.{name}", TRANSACTIONS_AT)
        told = {key: value for key, value in {**QUICK, **(options or {})}.items() if value is not None}
        told.setdefault("log_level", 0)  # brokers are away here on purpose
        broker = MockBroker(self._cluster.bootstrap, GROUP, told, self._exactly_once, witness=self.witness)
        self.members.append(Member(broker, name, hands))
        return self.members[-1].start()

    def ask(self, count: int, partition: int) -> list[str]:
        """Send requests; returns the names of their songs."""
        before = self._asked[partition]
        self._asked[partition] += count
        songs = [f"{partition}-{number}" for number in range(before, before + count)]
        send(self._cluster.bootstrap, [{"video_id": song} for song in songs], partition=partition)
        return songs

    def answered(self, count: int | None = None) -> None:
        """Wait until so many requests are answered; without a number all of them."""
        wanted = self._asked.total() if count is None else count
        until(lambda: len(self.witness.answers) >= wanted, lambda: f"{wanted} answers, {self.how()}")

    def done(self) -> dict[int, int]:
        """Partition → what the group has committed."""
        return committed(self._cluster.bootstrap, GROUP)

    def stored(self) -> dict[int, tuple[int, str]]:
        """Partition → what the mock has, with the metadata beside it."""
        asker = Consumer({"bootstrap.servers": self._cluster.bootstrap, "group.id": GROUP})
        try:
            asked = [TopicPartition(REQUESTS, number) for number in range(self._partitions)]
            return {p.partition: (p.offset, p.metadata or "") for p in asker.committed(asked, 10)}
        finally:
            asker.close()

    def check(self) -> None:
        """Nobody is left out, nobody is answered twice, and nothing was committed before it was done."""
        self.answered()
        wanted = {partition: self._asked[partition] for partition in range(self._partitions)}
        until(lambda: self.done() == wanted, lambda: f"{wanted} are done, {self.how()}")
        for member in self.members:
            member.leave()
        self.members.clear()
        found = {(m.topic(), m.partition(), m.offset()): m for m in messages(self._cluster.bootstrap)}
        seen = {where: json.loads(m.value()) for where, m in found.items() if where in self.witness.answers}
        songs = [f"{p}-{n}" for p in range(self._partitions) for n in range(self._asked[p])]
        assert sorted(answer["video_id"] for answer in seen.values()) == sorted(songs)
        for commit in self.witness.commits:
            told = {(seen[a]["partition"], seen[a]["offset"]) for a in commit.answers if a in seen}
            ahead = ahead_of(commit.offset, commit.metadata)
            assert {(commit.partition, n) for n in {*range(commit.offset), *ahead}} <= told, commit

    def how(self) -> str:
        """The ends of all logs."""
        return "\n".join(member.log.getvalue()[-2000:] for member in self.members)
