"""Apache Kafka for tests: a single node that is broker and controller in one, and a cluster of several."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from helpers.s3_server import free_ports

from servers.artifacts import Software
from servers.java_server import JavaServer
from servers.kafka_client import admin, brokers, create_topics, leaders

CLUSTER_ID = "c291bmRtaWxsLXRlc3RzIQ"
"""16 bytes in url-safe base64, as storage is formatted with."""


@dataclass(frozen=True)
class Seat:
    """A node's place in its cluster: number from 1 on, ports of clients and of controllers."""

    node: int
    port: int
    controller_port: int


def seats(nodes: int) -> list[Seat]:
    """Places for that many nodes, on free ports."""
    ports = free_ports(2 * nodes)
    return [Seat(n + 1, ports[2 * n], ports[2 * n + 1]) for n in range(nodes)]


class KafkaServer(JavaServer):
    """One node; a cluster of its own unless told otherwise.

    Args:
        folder: where it lives.
        cluster: places of all nodes of its cluster.
        node: which of them is its own.
    """

    name = "kafka"
    main = "kafka.Kafka"
    heap = 256

    def __init__(self, folder: Path, cluster: list[Seat] | None = None, node: int = 1) -> None:
        super().__init__(folder)
        self.cluster = cluster or seats(1)
        self.seat = next(seat for seat in self.cluster if seat.node == node)

    @property
    def bootstrap(self) -> str:
        """What clients connect to: ``127.0.0.1:PORT``."""
        return f"127.0.0.1:{self.seat.port}"

    def create_topics(self, names: Iterable[str], partitions: int = 1) -> None:
        """See `servers.kafka_client.create_topics`."""
        create_topics(self.bootstrap, names, partitions)

    def prepare(self, software: Software) -> None:
        properties = self.folder / "server.properties"
        common = (software.sources / "server.properties").read_text()
        properties.write_text(common + "".join(f"{key}={value}\n" for key, value in self._own().items()))
        if not (self.folder / "data" / "meta.properties").exists():
            self._format(software, properties)

    def arguments(self, software: Software) -> list[str]:
        return [*self._logging(software), "TiedToParent", self.main, str(self.folder / "server.properties")]

    def answers(self) -> bool:
        # Cheaper than a client while nobody listens.
        try:
            socket.create_connection(("127.0.0.1", self.seat.port), 1).close()
        except OSError:
            return False
        return self.seat.node in brokers(admin(self.bootstrap))

    def _own(self) -> dict[str, Any]:
        """What the node does not have in common with all others of the tests."""
        copies = min(3, len(self.cluster))
        in_step = 2 if copies > 2 else 1
        clients = f"PLAINTEXT://127.0.0.1:{self.seat.port}"
        return {
            "node.id": self.seat.node,
            "controller.quorum.voters": ",".join(
                f"{s.node}@127.0.0.1:{s.controller_port}" for s in self.cluster
            ),
            "listeners": f"{clients},CONTROLLER://127.0.0.1:{self.seat.controller_port}",
            "advertised.listeners": clients,
            "log.dirs": self.folder / "data",
            "default.replication.factor": copies,
            "min.insync.replicas": in_step,
            "offsets.topic.replication.factor": copies,
            "transaction.state.log.replication.factor": copies,
            "transaction.state.log.min.isr": in_step,
            "share.coordinator.state.topic.replication.factor": copies,
            "share.coordinator.state.topic.min.isr": in_step,
        }

    def _logging(self, software: Software) -> list[str]:
        return [f"-Dlog4j2.configurationFile={software.sources / 'log4j2.xml'}"]

    def _format(self, software: Software, properties: Path) -> None:
        command = [
            *self.java(software), *self._logging(software), "kafka.tools.StorageTool",
            "format", "--cluster-id", CLUSTER_ID, "--config", str(properties),
        ]  # fmt: skip
        done = subprocess.run(command, cwd=self.folder, capture_output=True, text=True, timeout=60)
        if done.returncode != 0:
            raise RuntimeError(f"Kafka's storage cannot be formatted: {done.stdout}{done.stderr}")


class KafkaCluster:
    """Several nodes, each of them broker and controller.

    Topics have three copies, of which two must be in step for a write with ``acks=all``, those of offsets and
    transactions included.

    Attributes:
        nodes: by their number, from 1 on.
    """

    def __init__(self, folder: Path, nodes: int = 3) -> None:
        places = seats(nodes)
        self.nodes = {
            place.node: KafkaServer(folder / f"node-{place.node}", places, place.node) for place in places
        }

    @property
    def bootstrap(self) -> str:
        """What clients connect to: all nodes."""
        return ",".join(node.bootstrap for node in self.nodes.values())

    def start(self) -> None:
        """Start whichever nodes do not run, and wait until they all answer. Raises as `JavaServer.start` does."""
        started = [node for node in self.nodes.values() if not node.running]
        try:
            for node in started:
                node.launch()
            for node in started:
                node.wait_ready()
        except BaseException:
            self.kill()
            raise

    def create_topics(self, names: Iterable[str], partitions: int = 1) -> None:
        """See `servers.kafka_client.create_topics`."""
        create_topics(self.bootstrap, names, partitions)

    def leader(self, topic: str, partition: int = 0) -> KafkaServer:
        """The node that leads a partition. Raises ``KeyError`` if none does."""
        return self.nodes[leaders(admin(self.bootstrap), topic)[partition]]

    def kill_leader(self, topic: str, partition: int = 0) -> KafkaServer:
        """Kill -9 the node that leads a partition; it is returned, and can be started again."""
        node = self.leader(topic, partition)
        node.kill()
        return node

    def kill(self) -> None:
        """Kill -9 all nodes."""
        for node in self.nodes.values():
            node.kill()

    def __enter__(self) -> KafkaCluster:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
