"""The mock cluster inside librdkafka, which errors are injected into and whose brokers go down and up; without Java.

The brokers are threads of this process that listen at ports of this machine, in the same shared object that
confluent-kafka is linked with. As tried with librdkafka 2.16, the mock knows less than a broker:

- Offsets that a transaction commits are acknowledged and dropped; `MockBroker` has the consumer commit them afterwards.
- Whoever reads committed messages gets those of open and of aborted transactions as well, although markers are written;
  `Witness` knows which were committed.
- A producer's sequence numbers are not looked at: of messages that are under way at once, those behind one that was
  refused are taken, and the client then thinks that one was, too.
- No producer is fenced by another one of the same ``transactional.id``, and no generation of a group by a later one
  where offsets are sent to a transaction: such answers have to be injected.
- Topics are not made by an admin client. What is down does not lose its leadership, and is left out of the metadata.
- A group of the classic protocol is shared out anew one second before its session timeout has passed, whoever has come
  by then, and takes no offsets meanwhile. Cooperative sharing works, as it is the clients who do it. The protocol of
  KIP-848 works with one assignor.

What needs any of these for its proof is tested with real brokers.
"""

from __future__ import annotations

import ctypes
import queue
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import Path
from types import TracebackType
from typing import Any

import confluent_kafka

from pipeline.service.kafka import Broker

ALL = -1
"""Instead of a broker's number."""
PRODUCER = 0


class Api(IntEnum):
    """Kinds of requests, by Kafka's numbers."""

    PRODUCE = 0
    FETCH = 1
    OFFSET_COMMIT = 8
    OFFSET_FETCH = 9
    FIND_COORDINATOR = 10
    JOIN_GROUP = 11
    HEARTBEAT = 12
    SYNC_GROUP = 14
    INIT_PRODUCER_ID = 22
    ADD_PARTITIONS_TO_TXN = 24
    ADD_OFFSETS_TO_TXN = 25
    END_TXN = 26
    TXN_OFFSET_COMMIT = 28
    CONSUMER_GROUP_HEARTBEAT = 68


_POINTER, _TEXT, _INT, _SIZE = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int, ctypes.c_size_t
_POINTERS = ctypes.POINTER(ctypes.c_void_p)
_SIGNATURES: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "conf_new": (_POINTER, ()),
    "conf_set": (_INT, (_POINTER, _TEXT, _TEXT, _TEXT, _SIZE)),
    "new": (_POINTER, (_INT, _POINTER, _TEXT, _SIZE)),
    "destroy": (None, (_POINTER,)),
    "mock_cluster_new": (_POINTER, (_POINTER, _INT)),
    "mock_cluster_destroy": (None, (_POINTER,)),
    "mock_cluster_bootstraps": (_TEXT, (_POINTER,)),
    "mock_topic_create": (_INT, (_POINTER, _TEXT, _INT, _INT)),
    "mock_push_request_errors_array": (
        None,
        (_POINTER, ctypes.c_int16, _SIZE, ctypes.POINTER(ctypes.c_int)),
    ),
    "mock_broker_set_down": (_INT, (_POINTER, ctypes.c_int32)),
    "mock_broker_set_up": (_INT, (_POINTER, ctypes.c_int32)),
    "mock_broker_set_rtt": (_INT, (_POINTER, ctypes.c_int32, _INT)),
    "mock_coordinator_set": (_INT, (_POINTER, _TEXT, _TEXT, ctypes.c_int32)),
    "mock_partition_set_leader": (_INT, (_POINTER, _TEXT, ctypes.c_int32, ctypes.c_int32)),
    "mock_group_initial_rebalance_delay_ms": (None, (_POINTER, ctypes.c_int32)),
    "mock_set_group_consumer_heartbeat_interval_ms": (None, (_POINTER, _INT)),
    "mock_start_request_tracking": (None, (_POINTER,)),
    "mock_get_requests": (_POINTERS, (_POINTER, ctypes.POINTER(_SIZE))),
    "mock_request_api_key": (ctypes.c_int16, (_POINTER,)),
    "mock_request_destroy_array": (None, (_POINTERS, _SIZE)),
}


