"""Services, brokers and indices are killed at any moment, and each request has one answer in the end."""

from __future__ import annotations

import json
import random
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Consumer, KafkaException, TopicPartition
from helpers.karaoke_answers import assert_good, documents, write_song
from helpers.karaoke_service import (
    REQUESTS,
    RESULTS,
    RETRIES,
    TOPICS,
    Service,
    messages,
    request,
    send,
    until,
)
from servers.elasticsearch_server import ElasticsearchServer
from servers.fixtures import running
from servers.kafka_server import KafkaCluster, KafkaServer

from pipeline.service.offsets import ahead_of

pytestmark = [pytest.mark.timeout(900), pytest.mark.chaos]

SONGS = 30
PARTITIONS = 4
KILLS = 20
BROKER_AT, INDEX_AT = (4, 13), (8, 16)
"""After so many kills of a service."""
GROUP = "killed"
SHORT = {"session.timeout.ms": 4000, "heartbeat.interval.ms": 500}
"""Others take over soon."""


class Watcher:
    """Looks again and again at what is committed, and notes when each request was first seen to be done."""

    def __init__(self, bootstrap: str) -> None:
        self.seen: dict[tuple[int, int], float] = {}
        self.looks = 0
        self._bootstrap = bootstrap
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        options = {"bootstrap.servers": self._bootstrap, "group.id": GROUP, "isolation.level": "read_committed",
                   "log_level": 0}  # fmt: skip
        consumer = Consumer(options)
        asked = [TopicPartition(REQUESTS, number) for number in range(PARTITIONS)]
        while not self._stop.wait(0.1):
            try:
                found = consumer.committed(asked, timeout=5)
            except KafkaException:  # the broker is away
                continue
            now = time.time()
            self.looks += 1
            for position in found:
                if position.error is None and position.offset >= 0:
                    for offset in {*range(position.offset), *ahead_of(position.offset, position.metadata)}:
                        self.seen.setdefault((position.partition, offset), now)
        consumer.close()

    def __enter__(self) -> Watcher:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        self._thread.join(30)


class Scene:
    """Two processes of the service, their servers, and what happens to them.

    Args:
        kafka, index: that run.
        root: folder of everything.
        options: of librdkafka, for the services.
    """

    def __init__(
        self,
        kafka: KafkaServer | KafkaCluster,
        index: ElasticsearchServer,
        root: Path,
        options: dict[str, Any],
    ) -> None:
        self.kafka, self.index, self.songs = kafka, index, root / "songs"
        self.chance = random.Random(4)
        self.killed: Counter[str] = Counter()
        self._sent = 0
        self._lives: Counter[Service] = Counter()
        given = ", ".join(f"{key}: {value}" for key, value in options.items())
        overrides = [
            f"service.kafka={kafka.bootstrap}",
            f"service.search_url={index.url}",
            f"service.roots=[{self.songs}]",
            f"service.state_dir={root / 'state'}",  # one takes over what waits there of the other
            f"service.group={GROUP}",
            f"service.kafka_options={{{given}}}",
            "service.parallel=1",
            "karaoke.method=midside",
        ]
        self.services = [Service(root / name, overrides) for name in ("one", "other")]

    def ask(self, count: int) -> None:
        """Send the next requests, as many as are left."""
        numbers = range(self._sent, min(SONGS, self._sent + count))
        for number in numbers:
            write_song(self.songs / f"v{number}" / "original.flac", 3.0 + number % 3, seed=number)
        send(
            self.kafka.bootstrap,
            [request(f"v{n}", self.songs / f"v{n}" / "original.flac", number=n) for n in numbers],
        )
        self._sent = max(self._sent, numbers.stop)

    def kill_a_service(self) -> None:
        """At any moment, also while it starts or leaves a song; mostly while it works."""
        victim = self.chance.choice(self.services)
        if self.chance.random() < 0.75:
            # Not until it is ready, which it is not while the index is away.
            until(lambda: "ready" in self._life(victim), f"it has its models: {victim.log}")
        time.sleep(self.chance.uniform(0, 2.5))
        victim.kill()
        steps = self._life(victim)
        over_a_song = steps.count("requested") > steps.count("announced") + steps.count("not_announced")
        self.killed["service, over a song" if over_a_song else "service"] += 1
        self._lives[victim] = len(victim.steps())
        victim.start()

    def _life(self, service: Service) -> list[str]:
        """Steps of the process that runs, or ran last."""
        assert service.process.poll() in (None, -9), service.tail()
        return [line["step"] for line in service.steps()[self._lives[service] :]]

    def kill_the_broker(self) -> None:
        if isinstance(self.kafka, KafkaCluster):
            self.kafka.kill_leader(REQUESTS, self.chance.randrange(PARTITIONS))
        else:
            self.kafka.kill()
        time.sleep(self.chance.uniform(0, 4))
        self.killed["broker"] += 1
        self.kafka.start()

    def kill_the_index(self) -> None:
        self.index.kill()
        self.killed["index"] += 1
        self.kill_a_service()  # meanwhile, with updates that wait on the disk
        time.sleep(self.chance.uniform(0, 4))
        self.index.start()

    def happen(self) -> None:
        self.ask(10)
        for number in range(KILLS):
            if number in INDEX_AT:
                self.kill_the_index()
            else:
                self.kill_a_service()
            if number in BROKER_AT:
                self.kill_the_broker()
            self.ask(1)

    def asked(self) -> dict[tuple[int, int], str]:
        """Partition and offset of a request → video."""
        found = messages(self.kafka.bootstrap, REQUESTS)
        return {
            (message.partition(), message.offset()): json.loads(message.value())["video_id"]
            for message in found
        }

    def answered(self) -> dict[str, list[Any]]:
        """Video → the messages that answer it."""
        found: dict[str, list[Any]] = {}
        for message in messages(self.kafka.bootstrap, RESULTS):
            found.setdefault(json.loads(message.value())["video_id"], []).append(message)
        return found


