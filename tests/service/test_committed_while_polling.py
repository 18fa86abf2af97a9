"""How far a group is done is answered while another thread polls, which leaves the client hardly a moment."""

from __future__ import annotations

import threading
import time
import uuid

from confluent_kafka import KafkaError, KafkaException, TopicPartition

from pipeline.service.kafka import Broker

ASKED = 20
ELSEWHERE = (
    KafkaError.NOT_COORDINATOR,
    KafkaError.COORDINATOR_NOT_AVAILABLE,
    KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
)


def _until_the_group_has_its_coordinator(consumer, topic: str) -> None:
    """A broker that has just started loads the offsets of all groups, and says until then that it is not theirs."""
    deadline = time.monotonic() + 60
    while True:
        try:
            consumer.committed([TopicPartition(topic, 0)], 10.0)
            return
        except KafkaException as error:
            if error.args[0].code() not in ELSEWHERE or time.monotonic() > deadline:
                raise
            time.sleep(0.2)


def test_who_asks_does_not_wait_for_who_polls(kafka):
    topic, stop = f"songs-{uuid.uuid4().hex[:8]}", threading.Event()
    kafka.create_topics([topic])
    consumer = Broker(kafka.bootstrap, f"group-{topic}").consumer("test")
    polls: list[object] = []

    def poll() -> None:
        consumer.subscribe([topic])
        while not stop.is_set():
            polls.append(consumer.poll(0.1))

    thread = threading.Thread(target=poll)
    thread.start()
    try:
        _until_the_group_has_its_coordinator(consumer, topic)
        before = len(polls)
        for _ in range(ASKED):
            (found,) = consumer.committed([TopicPartition(topic, 0)], 10.0)
            assert found.offset < 0
        # Of a client that both share the one that polls has let in the other after dozens of polls, each time.
        assert len(polls) - before < 10 * ASKED
    finally:
        stop.set()
        thread.join(10)
        consumer.close()
