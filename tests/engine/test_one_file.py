"""One file at a time: whatever a file does to its worker, whoever waits hears of it, and the next one is worked on."""

import os
import threading
import time

import pyarrow as pa
import pytest

from pipeline.engine.answer import AnswerWorker
from pipeline.engine.guard import StageFailed
from pipeline.engine.node import Node
from pipeline.engine.one_file import GivenUp, OverMemory, PlaceLost, ProcessPlace, deadline, held_bytes

pytestmark = pytest.mark.timeout(120)
NODES = [
    Node("obedient", "one_file_stages:Obedient"),
    Node("answer", AnswerWorker, {"columns": ["pid", "nothing"]}),
]
OTHERS = [*NODES]


def forever():
    return None


def file(uri: str) -> pa.Table:
    return pa.table({"index": [0], "uri": [uri]})


@pytest.fixture
def place():
    made = ProcessPlace(memory_limit_bytes=400 << 20)
    yield made
    made.end()


def test_files_share_a_process_and_other_stages_are_made_anew(place):
    first, second = (place.work(NODES, file("well"), forever) for _ in range(2))
    assert first.values == second.values
    assert first.values["pid"] not in (None, os.getpid())
    assert set(first.seconds) == {"obedient", "answer"}
    assert place.memory_bytes() > 10 << 20
    assert place.work(OTHERS, file("well"), forever).values["pid"] == first.values["pid"]


@pytest.mark.parametrize(
    ("uri", "error", "words"),
    [
        ("die", PlaceLost, "SIGKILL"),
        ("raise", StageFailed, r"ZeroDivisionError: on purpose \(in obedient\)"),
        ("grow", OverMemory, "may hold 400"),
    ],
)
def test_a_file_costs_itself_only(place, uri, error, words):
    with pytest.raises(error, match=words):
        place.work(NODES, file(uri), forever)
    assert place.memory_bytes() == 0
    assert place.work(NODES, file("well"), forever).values["pid"] > 0


def test_who_waits_may_have_enough(place):
    place.prepare(NODES, forever)
    with pytest.raises(GivenUp, match="enough"):
        place.work(NODES, file("hang"), deadline(0.3, "enough"))
    assert place.memory_bytes() == 0


def test_stages_that_cannot_be_made_say_so(place):
    broken = [Node("obedient", "one_file_stages:Obedient", {"refuses": True}), NODES[-1]]
    for _ in range(2):
        with pytest.raises(StageFailed, match="no weights here"):
            place.work(broken, file("well"), forever)
    assert place.work(NODES, file("well"), forever).values["pid"] > 0


def test_another_thread_may_end_it(place):
    place.prepare(NODES, forever)
    ended = threading.Event()

    def reason():
        return "the service ends" if ended.is_set() else None

    threading.Timer(0.3, ended.set).start()
    with pytest.raises(GivenUp, match="the service ends"):
        place.work(NODES, file("hang"), reason)


def test_a_deadline():
    assert deadline(100.0, "late")() is None
    passed = deadline(0.0, "late")
    time.sleep(0.01)
    assert passed() == "late"


def test_nobody_holds_nothing():
    assert held_bytes(None) == 0
    assert held_bytes(os.getpid()) > 0