@contextmanager
def scene_with(kafka: KafkaServer | KafkaCluster, root: Path, options: dict[str, Any]) -> Iterator[Scene]:
    with (
        running(kafka),
        running(ElasticsearchServer(root / "index")) as index,
        pytest.MonkeyPatch.context() as patched,
    ):
        patched.setenv(
            "SOUNDMILL_WEIGHTS", str(root / "no-weights")
        )  # nobody judges: that takes longer than the rest
        kafka.create_topics(TOPICS, PARTITIONS)
        scene = Scene(kafka, index, root, options)
        with scene.services[0], scene.services[1]:
            yield scene


def assert_one_answer_each(scene: Scene) -> None:
    """All is killed; then each request has one answer, and it was there before its offset was."""
    with Watcher(scene.kafka.bootstrap) as watcher:
        scene.happen()
        assert scene.killed["broker"] == scene.killed["index"] == 2
        assert scene.killed["service"] + scene.killed["service, over a song"] == KILLS
        until(lambda: len(scene.answered()) >= SONGS, f"answers to all {SONGS}", 300)
        until(lambda: len(documents(scene.index.url, "songs")) >= SONGS, "all documents", 120)
        asked = {
            (m.partition(), m.offset()): json.loads(m.value())["video_id"]
            for m in messages(scene.kafka.bootstrap, REQUESTS)
        }
        until(lambda: watcher.seen.keys() >= asked.keys(), "all offsets", 120)
        for service in scene.services:
            assert service.ready().stop() == 0, service.tail()
    found = scene.answered()
    assert {video: len(answers) for video, answers in found.items()} == {f"v{n}": 1 for n in range(SONGS)}
    known = documents(scene.index.url, "songs")
    for video, (message,) in found.items():
        answer = json.loads(message.value())
        assert answer["number"] == int(video[1:])
        assert_good(answer, known[video])
    assert messages(scene.kafka.bootstrap, RETRIES) == []
    early = [
        asked[where] for where, seen in watcher.seen.items()
        if found[asked[where]][0].timestamp()[1] > 1000 * seen
    ]  # fmt: skip
    assert early == [], "committed before they were answered"
    assert watcher.looks > SONGS
    print(dict(scene.killed))


@pytest.mark.parametrize(
    "options",
    [
        pytest.param(SHORT, id="cooperative"),
        pytest.param({**SHORT, "partition.assignment.strategy": "range"}, id="range"),
        pytest.param({"group.protocol": "consumer"}, id="by-the-broker"),
    ],
)
def test_each_request_has_one_answer_whatever_is_killed(options, tmp_path):
    with scene_with(KafkaServer(tmp_path / "kafka"), tmp_path, options) as scene:
        assert_one_answer_each(scene)


def test_each_request_has_one_answer_though_leaders_are_killed(tmp_path):
    with scene_with(KafkaCluster(tmp_path / "kafka"), tmp_path, SHORT) as scene:
        assert_one_answer_each(scene)