def _library() -> dict[str, Any]:
    """The functions of the shared object that confluent-kafka is linked with. Raises `FileNotFoundError`."""
    folder = Path(confluent_kafka.__file__).resolve().parents[1] / "confluent_kafka.libs"
    found = sorted(folder.glob("librdkafka-*"))
    if not found:
        raise FileNotFoundError(f"{folder} has no librdkafka: this confluent-kafka is not of a wheel")
    library = ctypes.CDLL(str(found[0]))
    functions = {}
    for name, (result, arguments) in _SIGNATURES.items():
        functions[name] = getattr(library, f"rd_kafka_{name}")
        functions[name].restype, functions[name].argtypes = result, arguments
    return functions


class MockCluster:
    """A cluster, for as long as the context lasts.

    Args:
        brokers: how many; their numbers begin with 1.
        rebalance_ms: so long the first member of a group waits for others.
        heartbeat_ms: between two heartbeats of a member of a group of KIP-848.
    """

    def __init__(self, brokers: int = 3, *, rebalance_ms: int = 50, heartbeat_ms: int = 50) -> None:
        self.brokers = brokers
        self._rebalance_ms, self._heartbeat_ms = rebalance_ms, heartbeat_ms
        self._call = _library()
        self._client: int | None = None
        self._cluster: int | None = None

    def __enter__(self) -> MockCluster:
        error = ctypes.create_string_buffer(512)
        settings = self._call["conf_new"]()
        self._call["conf_set"](settings, b"log_level", b"0", error, len(error))
        self._client = self._call["new"](PRODUCER, settings, error, len(error))
        if not self._client:
            raise RuntimeError(error.value.decode())
        self._cluster = self._call["mock_cluster_new"](self._client, self.brokers)
        self._call["mock_group_initial_rebalance_delay_ms"](self._cluster, self._rebalance_ms)
        self._call["mock_set_group_consumer_heartbeat_interval_ms"](self._cluster, self._heartbeat_ms)
        self._call["mock_start_request_tracking"](self._cluster)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._call["mock_cluster_destroy"](self._cluster)
        self._call["destroy"](self._client)
        self._cluster = self._client = None

    @property
    def bootstrap(self) -> str:
        """Where all brokers are, for ``bootstrap.servers``."""
        return self._call["mock_cluster_bootstraps"](self._cluster).decode()

    def create_topic(self, name: str, partitions: int = 1) -> None:
        """Make a topic; partition N is led by broker 1 + N, and so on round all of them. Raises `RuntimeError`."""
        self._do("mock_topic_create", name.encode(), partitions, self.brokers)
        for number in range(partitions):
            self._do("mock_partition_set_leader", name.encode(), number, 1 + number % self.brokers)

    def inject(self, api: Api, *errors: int) -> None:
        """Have the next requests of a kind fail, one for each of ``errors``, which are numbers of
        `confluent_kafka.KafkaError`; ``_TRANSPORT`` hangs up. What was asked is not done."""
        codes = (ctypes.c_int * len(errors))(*errors)
        self._call["mock_push_request_errors_array"](self._cluster, api, len(errors), codes)

    def down(self, broker: int = ALL) -> None:
        """Hang up, and let nobody in. Raises `RuntimeError`."""
        self._do("mock_broker_set_down", broker)

    def up(self, broker: int = ALL) -> None:
        """Let clients in again. Raises `RuntimeError`."""
        self._do("mock_broker_set_up", broker)

    def round_trip(self, broker: int, ms: int) -> None:
        """Answer so late from now on, in milliseconds. Raises `RuntimeError`."""
        self._do("mock_broker_set_rtt", broker, ms)

    def coordinator(self, kind: str, name: str, broker: int) -> None:
        """Have a broker coordinate. Raises `RuntimeError`.

        Args:
            kind: ``group`` or ``transaction``.
            name: a ``group.id`` or ``transactional.id``.
        """
        self._do("mock_coordinator_set", kind.encode(), name.encode(), broker)

    def requests(self, api: Api) -> int:
        """How many requests of a kind there were; each takes one injected error."""
        count = _SIZE()
        found = self._call["mock_get_requests"](self._cluster, ctypes.byref(count))
        kinds = [self._call["mock_request_api_key"](found[number]) for number in range(count.value)]
        self._call["mock_request_destroy_array"](found, count)
        return kinds.count(api)

    def _do(self, name: str, *arguments: Any) -> None:
        code = self._call[name](self._cluster, *arguments)
        if code:
            raise RuntimeError(f"{name}{arguments}: {confluent_kafka.KafkaError(code).str()}")


