"""What the service says of itself by HTTP."""

from __future__ import annotations

import http.client
import json
import logging
import signal
import socket
import sys
import threading
import time
from contextlib import contextmanager

import pytest

from pipeline.errors import UserError
from pipeline.service.health import HealthServer, ServiceState
from pipeline.service.metrics import Metrics


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def state(clock) -> ServiceState:
    return ServiceState(stale_s=60.0, clock=clock)


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


@pytest.fixture
def server(state, metrics):
    with HealthServer(state, metrics, port=0) as found:
        yield found


def asked(server: HealthServer, path: str, method: str = "GET", **headers: str) -> tuple[int, str, dict]:
    connection = http.client.HTTPConnection(server.host, server.port, timeout=60)
    try:
        connection.request(method, path, headers=headers)
        answer = connection.getresponse()
        return answer.status, answer.read().decode(), dict(answer.getheaders())
    finally:
        connection.close()


def said(server: HealthServer, path: str) -> tuple[int, dict]:
    status, text, headers = asked(server, path)
    assert headers["content-type"] == "application/json"
    return status, json.loads(text)


@contextmanager
def hanging():
    """A check that answers once the context is left."""
    free = threading.Event()
    try:
        yield lambda: (free.wait(60), "late")
    finally:
        free.set()


def test_a_loop_that_comes_round_lives(server, state, clock):
    clock.now += 50
    state.beat()
    clock.now += 59.5
    assert said(server, "/healthz") == (200, {"status": "ok", "heartbeat_age_s": 59.5})


def test_a_loop_that_hangs_does_not(server, state, clock):
    clock.now += 60.5
    assert said(server, "/healthz") == (503, {"status": "stale", "heartbeat_age_s": 60.5})
    state.beat()
    assert said(server, "/healthz") == (200, {"status": "ok", "heartbeat_age_s": 0.0})


def test_what_a_service_loads_before_it_can_be_asked_does_not_count(state, metrics, clock):
    clock.now += 600
    with HealthServer(state, metrics, port=0) as server:
        assert said(server, "/healthz")[0] == 200
        clock.now += 61
        assert said(server, "/healthz")[0] == 503


def test_it_is_ready_when_everything_is(server, state):
    partitions: list[int] = []
    state.register("assignment", lambda: (bool(partitions), f"{len(partitions)} partitions"))
    state.register("model", lambda: (True, "1 of 1 workers ready"))
    status, found = said(server, "/readyz")
    assert status == 503
    assert found == {
        "status": "not ready",
        "checks": {
            "assignment": {"ok": False, "text": "0 partitions"},
            "model": {"ok": True, "text": "1 of 1 workers ready"},
        },
    }
    partitions.append(0)
    status, found = said(server, "/readyz")
    assert (status, found["status"]) == (200, "ready")


def test_nobody_is_ready_before_there_is_anything_to_check(server):
    assert said(server, "/readyz") == (503, {"status": "not ready", "checks": {}})


def test_a_check_that_raises_is_not_ready_and_says_no_secret(server, state):
    def refused():
        raise ConnectionError("http://user:secret@search:9200 refused")

    def slow():
        raise TimeoutError("secret")

    state.register("search", refused)
    state.register("late", slow)
    state.register("none", lambda: None)
    state.register("open", lambda: (True, "https://user:secret@search:9200/songs"))
    status, text, _ = asked(server, "/readyz")
    checks = json.loads(text)["checks"]
    assert status == 503
    assert checks["search"] == {"ok": False, "text": "ConnectionError"}
    assert checks["late"] == {"ok": False, "text": "TimeoutError"}
    assert checks["none"] == {"ok": False, "text": "TypeError"}
    assert checks["open"] == {"ok": True, "text": "https://search:9200/songs"}
    assert "secret" not in text


def test_a_check_that_hangs_is_not_ready_and_keeps_nobody_waiting(metrics):
    state = ServiceState(check_timeout_s=0.05)
    calls = []
    with hanging() as check, HealthServer(state, metrics, port=0) as server:
        state.register("search", lambda: (calls.append(1), check())[1])
        state.register("disk", lambda: (True, "plenty"))
        for _ in range(3):
            status, found = said(server, "/readyz")
            assert status == 503
            assert found["checks"]["search"] == {"ok": False, "text": "no answer within 0.05 s"}
            assert found["checks"]["disk"]["ok"]
        assert calls == [1]


