"""Kafka's clients say the same line some twenty times a second while brokers are away; the log has it once."""

import io
import json
import time

import pytest

from pipeline.service.announcer import Announcer
from pipeline.service.client_log import MOST, ClientLog
from pipeline.service.kafka import Broker
from pipeline.service.logs import StepLog

FORM = "%s [%s] %s"
REFUSED = "[thrd:a:1/1]: a:1/1: Connect to ipv4#127.0.0.1:1 failed: Connection refused"


class Scene:
    def __init__(self):
        self.stream, self.now = io.StringIO(), 0.0
        self.clients = ClientLog(
            StepLog(self.stream, service="test", instance="test"), 60.0, lambda: self.now
        )

    def lines(self):
        return [json.loads(line) for line in self.stream.getvalue().splitlines()]

    def say(self, text, level=40):
        self.clients.log(level, FORM, "FAIL", "me#consumer-1", text)


@pytest.fixture
def scene():
    return Scene()


def test_equal_lines_are_written_once_and_counted_later(scene):
    for number in range(100):
        scene.say(f"{REFUSED} (after {number}ms in state CONNECT, {number} identical error(s) suppressed)")
    (first,) = scene.lines()
    assert (first["step"], first["level"]) == ("kafka", "error")
    assert first["text"].startswith(f"FAIL: {REFUSED} (after 0ms")
    scene.now = 59.9
    scene.clients.tick()
    assert len(scene.lines()) == 1
    scene.now = 60.0
    scene.clients.tick()
    assert scene.lines()[1]["more"] == 99
    assert "after 99ms" in scene.lines()[1]["text"]
    # Of an hour in which nothing came nothing is said, and then it is news again.
    scene.now = 3600.0
    scene.clients.tick()
    scene.say(REFUSED)
    assert [line.get("more") for line in scene.lines()] == [None, 99, None]


def test_lines_that_differ_are_all_written(scene):
    scene.say(REFUSED)
    scene.say(REFUSED.replace("a:1/1", "b:1/1"))
    scene.say("Session is fenced", level=30)
    scene.clients.log(20, "words of another kind")
    assert [line["level"] for line in scene.lines()] == ["error", "error", "warning", "info"]


def test_two_clients_that_say_the_same_are_one(scene):
    scene.clients.log(40, FORM, "FAIL", "me#consumer-1", REFUSED)
    scene.clients.log(40, FORM, "FAIL", "me#producer-2", REFUSED)
    assert len(scene.lines()) == 1


def test_what_is_left_is_said_in_the_end(scene):
    for _ in range(3):
        scene.say(REFUSED)
    scene.say("another")
    scene.clients.close()
    assert [line.get("more") for line in scene.lines()] == [None, None, 2]


def test_lines_that_all_differ_fill_no_memory(scene):
    for number in range(3 * MOST):
        scene.say(f"line of partition {number}")
    assert len(scene.lines()) == MOST + 1
    scene.clients.close()
    assert scene.lines()[-1]["more"] == 2 * MOST - 1


def test_real_clients_without_a_broker_say_it_once(capfd):
    stream = io.StringIO()
    log = StepLog(stream, service="test", instance="test")
    clients = ClientLog(log)
    counted = []
    said = clients.log
    clients.log = lambda *words: (counted.append(words), said(*words))
    broker = Broker(
        "127.0.0.1:1",
        exactly_once=False,
        options={"reconnect.backoff.ms": 20, "reconnect.backoff.max.ms": 50},
    )
    consumer = broker.consumer("test", clients)
    consumer.subscribe(["songs"])
    announcer = Announcer(broker, consumer, "test", log, clients=clients)
    announcer.start()
    end = time.monotonic() + 60
    while len(counted) < 100 or not any("producer" in str(words) for words in counted):
        assert time.monotonic() < end
        consumer.poll(0.05)
    announcer.close(10)
    consumer.close()
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    kinds = {words[-1].partition(" (after")[0] for words in counted}
    assert 1 <= len([line for line in lines if line["step"] == "kafka"]) <= len(kinds)
    assert len(kinds) < 10
    assert "127.0.0.1:1" not in capfd.readouterr().err