Where = tuple[str, int, int]
"""Topic, partition and offset of a message."""


@dataclass(frozen=True)
class Commit:
    """An offset that was committed.

    Args:
        answers: messages that readers could see by then.
    """

    topic: str
    partition: int
    offset: int
    metadata: str
    answers: frozenset[Where]


class Witness:
    """What the clients of all members were told, in the order in which it was. Any thread may tell."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._answers: set[Where] = set()
        self._commits: list[Commit] = []

    def note(self, answers: Sequence[Where], offsets: Sequence[Any] = ()) -> None:
        """Note that messages are there for readers, and then that offsets are committed."""
        with self._lock:
            self._answers |= set(answers)
            seen = frozenset(self._answers)
            self._commits += [Commit(o.topic, o.partition, o.offset, o.metadata or "", seen) for o in offsets]

    @property
    def answers(self) -> frozenset[Where]:
        """Messages that readers see."""
        with self._lock:
            return frozenset(self._answers)

    @property
    def commits(self) -> list[Commit]:
        """Offsets that were committed, the first of them first."""
        with self._lock:
            return list(self._commits)


@dataclass(frozen=True)
class MockBroker(Broker):
    """How the mock is reached, by the service's own clients, which are listened to; offsets of a transaction, which the
    mock drops, are committed by the consumer as soon as it polls."""

    witness: Witness = field(default_factory=Witness)
    kept: queue.SimpleQueue[list[Any]] = field(default_factory=queue.SimpleQueue)

    def consumer(self, instance: str, log: Any = None) -> Any:
        """See `Broker`."""
        return _Consumer(super().consumer(instance, log), self)

    def producer(self, instance: str, log: Any = None) -> Any:
        """See `Broker`."""
        return _Producer(super().producer(instance, log), self)


class _Consumer:
    def __init__(self, consumer: Any, broker: MockBroker) -> None:
        self._consumer, self._broker = consumer, broker

    def __getattr__(self, name: str) -> Any:
        return getattr(self._consumer, name)

    def subscribe(
        self, topics: list[str], *, on_assign: Callable, on_revoke: Callable, on_lost: Callable
    ) -> None:
        def revoked(consumer: Any, partitions: Sequence[Any]) -> None:
            self._commit_what_is_kept()
            on_revoke(consumer, partitions)

        self._consumer.subscribe(topics, on_assign=on_assign, on_revoke=revoked, on_lost=on_lost)

    def poll(self, seconds: float) -> Any:
        self._commit_what_is_kept()
        return self._consumer.poll(seconds)

    def commit(self, offsets: list[Any], asynchronous: bool) -> None:
        self._broker.witness.note([], offsets)
        self._consumer.commit(offsets=offsets, asynchronous=asynchronous)

    def close(self) -> None:
        self._commit_what_is_kept()
        self._consumer.close()

    def _commit_what_is_kept(self) -> None:
        while not self._broker.kept.empty():
            self._consumer.commit(offsets=self._broker.kept.get(), asynchronous=True)


class _Producer:
    def __init__(self, producer: Any, broker: MockBroker) -> None:
        self._producer, self._broker = producer, broker
        self._sent: list[Where] = []
        self._offsets: list[Any] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._producer, name)

    def produce(
        self, topic: str, value: bytes, key: bytes | None, *, headers: Any, on_delivery: Callable
    ) -> None:
        def delivered(error: Any, message: Any) -> None:
            if error is None:
                where = message.topic(), message.partition(), message.offset()
                if self._broker.exactly_once:
                    self._sent.append(where)
                else:
                    self._broker.witness.note([where])
            on_delivery(error, message)

        self._producer.produce(topic, value, key, headers=headers, on_delivery=delivered)

    def begin_transaction(self) -> None:
        self._sent, self._offsets = [], []
        self._producer.begin_transaction()

    def send_offsets_to_transaction(self, offsets: list[Any], group: Any, seconds: float) -> None:
        self._producer.send_offsets_to_transaction(offsets, group, seconds)
        self._offsets = offsets

    def commit_transaction(self, seconds: float) -> None:
        self._producer.commit_transaction(seconds)
        self._broker.witness.note(self._sent, self._offsets)
        self._broker.kept.put(self._offsets)
