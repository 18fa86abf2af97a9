"""What tests ask of a Kafka, whoever started it: its brokers, topics and their leaders."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient, NewTopic

# Knock often, and without a line of log each time: a broker may be starting.
KNOCKING = {"reconnect.backoff.ms": 50, "reconnect.backoff.max.ms": 200, "log_level": 0}
SECONDS = 30.0
"""How long a topic may take."""


@dataclass(frozen=True)
class KafkaThere:
    """A Kafka that somebody else started; ``bootstrap`` names its servers."""

    bootstrap: str

    def create_topics(self, names: Iterable[str], partitions: int = 1) -> None:
        """See `create_topics`."""
        create_topics(self.bootstrap, names, partitions)


def admin(bootstrap: str) -> AdminClient:
    """A client that tries again quickly."""
    return AdminClient({"bootstrap.servers": bootstrap, **KNOCKING})


def brokers(client: AdminClient) -> set[int]:
    """The numbers of brokers that are up; empty if none answers within a second."""
    try:
        return set(client.list_topics(timeout=1).brokers)
    except KafkaException:
        return set()


def leaders(client: AdminClient, topic: str) -> dict[int, int]:
    """The broker that leads each partition of a topic, -1 where none does; empty if the topic is not known.

    Raises:
        KafkaException: no broker answers.
    """
    partitions = client.list_topics(topic, timeout=10).topics[topic].partitions
    return {number: partition.leader for number, partition in partitions.items()}


def create_topics(bootstrap: str, names: Iterable[str], partitions: int = 1) -> None:
    """Make topics with the broker's usual number of copies, and wait until each partition has a leader.

    Raises:
        KafkaException: the broker refuses, as it does if the topic exists.
        TimeoutError: a partition has no leader in the end.
    """
    client = admin(bootstrap)
    made = client.create_topics([NewTopic(name, partitions, -1) for name in names], operation_timeout=SECONDS)
    for future in made.values():
        future.result(SECONDS)
    deadline = time.monotonic() + SECONDS
    for name in made:
        while sum(leader >= 0 for leader in leaders(client, name).values()) < partitions:
            if time.monotonic() > deadline:
                raise TimeoutError(f"not every partition of {name} has a leader after {SECONDS:.0f} s")
            time.sleep(0.05)
