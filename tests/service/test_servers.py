"""The servers of the tests are the real ones: they keep what they acknowledged, and none outlives the tests."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest
import requests
from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaException, Producer, TopicPartition
from elasticsearch import Elasticsearch
from opensearchpy import OpenSearch
from servers.artifacts import installed
from servers.elasticsearch_server import ElasticsearchServer
from servers.fixtures import running, skip_without
from servers.kafka_server import KafkaCluster, KafkaServer

SONG = {"song": {"status": "new", "lyrics": {"language": "en"}}}
CHANGE = {"song": {"status": "made", "lyrics": {"lines": 3}}}
MERGED = {"song": {"status": "made", "lyrics": {"language": "en", "lines": 3}}}


def unique(name: str) -> str:
    return f"{name}-{uuid.uuid4().hex[:8]}"


def produce(bootstrap: str, topic: str, value: bytes) -> None:
    """Produce one message and wait until it is acknowledged."""
    errors: list[object] = []
    producer = Producer({"bootstrap.servers": bootstrap, "acks": "all"})
    producer.produce(topic, value, on_delivery=lambda error, _: errors.append(error))
    assert producer.flush(30) == 0
    assert errors == [None]


def consume(bootstrap: str, topic: str, partition: int = 0) -> list[bytes]:
    """Everything in a partition of a topic."""
    settings = {"bootstrap.servers": bootstrap, "group.id": unique("readers"), "enable.partition.eof": True}
    consumer = Consumer(settings)
    consumer.assign([TopicPartition(topic, partition, OFFSET_BEGINNING)])
    found: list[bytes] = []
    try:
        while True:
            message = consumer.poll(30)
            assert message is not None, "neither a message nor the end within 30 s"
            if message.error():
                return found
            found.append(message.value())
    finally:
        consumer.close()


def until(true: Callable[[], bool], seconds: float = 30) -> bool:
    """Whether something becomes true in time."""
    deadline = time.monotonic() + seconds
    while not true():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def test_kafka_delivers_what_was_produced(kafka):
    topic = unique("songs")
    kafka.create_topics([topic], partitions=2)
    produce(kafka.bootstrap, topic, b"a song")
    with pytest.raises(KafkaException, match="exists"):
        kafka.create_topics([topic])
    both = [consume(kafka.bootstrap, topic, partition) for partition in (0, 1)]
    assert sorted(both) == [[], [b"a song"]]


def test_kafka_keeps_what_it_acknowledged_over_kill_9(tmp_path):
    with running(KafkaServer(tmp_path)) as server:
        server.create_topics(["songs"])
        produce(server.bootstrap, "songs", b"before")
        server.kill()
        assert not server.running
        server.start()
        produce(server.bootstrap, "songs", b"after")
        assert consume(server.bootstrap, "songs") == [b"before", b"after"]


def test_elasticsearch_says_that_it_is_one(elasticsearch_url):
    answer = requests.get(elasticsearch_url, timeout=30)
    assert answer.headers["X-Elastic-Product"] == "Elasticsearch"
    assert int(answer.json()["version"]["number"].partition(".")[0]) >= 8


def test_elasticsearch_merges_a_partial_update_into_nested_objects(elasticsearch_url):
    with Elasticsearch(elasticsearch_url) as client:
        index = unique("songs")
        client.index(index=index, id="1", document=SONG)
        client.update(index=index, id="1", doc=CHANGE)
        assert client.get(index=index, id="1")["_source"] == MERGED


def test_elasticsearch_keeps_what_it_acknowledged_over_kill_9(tmp_path):
    with running(ElasticsearchServer(tmp_path)) as server, Elasticsearch(server.url) as client:
        client.index(index="songs", id="1", document=SONG)
        server.kill()
        server.start()
        assert client.get(index="songs", id="1")["_source"] == SONG


def test_opensearch_answers_its_own_client(opensearch_url):
    client = OpenSearch(opensearch_url)
    try:
        assert client.info()["version"]["distribution"] == "opensearch"
        index = unique("songs")
        client.index(index=index, id="1", body=SONG)
        client.update(index=index, id="1", body={"doc": CHANGE})
        assert client.get(index=index, id="1")["_source"] == MERGED
    finally:
        client.close()


STARTS_A_SERVER = """
import sys, time
from pathlib import Path
from servers.elasticsearch_server import ElasticsearchServer
server = ElasticsearchServer(Path(sys.argv[1]))
server.start()
print(server.process.pid, flush=True)
time.sleep(600)
"""


def test_a_server_ends_with_the_process_that_started_it(tmp_path, repo):
    with skip_without():
        installed("elasticsearch")
    environment = {**os.environ, "PYTHONPATH": str(repo / "tests")}
    command = [sys.executable, "-c", STARTS_A_SERVER, str(tmp_path)]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as parent:
        try:
            pid = int(parent.stdout.readline())
        finally:
            parent.kill()
    try:
        assert until(lambda: gone(pid))
    finally:
        if not gone(pid):
            os.kill(pid, signal.SIGKILL)


def gone(pid: int) -> bool:
    """Whether a process ended; nobody may have asked for its exit code yet."""
    try:
        return Path("/proc", str(pid), "stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


@pytest.mark.chaos
def test_a_cluster_goes_on_without_the_leader_and_loses_nothing(tmp_path):
    with running(KafkaCluster(tmp_path)) as cluster:
        cluster.create_topics(["songs"])
        produce(cluster.bootstrap, "songs", b"before")
        killed = cluster.kill_leader("songs")
        assert not killed.running
        produce(cluster.bootstrap, "songs", b"without it")
        assert cluster.leader("songs") is not killed
        cluster.start()
        assert killed.running
        assert consume(cluster.bootstrap, "songs") == [b"before", b"without it"]
