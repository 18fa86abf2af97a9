"""Workers that load late, that may do without an earlier stage, and that give up a file which takes too long."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import threading

import pyarrow as pa
import pytest

from pipeline.dataset.contents import Product
from pipeline.engine import time_limit
from pipeline.engine.batch import collect
from pipeline.engine.late_worker import LateWorker
from pipeline.engine.needs import key_without
from pipeline.engine.passing import may_pass, of_card
from pipeline.engine.time_limit import TimeLimit, TookTooLong
from pipeline.engine.timing import StageClock
from pipeline.engine.worker import Worker


def product(name: str) -> Product:
    return Product(
        name, (pa.field(f"{name}_said", pa.string()),), key=f"k-{name}", stage=name, timed=f"stage.{name}"
    )


TURNS, WORDS, CLIPS, COUNT = (product(name) for name in ("turns", "words", "clips", "count"))


def table(files: int = 3) -> pa.Table:
    return pa.table(
        {
            "index": list(range(files)),
            "uri": [f"{n}.wav" for n in range(files)],
            "duration_s": [1.0] * files,
            "done_at": [0.0] * files,
            "long": [False] * files,
            "views": ['{"mono": ["mono", 8000, 1]}'] * files,
        }
    )


class Says(LateWorker):
    """A stand-in that says what it is told for each file, or raises it."""

    loads = 0

    def load(self) -> None:
        type(self).loads += 1

    def process(self, tracks, clock: StageClock) -> None:
        self.load_once(clock)
        self.one_by_one(tracks, self.products[0].name, self._say)

    def _say(self, track) -> None:
        self.in_time(track)
        said = self.told[track.index]
        if isinstance(said, BaseException):
            raise said
        track.values[f"{self.products[0].name}_said"] = said
        self.done(track, self.products[0].name)


class Cuts(Worker):
    """A stand-in that makes two products of what there is of turns and words."""

    def process(self, tracks, clock: StageClock) -> None:
        for track in tracks:
            for name in track.due:
                found = [track.found("turns_said"), track.found("words_said")]
                track.values[f"{name}_said"] = "+".join(filter(None, found))
                self.done(track, name)


def says(of: Product, told: list, **more) -> Says:
    return Says(stage=of.name, products=(of,), torch=False, told=told, **more)


def cut(turns: list, words: list) -> pa.Table:
    cuts = Cuts(
        stage="clips",
        products=(CLIPS, COUNT),
        torch=False,
        needs={"turns": (TURNS,), "words": (WORDS,)},
        spares={"clips": ("turns", "words")},
    )
    return cuts(says(WORDS, words)(says(TURNS, turns)(table())))


def test_a_product_is_made_of_what_there_is_and_says_what_it_lacks():
    found = cut(["t"] * 3, ["w", ValueError("no"), OSError("away")])
    assert found["clips_said"].to_pylist() == ["t+w", "t", "t"]
    assert found["count_said"].to_pylist() == ["t+w", None, None], "this one cannot do without"
    without = key_without("k-clips", ["words"])
    assert found["key@clips"].to_pylist() == ["k-clips", without, without]
    assert without != "k-clips"
    # What will never be there is not asked for again; what was away is.
    assert found["failkey@clips"].to_pylist() == [None, "k-clips", None]
    _, for_good, for_now = collect(found, "failures")
    assert [(f["stage"], f["extractor_key"]) for f in for_good] == [
        ("stage.words", "k-words"),
        ("stage.count", "k-count"),
        ("stage.clips", "k-clips"),
    ]
    assert [f["extractor_key"] for f in for_now] == [None, None, None]
    assert for_good[2]["message"] == "made without words, which found nothing out of this track"


def test_of_nothing_at_all_nothing_is_made():
    found = cut([ValueError("no")] * 3, [ValueError("no")] * 3)
    assert found["clips_said"].null_count == 3
    assert found["key@clips"].null_count == 3
    assert all(len(failures) == 4 for failures in collect(found, "failures"))


@pytest.mark.parametrize("error", [RuntimeError("CUDA out of memory"), MemoryError(), OSError("away")])
def test_what_may_pass_is_tried_again(error):
    found = says(WORDS, [error, ValueError("for good"), "w"])(table())
    first, second, third = collect(found, "failures")
    assert [f["extractor_key"] for f in (*first, *second)] == [None, "k-words"]
    assert third == []


@pytest.mark.parametrize("error", [RuntimeError("[ONNX] mismatched dimensions"), RecursionError("too deep")])
def test_what_a_runtime_says_of_the_file_it_will_say_again(error):
    [[failure]] = collect(says(WORDS, [error])(table(1)), "failures")
    assert failure["extractor_key"] == "k-words"


@pytest.mark.parametrize(
    ("error", "passes", "card"),
    [
        (RuntimeError("CUDA failed with error out of memory"), True, True),
        (RuntimeError("Library libcublas.so.12 is not found or cannot be loaded"), True, True),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"), True, False),
        (RuntimeError("can't start new thread"), True, False),
        (RuntimeError("the tensor has 3 dimensions"), False, False),
        (ValueError("CUDA"), False, False),
        (TookTooLong("1 s"), True, False),
        (MemoryError(), True, False),
    ],
)
def test_which_errors_may_pass_and_which_are_of_a_card(error, passes, card):
    assert (may_pass(error), of_card(error)) == (passes, card)


def test_networks_are_loaded_where_there_is_something_to_do():
    Says.loads = 0
    idle = says(WORDS, ["w"] * 3, idle=True)
    nothing_due = table().append_column("todo", pa.array([["turns"]] * 3, pa.list_(pa.string())))
    idle(nothing_due)
    assert Says.loads == 0
    assert idle(table())["words_said"].to_pylist() == ["w"] * 3
    idle(table())
    assert Says.loads == 1


def test_those_that_will_work_load_when_they_are_made():
    class Early(Says):
        def __init__(self, **common) -> None:
            super().__init__(**common)
            self.load_unless_idle()

    Early.loads = 0
    made = Early(stage="words", products=(WORDS,), torch=False, told=["w"] * 3)
    assert Early.loads == 1
    made(table())
    assert Early.loads == 1


def test_a_file_that_takes_too_long_costs_itself(monkeypatch):
    monkeypatch.setattr(time_limit, "LEAST_S", 0.0)
    found = says(WORDS, ["w"] * 3, time_limit=1e-9)(table(2))
    assert found["words_said"].null_count == 2
    [[failure], _] = collect(found, "failures")
    # Without a key: whoever raises the limit and runs it again means these files.
    assert (failure["error_class"], failure["extractor_key"]) == ("TookTooLong", None)
    assert "hardware.time_limit" in failure["message"]
    assert says(WORDS, ["w"] * 2, time_limit=0.0)(table(2))["words_said"].null_count == 0


def test_files_of_several_threads_have_their_own_time(monkeypatch):
    monkeypatch.setattr(time_limit, "LEAST_S", 0.0)
    limit, entered, leave = TimeLimit("x", 1e-9), threading.Event(), threading.Event()

    def slow() -> None:
        with limit.of(1, 1.0):
            entered.set()
            leave.wait(10)

    other = threading.Thread(target=slow)
    other.start()
    entered.wait(10)
    limit.check(2)  # nobody is at work on it
    with pytest.raises(TookTooLong):
        limit.check(1)
    leave.set()
    other.join()
    limit.check(1)


def test_what_asks_is_alive_however_long_it_takes(monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(time_limit.time, "monotonic", lambda: now[0])
    limit = TimeLimit("x", 10.0)
    silent = 1.25 * 1000.0 + time_limit.GRACE_S
    with limit.of(1, 100.0):
        now[0] += silent - 1
        assert limit.hanging() == []
        with pytest.raises(TookTooLong):
            limit.check(1)
        now[0] += silent - 1
        assert limit.hanging() == [], "it is over its time, and has just said that it gets on"
        now[0] += 2
        assert limit.hanging() == [1]
    assert limit.hanging() == []


def test_a_process_in_which_a_file_hangs_ends_where_it_may(tmp_path):
    """And the next one that is given the file says so, instead of hanging in it."""
    program = """
        import sys, time
        from pipeline.dataset.store import Store
        from pipeline.engine import process, time_limit
        from pipeline.engine.hung import HungFiles
        time_limit.LEAST_S = time_limit.GRACE_S = 0.0
        if sys.argv[1] == "may":
            process.allow_end()
        hung = HungFiles(Store(sys.argv[2]), "run")
        limit = time_limit.TimeLimit("words", 0.01, every_s=0.05, hung=hung)
        try:
            with limit.of(7, 1.0):
                time.sleep(20 if sys.argv[1] == "may" else 0.5)
            print("got there")
        except time_limit.TookTooLong:
            print("hung before")
    """
    for word, code, said in (
        ("must not", 0, "got there\n"),
        ("may", time_limit.EXIT, ""),
        ("may", 0, "hung before\n"),
    ):
        done = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(program), word, str(tmp_path)],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert (done.returncode, done.stdout) == (code, said), done.stderr
