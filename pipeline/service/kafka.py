"""Kafka's clients as the service wants them, and what of its messages travels in headers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta, timezone
from typing import Any

from pipeline.errors import UserError
from pipeline.optional import extra
from pipeline.service.client_log import ClientLog
from pipeline.service.messages import timestamp

ATTEMPT, NOT_BEFORE, REASON, CODE, CUT = "attempt", "not_before", "reason", "error_code", "cut_from_bytes"
"""Headers of a message on the retry topic; ``reason`` and ``error_code`` are those of dead letters, too, and
``cut_from_bytes`` of one that was too long to be kept whole."""
OWN = frozenset({ATTEMPT, NOT_BEFORE, REASON, CODE, CUT})
HEADERS_BYTES = 16 << 10
"""Of a request with more than that in headers none travels along."""
Header = tuple[str, bytes | None]
OF_GROUPS = (
    "group.",
    "partition.assignment.",
    "session.timeout.",
    "heartbeat.interval.",
    "max.poll.interval.",
)
"""Beginnings of the options that only consumers have; other clients say so in the log."""
TRANSACTION_MS = 10_000
"""Of a service that was killed, an open transaction hides what came after it for so long, at most."""


@dataclass(frozen=True)
class Topics:
    """Names of topics."""

    requests: str = "audio.process.requested"
    results: str = "audio.vocals_processed"
    retries: str = "audio.process.retry"
    dead_letters: str = "audio.process.dead"

    @property
    def all(self) -> tuple[str, ...]:
        """All four."""
        return (self.requests, self.results, self.retries, self.dead_letters)


@dataclass(frozen=True)
class Outgoing:
    """A message to be sent."""

    topic: str
    value: bytes
    key: bytes | None = None
    headers: Sequence[Header] = ()


@dataclass(frozen=True)
class Broker:
    """How Kafka is reached.

    Args:
        servers: ``HOST:PORT``, several with commas.
        group: of the consumers, which share out the partitions.
        options: of librdkafka, for both clients, such as ``security.protocol``; they win over ours.
        exactly_once: answers and offsets in one transaction; where a broker has none, an answer may come twice after
            a crash.
    """

    servers: str
    group: str = "soundmill-karaoke"
    options: Mapping[str, Any] = field(default_factory=dict)
    exactly_once: bool = True

    def consumer(self, instance: str, log: ClientLog | None = None) -> Any:
        """A consumer that commits nothing by itself.

        Args:
            log: takes what the client itself says; None leaves that to librdkafka, which writes to standard error.

        Raises:
            UserError: the client refuses its settings, or is not here.
        """
        options = {
            "bootstrap.servers": self.servers,
            "group.id": self.group,
            "client.id": instance,
            "enable.auto.commit": False,
            "enable.auto.offset.store": False,
            "auto.offset.reset": "earliest",
            "isolation.level": "read_committed",
            "partition.assignment.strategy": "cooperative-sticky",
            "session.timeout.ms": 10_000,
            "topic.metadata.refresh.interval.ms": 30_000,
            **self.options,
        }
        if options.get("group.protocol") == "consumer":  # the broker decides these
            for name in ("partition.assignment.strategy", "session.timeout.ms"):
                if name not in self.options:
                    del options[name]
        # The other one would say of brokers what the member says, and nobody polls it for that.
        quiet = {"client.id": f"{instance}-asks", "log_level": 2}
        member = _client("Consumer", options, log)
        return _Consumer(member, _client("Consumer", {**options, **quiet}), log)

    def producer(self, instance: str, log: ClientLog | None = None) -> Any:
        """A producer that repeats nothing.

        Args:
            log: as for `consumer`; such a producer is to be polled while it is idle, too: what it has to say piles up.

        Raises:
            UserError: as `consumer`.
        """
        common = self._not_of_groups()
        options = {
            "bootstrap.servers": self.servers,
            "client.id": instance,
            "acks": "all",
            "enable.idempotence": True,
            "linger.ms": 0,
            **common,
        }
        if self.exactly_once:
            options |= {
                "transactional.id": f"{self.group}.{instance}",
                "transaction.timeout.ms": TRANSACTION_MS,
            }
        return _client("Producer", options, log)

    def _not_of_groups(self) -> dict[str, Any]:
        return {name: value for name, value in self.options.items() if not name.startswith(OF_GROUPS)}

    def admin(self) -> Any:
        """A client that makes topics. Raises `UserError`."""
        common = self._not_of_groups()
        return _client("admin.AdminClient", {"bootstrap.servers": self.servers, **common})


class _Consumer:
    """A member of the group, and a client that never becomes one and asks how far the group is done.

    A client lets in one thread at a time, and leaves the one that polls hardly a moment for others: of the member
    itself they had to wait for seconds, or for as long as there are rebalances.
    """

    def __init__(self, member: Any, asks: Any, log: ClientLog | None) -> None:
        self._member, self._asks, self._log = member, asks, log

    def __getattr__(self, name: str) -> Any:
        return getattr(self._member, name)

    def poll(self, timeout_s: float) -> Any:
        """The next message, or None after so long. What the client has to say is said meanwhile."""
        if self._log is not None:
            self._log.tick()
        return self._member.poll(timeout_s)

    def committed(self, partitions: Sequence[Any], timeout_s: float) -> list[Any]:
        """Of the group, with the metadata beside it; any thread may ask. Raises what the client raises."""
        self._asks.poll(0)  # what a login wants to be done
        return self._asks.committed(list(partitions), timeout_s)

    def close(self) -> None:
        """Leave the group."""
        self._member.close()
        self._asks.close()


def _client(kind: str, options: Mapping[str, Any], log: ClientLog | None = None) -> Any:
    try:
        import confluent_kafka
        import confluent_kafka.admin
    except ImportError:
        raise UserError(
            "the service needs confluent-kafka",
            "it talks to Kafka through it",
            extra("service"),
        ) from None
    module = confluent_kafka
    *path, name = kind.split(".")
    for part in path:
        module = getattr(module, part)
    arguments = {"logger": log} if log is not None else {}
    try:
        return getattr(module, name)(dict(options), **arguments)
    except confluent_kafka.KafkaException as error:
        raise UserError(
            "Kafka's client refuses its settings", error.args[0].str(), "service.kafka_options={}"
        ) from None


def make_topics(broker: Broker, topics: Sequence[str], partitions: int = 1, timeout_s: float = 30.0) -> None:
    """Make the topics that are not there yet. Raises what the broker says."""
    from confluent_kafka import KafkaError, KafkaException
    from confluent_kafka.admin import NewTopic

    wanted = [NewTopic(name, num_partitions=partitions, replication_factor=-1) for name in topics]
    admin = broker.admin()  # what it answers goes with it
    for future in admin.create_topics(wanted, request_timeout=timeout_s).values():
        try:
            future.result()
        except KafkaException as error:
            if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
                raise


@dataclass(frozen=True)
class Journey:
    """What the headers of a message say.

    Args:
        attempt: which one this is, from 1.
        not_before: it is to wait until then; None for not at all.
        code: why the attempt before failed; empty of the first.
        reason: the same in words.
    """

    attempt: int = 1
    not_before: datetime | None = None
    code: str = ""
    reason: str = ""

    def due_in(self, now: datetime) -> float:
        """Seconds until it is due; 0 where it is."""
        return max(0.0, (self.not_before - now).total_seconds()) if self.not_before else 0.0

    def within(self, seconds: float, now: datetime) -> Journey:
        """The same, waiting for so long at most: another machine's clock may be wrong."""
        latest = now + timedelta(seconds=seconds)
        return replace(self, not_before=min(self.not_before, latest)) if self.not_before else self