def test_one_that_asks_whether_it_lives_does_not_wait_for_checks(server, state):
    """While as many wait for a check as there are threads."""
    with hanging() as check:
        begun = threading.Semaphore(0)
        state.register("search", lambda: (begun.release(), check())[1])
        waiting = [
            threading.Thread(target=asked, args=(server, path))
            for path in ("/readyz", "/readyz", "/metrics") * 20
        ]
        for thread in waiting:
            thread.start()
        assert begun.acquire(timeout=60)
        assert said(server, "/healthz")[0] == 200
    for thread in waiting:
        thread.join(60)
    assert not any(thread.is_alive() for thread in waiting)


def test_the_numbers_are_those_of_prometheus(server, metrics):
    metrics.in_flight(2)
    status, text, headers = asked(server, "/metrics")
    assert status == 200
    assert headers["content-type"].startswith("text/plain; version=0.0.4")
    assert "\nsoundmill_songs_in_flight 2.0\n" in text
    newer = asked(server, "/metrics", Accept="application/openmetrics-text; version=1.0.0")
    assert newer[2]["content-type"].startswith("application/openmetrics-text")


def test_other_paths_and_methods_are_refused(server):
    assert asked(server, "/")[0] == 404
    assert asked(server, "/healthz", "POST")[0] == 405
    assert asked(server, "/healthz", "HEAD")[0] == 200


def test_a_port_in_use_is_a_mistake_of_the_user(server, state, metrics):
    with pytest.raises(UserError, match=f"service.health_port={server.port}") as caught:
        HealthServer(state, metrics, port=server.port).start()
    assert caught.value.why == "Address already in use"
    assert "service.health_port=" in caught.value.do
    assert said(server, "/healthz")[0] == 200


@pytest.mark.parametrize(
    ("host", "port", "key"),
    [
        ("no.such.host.invalid", 0, "service.health_host"),
        ("192.0.2.1", 0, "service.health_port"),
        ("127.0.0.1", 70_000, "service.health_port"),
    ],
)
def test_an_address_that_cannot_be_had_is_a_mistake_of_the_user(state, metrics, host, port, key):
    with pytest.raises(UserError, match=key):
        HealthServer(state, metrics, host=host, port=port).start()


def test_it_stops_and_gives_its_port_back(state, metrics):
    server = HealthServer(state, metrics, port=0)
    server.stop()
    server.start()
    port = server.port
    open_one = http.client.HTTPConnection(server.host, port, timeout=60)
    open_one.request("GET", "/healthz")
    open_one.getresponse().read()
    server.stop()
    server.stop()
    assert not [thread for thread in threading.enumerate() if thread.name == "health"]
    with pytest.raises(ConnectionError):
        socket.create_connection((server.host, port), 60)
    open_one.close()
    with HealthServer(state, metrics, port=port) as again:
        assert again.port == port
        assert said(again, "/healthz")[0] == 200


def test_signals_and_standard_output_stay_those_of_the_service(state, metrics, capfd):
    handlers = {name: signal.getsignal(name) for name in (signal.SIGINT, signal.SIGTERM)}
    root = list(logging.getLogger().handlers)
    with HealthServer(state, metrics, port=0) as server:
        assert {name: signal.getsignal(name) for name in handlers} == handlers
        assert said(server, "/healthz")[0] == 200
        with socket.create_connection((server.host, server.port), 60) as nonsense:
            nonsense.sendall(b"\0\1\2 nonsense\r\n\r\n")
            assert b"400" in nonsense.recv(1000)
    assert logging.getLogger().handlers == root
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("package", ["starlette.applications", "uvicorn"])
def test_without_its_packages_it_is_told_what_to_type(state, metrics, monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UserError, match=r"pip install .*\[service\]"):
        HealthServer(state, metrics, port=0).start()


def test_the_age_of_a_heartbeat_is_that_of_real_time():
    state = ServiceState()
    before = time.monotonic()
    state.beat()
    age = state.heartbeat_age_s()
    assert 0 <= age <= time.monotonic() - before
    assert state.alive
