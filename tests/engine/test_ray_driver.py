"""What a run begins ahead: Ray in a thread that stays, and answers that somebody asks for later. No Ray is started."""

import signal
import subprocess
import sys
import threading

import pytest

from pipeline.engine import session
from pipeline.engine.driver import Cluster
from pipeline.engine.ray_driver import RayDriver
from pipeline.engine.starting import ahead
from pipeline.errors import UserError

CLUSTER = Cluster("local", 16.0, 1.0, 1)


@pytest.fixture
def told(monkeypatch) -> list[tuple[str, str]]:
    """What was done to Ray, each with the name of the thread that did it."""
    done: list[tuple[str, str]] = []

    def note(what: str, answer: object):
        def act(**arguments: object) -> object:
            done.append((what, threading.current_thread().name))
            return answer

        return act

    monkeypatch.setattr(session, "connect", note("connect", CLUSTER))
    monkeypatch.setattr(session, "disconnect", note("disconnect", None))
    monkeypatch.setattr(session, "gpu_cards", note("cards", ([80 << 30], "")))
    return done


@pytest.fixture(autouse=True)
def own_handler():
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


def test_the_thread_that_starts_ray_lives_until_it_has_ended_it(told):
    """The kernel ends what Ray has started when the thread that started it ends."""
    ray = RayDriver({})
    ray.begin()
    ray.begin()
    assert ray.cluster() is CLUSTER
    assert ray.cards() is None
    assert ray._thread.is_alive()
    ray.close()
    assert told == [("connect", "ray"), ("disconnect", "ray")]
    assert not ray._thread.is_alive()


def test_closing_twice_is_closing_once(told):
    ray = RayDriver({})
    ray.cluster()
    ray.close()
    ray.close()
    assert [what for what, _ in told] == ["connect", "disconnect"]


def test_a_ray_that_was_never_begun_is_closed_for_nothing(told):
    RayDriver({}).close()
    assert told == []


def test_cards_are_asked_for_as_soon_as_ray_is_up(told):
    ray = RayDriver({}, ask_cards=True)
    assert ray.cluster() is CLUSTER
    assert ray.cards() == ([80 << 30], "")
    ray.close()
    assert [what for what, _ in told] == ["connect", "cards", "disconnect"]


def test_a_ray_that_does_not_answer_is_said_where_it_is_needed(told, monkeypatch):
    def refuse(**arguments: object) -> None:
        raise UserError("ray.address=x: no Ray answers there")

    monkeypatch.setattr(session, "connect", refuse)
    ray = RayDriver({"address": "x"}, ask_cards=True)
    ray.begin()
    with pytest.raises(UserError, match="no Ray answers"):
        ray.cluster()
    ray.close()


def test_sigterm_unwinds_the_stack_from_then_on(told):
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    ray = RayDriver({})
    ray.cluster()
    ray.close()
    with pytest.raises(SystemExit):
        signal.raise_signal(signal.SIGTERM)


def test_a_result_is_there_when_it_is_asked_for_and_so_is_an_error():
    assert ahead(lambda: 7, "seven").result() == 7
    with pytest.raises(ZeroDivisionError):
        ahead(lambda: 1 / 0, "none").result()


def test_what_others_print_while_ray_starts_is_seen_and_what_its_core_writes_is_not():
    """In a process of its own: descriptor 2 is pytest's here."""
    code = (
        "import os, sys\n"
        "from pipeline.engine.session import _quiet_stderr\n"
        "with _quiet_stderr():\n"
        "    os.write(2, b'core\\n')\n"
        "    print('line of the log', file=sys.stderr, flush=True)\n"
        "print('after', file=sys.stderr)\n"
        "try:\n"
        "    with _quiet_stderr():\n"
        "        os.write(2, b'why\\n')\n"
        "        raise ValueError\n"
        "except ValueError:\n"
        "    pass\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "line of the log\nafter\nwhy\n")


@pytest.mark.parametrize(
    ("address", "words"),
    [(None, "starting Ray"), ("local", "starting Ray"), ("head:6379", "joining Ray at head:6379")],
)
def test_what_is_waited_for_is_told_as_long_as_it_is(told, address, words):
    ray = RayDriver({"address": address})
    assert ray.waits_for() == words
    ray.cluster()
    assert ray.waits_for() is None
    ray.close()