def journey_of(headers: Sequence[Header] | None) -> Journey:
    """What a message's headers say; what cannot be read says nothing."""
    found = {name: value.decode(errors="replace") for name, value in headers or () if value is not None}
    try:
        attempt = max(1, int(found.get(ATTEMPT, "1")))
    except ValueError:
        attempt = 1
    try:
        moment = (
            datetime.fromisoformat(found[NOT_BEFORE].replace("Z", "+00:00")) if NOT_BEFORE in found else None
        )
    except ValueError:
        moment = None
    if moment is not None and moment.tzinfo is None:
        moment = moment.replace(tzinfo=timezone.utc)
    return Journey(attempt, moment, found.get(CODE, ""), found.get(REASON, ""))


def travelling(headers: Sequence[Header] | None) -> tuple[Header, ...]:
    """The headers of a request that whatever is said of it has as well, such as ``traceparent``: all but those that
    are called as the service's own, in their order."""
    found = tuple((name, value) for name, value in headers or () if name not in OWN)
    return (
        found if sum(len(name.encode()) + len(value or b"") for name, value in found) <= HEADERS_BYTES else ()
    )


def headers_of(attempt: int, wait_s: float, code: str, reason: str) -> list[tuple[str, bytes]]:
    """Headers of a message that is to be tried again."""
    due = timestamp(datetime.now(timezone.utc) + timedelta(seconds=wait_s))
    words = {ATTEMPT: str(attempt), NOT_BEFORE: due, CODE: code, REASON: reason}
    return [(name, text.encode()) for name, text in words.items()]
