"""How far a stage is within one file: when it is told, who hears it, and what the ETA makes of it."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from pipeline.audio.views import View
from pipeline.dataset.contents import Product
from pipeline.engine import inline, within
from pipeline.engine.batch import Track
from pipeline.engine.driver import Pass
from pipeline.engine.inline import InlineDriver
from pipeline.engine.node import Node
from pipeline.engine.progress import Progress
from pipeline.engine.within import STALE_S, Board, Part
from pipeline.engine.within_ray import LONG_S, followed, start_board, teller
from pipeline.engine.worker import Worker

pytestmark = pytest.mark.timeout(120)
END = Node("write", "inline_stages:Receipts")
SONG = Track(3, "s3://bucket/songs/a song.flac", 1000)


class Heard(Board):
    """A board that also keeps all that it was told."""

    def __init__(self) -> None:
        super().__init__()
        self.all: list[Part] = []

    def note(self, part: Part) -> None:
        self.all.append(part)
        super().note(part)


@pytest.fixture
def heard():
    found = Heard()
    within.listen(found.note)
    yield found
    within.listen(None)


@pytest.fixture
def at(monkeypatch) -> list[float]:
    """The time, which a test may set."""
    now = [100.0]
    monkeypatch.setattr(within.time, "monotonic", lambda: now[0])
    return now


def test_where_nobody_listens_no_words_are_made():
    within.listen(None)
    within.tell("far", SONG, 0.5, lambda: pytest.fail("nobody wants them"))
    within.leave("far", [SONG])
    assert not within.listened()


def test_a_file_is_told_of_once_a_second_from_its_second_second_on(heard, at):
    for seconds in range(0, 45):
        at[0] = 100.0 + seconds / 10
        within.tell("far", SONG, seconds / 45)
    assert [round(part.share * 45) for part in heard.all] == [10, 20, 30, 40]
    assert heard.all[0] == Part(3, "far", 10 / 45, name="a song.flac", text="far 22 %", size_bytes=1000)
    assert heard.all[0].line == "a song.flac: far 22 %"


def test_a_file_that_leaves_is_done_where_anything_was_said_of_it(heard, at):
    short = Track(4, "b.flac")
    within.tell("far", SONG, 0.1)
    within.tell("far", short, 0.1)
    at[0] += 1.5
    within.tell("far", SONG, 0.6)
    within.leave("far", [SONG, short])
    assert [(part.index, part.share, part.text) for part in heard.all] == [
        (3, 0.6, "far 60 %"),
        (3, 1.0, "far done"),
    ]


def test_what_goes_wrong_with_telling_is_nobodys_trouble(at):
    for listener, text in ((lambda part: 1 / 0, None), (Heard().note, lambda: 1 / 0)):
        within.listen(listener)
        within.tell("far", SONG, 0.0, text)
        at[0] += 2.0
        within.tell("far", SONG, 0.5, text)
        within.leave("far", [SONG])
    within.listen(None)


def test_a_board_shows_what_was_heard_of_lately():
    now = [0.0]
    board = Board(lambda: now[0])
    board.note(Part(2, "far", 0.5))
    board.note(Part(1, "far", 0.5))
    now[0] = STALE_S - 1
    board.note(Part(1, "near", 0.1))
    assert board.parts() == [Part(1, "near", 0.1), Part(2, "far", 0.5)]
    now[0] = STALE_S + 1
    assert board.parts() == [Part(1, "near", 0.1)]
    board.forget([1, 9])
    assert board.parts() == []


def test_a_name_that_would_disturb_the_terminal_is_shown_in_one_line():
    assert Part(0, "far", 0.5, name="a\n\x1b[31mred.flac", text="far 50 %").line == "a [31mred.flac: far 50 %"


class Peak(Worker):
    """A stand-in that reads a track in four pieces."""

    def process(self, tracks, clock):
        for track in tracks:
            pieces = self.blocks(track, View("mono", 8000, 1), 2000)
            track.values["peak"] = max(float(np.abs(piece).max()) for piece in pieces)
            self.done(track, "peak")


class SaysItself(Peak):
    """One that knows better how far it is."""

    says_how_far = True

    def process(self, tracks, clock):
        super().process(tracks, clock)
        for track in tracks:
            self.progress(track, 0.25, lambda: "a quarter")


def peak_of(worker: type[Worker]) -> pa.Table:
    samples = np.linspace(-1, 1, 8000, dtype=np.float32)
    table = pa.table(
        {
            "index": [0],
            "uri": ["a.wav"],
            "duration_s": [1.0],
            "done_at": [0.0],
            "views": ['{"mono": ["mono", 8000, 1]}'],
            "pcm@mono": pa.array([samples.tobytes()], pa.large_binary()),
        }
    )
    product = Product("peak", (pa.field("peak", pa.float32()),), key="p", stage="listen")
    made = worker(stage="listen", products=(product,), reads=(View("mono", 8000, 1),), torch=False)
    return made(table)


def test_a_worker_says_by_itself_how_far_it_has_read(heard, monkeypatch):
    monkeypatch.setattr(within, "EVERY_S", 0.0)
    assert peak_of(Peak)["peak"].to_pylist() == [1.0]
    assert [part.text for part in heard.all] == [
        "listen 0 %", "listen 25 %", "listen 50 %", "listen 75 %", "listen done",
    ]  # fmt: skip


def test_or_in_its_own_words(heard, monkeypatch):
    monkeypatch.setattr(within, "EVERY_S", 0.0)
    peak_of(SaysItself)
    assert [part.text for part in heard.all] == ["a quarter", "listen done"]


@pytest.mark.parametrize("child", [True, False])
def test_the_driver_without_ray_hears_it_while_it_works(child, monkeypatch):
    board = Heard()
    monkeypatch.setattr(inline, "BOARD", board)
    monkeypatch.setattr(within, "EVERY_S", within.EVERY_S)  # which the stage sets
    driver = InlineDriver(child=child)
    tables = [pa.table({"index": [0]}), pa.table({"index": [1, 2]})]
    receipts = driver.receipts(Pass(tables, [Node("far", "inline_stages:SaysHowFar"), END]))
    assert next(receipts)["indexes"] == [0]
    assert board.parts() == [], "it has a row"
    assert next(receipts)["indexes"] == [1, 2]
    driver.close()
    told = [(part.index, part.text) for part in board.all]
    assert told[:2] == [(0, "far 50 %"), (0, "far done")]
    assert sorted(told[2:]) == [(1, "far 50 %"), (1, "far done"), (2, "far 50 %"), (2, "far done")]


def test_a_file_whose_process_has_died_is_no_longer_in_work(monkeypatch):
    board = Heard()
    monkeypatch.setattr(inline, "BOARD", board)
    driver = InlineDriver()
    far = Node("far", "inline_stages:SaysHowFar", {"poison": 0})
    tables = [pa.table({"index": [0]}), pa.table({"index": [1]})]
    receipts = driver.receipts(Pass(tables, [far, END]))
    assert next(receipts)["indexes"] == [1]
    assert board.parts() == []
    assert board.all[0] == Part(0, "far", 0.5, name="0.flac", text="far 50 %", size_bytes=1000)
    driver.close()


WEIGHTS = {"decode": 1.0, "features": 4.0, "master": 5.0}


def test_the_eta_counts_what_is_done_of_a_file():
    parts = [Part(0, "master", 0.5, size_bytes=300), Part(1, "features", 0.25, size_bytes=100)]
    progress = Progress(files=3, bytes=1000, parts=lambda: parts, weights=WEIGHTS)
    progress.started -= 100.0
    # 300 bytes are decoded, described, and half mastered; 100 decoded and a quarter described.
    assert progress.fields()["share_done"] == pytest.approx((300 * 0.75 + 100 * 0.2) / 1000)
    assert progress.fields()["eta_s"] == pytest.approx(100 * 0.755 / 0.245, rel=0.02)
    progress.add_unseen(0, "ok")
    assert progress.fields()["share_done"] == pytest.approx(100 * 0.2 / 1000), "its row counts, not its part"


def test_without_sizes_a_file_is_a_file_and_an_unknown_stage_nothing():
    parts = [Part(0, "master", 0.5), Part(1, "elsewhere", 0.9)]
    progress = Progress(files=2, parts=lambda: parts, weights=WEIGHTS)
    assert progress.fields()["share_done"] == pytest.approx(0.375)


def test_a_run_of_short_files_starts_no_actor():
    short = pa.table({"index": [0], "estimated_s": [LONG_S - 1]})
    assert start_board([short, pa.table({"index": [1]})]) is None
    assert teller(None) is None
    with followed(None):
        pass
