"""What the base of all workers sees to: views that are not there, arguments, products that cannot be."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from pipeline.audio.views import View
from pipeline.dataset.contents import Product
from pipeline.engine.batch import collect
from pipeline.engine.made_views import MadeView
from pipeline.engine.worker import Worker

RATE = 8000
CLEAN = View("clean", RATE, 1, maker="denoise")
DENOISED = Product("denoised", (pa.field("denoised_samples", pa.int64()),), key="d", stage="denoise")
WORDS = Product("words", (pa.field("words_peak", pa.float32()),), key="w", stage="listen")


class Denoise(Worker):
    """A stand-in that makes half of each track but the second, of which it fails: for good or for now."""

    def process(self, tracks, clock):
        for track in tracks:
            if track.index == 1:
                track.fail("denoise", ValueError("no"), key="d" if self.for_good else None)
                continue
            made = MadeView(track, CLEAN, 1, RATE)
            made.write(np.full((1, RATE), 0.5, np.float32))
            made.done()
            track.values["denoised_samples"] = RATE
            self.done(track, "denoised")


class Listen(Worker):
    """A stand-in that says the peak of what it hears."""

    def process(self, tracks, clock):
        for track in tracks:
            track.values["words_peak"] = max(np.abs(block).max() for block in self.blocks(track, CLEAN))
            self.done(track, "words")


def through(long: bool, for_good: bool) -> pa.Table:
    """Three tracks, two that travel or are too long to, and one that could not be decoded."""
    table = pa.table(
        {
            "index": [0, 1, 2],
            "uri": ["a", "b", "c"],
            "duration_s": [1.0, 1.0, None],
            "done_at": [0.0] * 3,
            "long": pa.array([long, long, None]),
            "views": ['{"mono": ["mono", 8000, 1]}', '{"mono": ["mono", 8000, 1]}', "{}"],
        }
    )
    common = {"torch": False, "drop": frozenset()}
    denoise = Denoise(
        stage="denoise",
        products=(DENOISED,),
        makes=(CLEAN,),
        feeds=frozenset({"words"}),
        for_good=for_good,
        **common,
    )
    listen = Listen(stage="listen", products=(WORDS,), reads=(CLEAN,), torch=False, drop=frozenset({"clean"}))
    return listen(denoise(table))


@pytest.mark.parametrize("long", [False, True], ids=["travels", "long"])
@pytest.mark.parametrize("for_good", [False, True], ids=["for now", "for good"])
def test_a_view_that_was_not_made_is_a_failure_and_never_the_file_s_own_sound(long, for_good):
    found = through(long, for_good)
    assert found["words_peak"].to_pylist() == [0.5, None, None]
    assert found["key@words"].to_pylist() == ["w", None, None]
    made, failed, undecoded = collect(found, "failures")
    assert made == undecoded == []
    [first, second] = failed
    assert (first["stage"], second["stage"]) == ("denoise", "listen")
    assert (second["error_class"], second["message"]) == (
        "ViewMissing",
        "denoise made no view clean of this track",
    )
    assert second["extractor_key"] == ("w" if for_good else None), "tried again when its maker is"


def test_an_argument_does_not_take_the_place_of_what_a_worker_is():
    with pytest.raises(ValueError, match="stage x: an argument cannot be called process"):
        Worker(stage="x", torch=False, process=3)


class Count(Worker):
    """A stand-in that reads what `Denoise` has filled in."""

    def process(self, tracks, clock):
        for track in tracks:
            track.values["words_peak"] = float(track.found("denoised_samples"))
            self.done(track, "words")


@pytest.mark.parametrize("for_good", [False, True], ids=["for now", "for good"])
def test_rows_that_are_not_there_are_a_failure_and_never_nothing(for_good):
    before = through(False, for_good).select(["index", "uri", "duration_s", "done_at", "long", "views"])
    denoise = Denoise(stage="denoise", products=(DENOISED,), torch=False, for_good=for_good)
    count = Count(stage="count", products=(WORDS,), torch=False, needs={"denoise": (DENOISED,)})
    found = count(denoise(before))
    assert found["words_peak"].to_pylist() == [RATE, None, None]
    _, [_, failure], undecoded = collect(found, "failures")
    assert (failure["stage"], failure["error_class"]) == ("count", "RowsMissing")
    assert failure["extractor_key"] == ("w" if for_good else None)
    assert undecoded == []
