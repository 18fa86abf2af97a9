"""The karaoke service as a process of its own, and those who ask it and listen to it, for tests and benchmarks."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

REPO = Path(__file__).resolve().parents[2]
TOPICS = ("audio.process.requested", "audio.vocals_processed", "audio.process.retry", "audio.process.dead")
REQUESTS, RESULTS, RETRIES, DEAD = TOPICS


def until(true: Callable[[], Any], what: str, seconds: float = 120.0) -> Any:
    """The first value of ``true`` that is true. Raises ``AssertionError`` where there is none in time."""
    end = time.monotonic() + seconds
    while not (found := true()):
        assert time.monotonic() < end, f"{what}: not within {seconds:.0f} s"
        time.sleep(0.1)
    return found


def free_port() -> int:
    """A port that nobody listens at now."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


class Service:
    """One process of the service.

    Args:
        folder: for its log and its state.
        overrides: of its command line.
    """

    def __init__(self, folder: Path, overrides: Sequence[str]) -> None:
        self.port = free_port()
        folder.mkdir(parents=True, exist_ok=True)
        self.log = folder / "service.log"
        self._command = [
            sys.executable,
            str(REPO / "jobs" / "karaoke_service.py"),
            "service.workers=inline",
            f"service.health_port={self.port}",
            f"service.state_dir={folder / 'state'}",
            *overrides,
        ]
        self.process: subprocess.Popen | None = None

    def start(self) -> Service:
        """Begin; it is ready later."""
        with self.log.open("ab") as log:
            # A group of its own: what it has started ends with it.
            self.process = subprocess.Popen(self._command, stdout=log, stderr=log, start_new_session=True)
        return self

    def ready(self, seconds: float = 120.0) -> Service:
        """Wait until it says that it is."""
        until(lambda: self._alive() and self.get("/readyz")[0] == 200, f"ready: {self.tail()}", seconds)
        return self

    def get(self, path: str) -> tuple[int, str]:
        """Status and body of one of its pages; 0 where nobody answers."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=5) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()
        except OSError:
            return 0, ""

    def kill(self) -> None:
        """As a machine that loses its power would."""
        self.process.kill()
        self.process.wait()

    def stop(self, seconds: float = 60.0) -> int:
        """SIGTERM; returns the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(seconds)

    def steps(self, step: str | None = None) -> list[dict[str, Any]]:
        """Lines of its log."""
        lines = [line for line in self.log.read_text().splitlines() if line.startswith("{")]
        found = [json.loads(line) for line in lines if line.endswith("}")]
        return [line for line in found if step is None or line["step"] == step]

    def tail(self) -> str:
        """The end of its log."""
        return self.log.read_text()[-3000:] if self.log.exists() else ""

    def _alive(self) -> bool:
        assert self.process.poll() is None, f"it ended with {self.process.returncode}: {self.tail()}"
        return True

    def __enter__(self) -> Service:
        return self.start()

    def __exit__(self, *error: object) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


def send(bootstrap: str, values: Iterable[bytes | dict], topic: str = REQUESTS, partition: int = -1) -> None:
    """Send messages, and wait until the broker has them. A request's key is its video."""
    from confluent_kafka import Producer

    producer = Producer({"bootstrap.servers": bootstrap, "acks": "all", "message.max.bytes": 4_000_000})
    for value in values:
        key = value["video_id"].encode() if isinstance(value, dict) and "video_id" in value else None
        body = json.dumps(value).encode() if isinstance(value, dict) else value
        producer.produce(topic, body, key, partition=partition)
    assert producer.flush(60) == 0


def request(video_id: str, path: Path | str, **more: Any) -> dict[str, Any]:
    """What is asked for a song."""
    return {"video_id": video_id, "original_path": str(path), "action": "remove_vocals", **more}


def messages(bootstrap: str, topic: str = RESULTS) -> list[Any]:
    """All committed messages of a topic, read anew from the beginning to the end by somebody who is in no group."""
    from confluent_kafka import Consumer, KafkaError, TopicPartition

    options = {
        "bootstrap.servers": bootstrap,
        "group.id": "reader",
        "enable.auto.commit": False,
        "auto.offset.reset": "earliest",
        "isolation.level": "read_committed",
        "enable.partition.eof": True,
    }
    consumer = Consumer(options)
    try:
        partitions = consumer.list_topics(topic, timeout=30).topics[topic].partitions
        consumer.assign([TopicPartition(topic, number, 0) for number in partitions])
        left, found = set(partitions), []
        end = time.monotonic() + 60
        while left:
            assert time.monotonic() < end, f"{topic} is not read to its end"
            message = consumer.poll(0.5)
            if message is None:
                continue
            if message.error() is None:
                found.append(message)
            elif message.error().code() == KafkaError._PARTITION_EOF:
                left.discard(message.partition())
        return found
    finally:
        consumer.close()


def answers(bootstrap: str) -> dict[str, list[dict[str, Any]]]:
    """Video → all its answers."""
    found: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for message in messages(bootstrap):
        value = json.loads(message.value())
        found[value["video_id"]].append(value)
    return dict(found)


def committed(bootstrap: str, group: str, topic: str = REQUESTS) -> dict[int, int]:
    """Partition → committed offset of a group, 0 where there is none."""
    from confluent_kafka import Consumer, TopicPartition

    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": group})
    try:
        partitions = consumer.list_topics(topic, timeout=30).topics[topic].partitions
        asked = [TopicPartition(topic, number) for number in partitions]
        return {p.partition: max(0, p.offset) for p in consumer.committed(asked, timeout=30)}
    finally:
        consumer.close()
