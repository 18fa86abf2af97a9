"""What is begun, held and given up. A stand-in is in the place of the consumer: messages come when they are to."""

import io
import queue
import threading
import time
from datetime import datetime, timedelta, timezone

import pytest
from confluent_kafka import TopicPartition

from pipeline.service.health import ServiceState
from pipeline.service.intake import AHEAD, Intake
from pipeline.service.kafka import Topics, headers_of
from pipeline.service.logs import StepLog
from pipeline.service.metrics import Metrics

TOPIC = Topics().requests


class Message:
    def __init__(self, offset, partition=0, headers=None, topic=TOPIC):
        self._offset, self._partition, self._headers, self._topic = offset, partition, headers, topic

    def error(self):
        return None

    def topic(self):
        return self._topic

    def partition(self):
        return self._partition

    def offset(self):
        return self._offset

    def value(self):
        return b"{}"

    def key(self):
        return None

    def headers(self):
        return self._headers


class StandIn:
    """In the place of a consumer: gives what it is told to give."""

    def __init__(self):
        self.messages = queue.SimpleQueue()
        self.calls = queue.SimpleQueue()
        self.paused = set()
        self.committed_offsets = {}

    def subscribe(self, topics, on_assign, on_revoke, on_lost):
        self.on_assign, self.on_revoke = on_assign, on_revoke

    def poll(self, seconds):
        while not self.calls.empty():
            call, partitions = self.calls.get()
            getattr(self, call)(self, [TopicPartition(TOPIC, number) for number in partitions])
        try:
            return self.messages.get(timeout=0.01)
        except queue.Empty:
            return None

    def committed(self, partitions, seconds):
        found = [(p, *self.committed_offsets.get(p.partition, (-1001, ""))) for p in partitions]
        return [TopicPartition(p.topic, p.partition, offset, metadata) for p, offset, metadata in found]

    def pause(self, partitions):
        self.paused |= {p.partition for p in partitions}

    def resume(self, partitions):
        self.paused -= {p.partition for p in partitions}

    def consumer_group_metadata(self):
        return None

    def get_watermark_offsets(self, partition, cached):
        return 0, 10

    def position(self, partitions):
        return [TopicPartition(p.topic, p.partition, 4) for p in partitions]

    def close(self):
        pass


class Hands:
    def __init__(self, hands):
        self.hands, self.tasks = hands, []

    def room(self):
        return self.hands - len(self.tasks)

    def busy(self):
        return len(self.tasks)

    def begin(self, task):
        self.tasks.append(task)

    def offsets(self):
        return [task.claim.offset for task in self.tasks]


class Quiet:
    """In the place of the announcer."""

    pending = 0

    def member_as(self, membership):
        pass

    def commit(self):
        pass

    def commit_again(self, assigned):
        pass


@pytest.fixture
def scene():
    consumer, hands, metrics = StandIn(), Hands(2), Metrics()
    log = StepLog(io.StringIO(), service="test", instance="test")
    intake = Intake(
        consumer,
        Topics(requests="others", retries=TOPIC),
        hands,
        Quiet(),
        state=ServiceState(),
        metrics=metrics,
        log=log,
    )
    stop = threading.Event()
    thread = threading.Thread(target=intake.run, args=(stop, lambda: True))
    consumer.calls.put(("on_assign", [0, 1]))
    thread.start()
    yield consumer, hands, metrics
    stop.set()
    thread.join(10)
    intake.close()
    assert not thread.is_alive()


def until(true):
    end = time.monotonic() + 10
    while not true():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_messages_are_begun_in_their_order(scene):
    consumer, hands, metrics = scene
    for offset in (4, 5):
        consumer.messages.put(Message(offset))
    until(lambda: hands.offsets() == [4, 5])
    until(lambda: metrics.value("soundmill_lag_messages", {"topic": TOPIC, "partition": "0"}) == 6)


def test_one_that_waits_for_its_time_is_passed_but_its_offset_is_not(scene):
    consumer, hands, _ = scene
    consumer.messages.put(Message(4, headers=headers_of(2, 3600, "TIMED_OUT", "late")))
    consumer.messages.put(Message(5))
    until(lambda: hands.offsets() == [5])
    (task,) = hands.tasks
    assert task.claim.assigned.offsets.commit_of([5]) == (4, "ahead:1")
    until(lambda: consumer.paused == {0})  # nothing more of that partition for an hour


def test_one_whose_time_comes_is_begun(scene):
    consumer, hands, _ = scene
    consumer.messages.put(Message(4, headers=headers_of(2, 0.3, "TIMED_OUT", "late")))
    until(lambda: hands.offsets() == [4])
    assert hands.tasks[0].journey.attempt == 2
    assert hands.tasks[0].journey.reason == "late"
    assert hands.tasks[0].journey.not_before < datetime.now(timezone.utc) + timedelta(seconds=0.01)


def test_headers_that_are_not_the_services_go_along(scene):
    consumer, hands, _ = scene
    own = ("traceparent", b"00-1-2-01")
    consumer.messages.put(Message(4, headers=[*headers_of(2, 0.0, "TIMED_OUT", "late"), own]))
    until(lambda: hands.offsets() == [4])
    assert hands.tasks[0].headers == (own,)


def test_full_hands_pause_and_free_ones_go_on(scene):
    consumer, hands, _ = scene
    for offset in range(2 + AHEAD):
        consumer.messages.put(Message(offset))
    until(lambda: consumer.paused == {0, 1})
    assert hands.offsets() == [0, 1]
    hands.hands += 1
    until(lambda: hands.offsets() == [0, 1, 2] and not consumer.paused)


def test_what_is_done_already_is_not_begun(scene):
    consumer, hands, _ = scene
    consumer.committed_offsets = {0: (4, "ahead:1")}
    consumer.calls.put(("on_revoke", [0]))
    consumer.calls.put(("on_assign", [0]))
    until(lambda: consumer.calls.empty())
    for offset in (4, 5, 6):
        consumer.messages.put(Message(offset))
    until(lambda: hands.offsets() == [4, 6])


def test_what_is_taken_away_is_no_longer_ours_and_may_come_again(scene):
    consumer, hands, _ = scene
    consumer.messages.put(Message(4))
    until(lambda: hands.offsets() == [4])
    consumer.calls.put(("on_revoke", [0]))
    until(lambda: not hands.tasks[0].claim.assigned.valid)
    consumer.calls.put(("on_assign", [0]))
    until(lambda: consumer.calls.empty())
    consumer.messages.put(Message(4))
    until(lambda: hands.offsets() == [4, 4])
    assert hands.tasks[1].claim.assigned.valid
