"""A song on its way: a thread beside changes no bit, loudness so far is that of what is there, and how it is told."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from test_master_song import EVERYTHING, RATE, mastered, song

from pipeline.audio.reader import ArrayReader
from pipeline.dsp.bs1770 import integrated_loudness, measure_steps
from pipeline.mastering import shaped
from pipeline.mastering import song as song_module
from pipeline.mastering.meter import Meter
from pipeline.mastering.shaped import InOrder, thread_beside
from pipeline.mastering.song import Mastering
from pipeline.mastering.wish import Wish
from pipeline.stages.master.telling import Telling


@pytest.mark.parametrize("held", [True, False])
def test_a_thread_beside_changes_no_bit(held, monkeypatch):
    monkeypatch.setattr(song_module, "PIECE", 1 << 15)
    monkeypatch.setattr(shaped, "_IN_MEMORY", (128 << 20) if held else 0)
    samples = song(6.0)
    plan, master = mastered(samples, Wish(EVERYTHING))
    with thread_beside() as beside:
        same, other = mastered(samples, Wish(EVERYTHING), beside=beside)
    assert same == plan
    np.testing.assert_array_equal(other, master)


@pytest.mark.parametrize("beside", [True, False])
def test_calls_are_made_in_order_and_what_they_raise_is_raised(beside):
    done: list[int] = []
    with ThreadPoolExecutor(1) as pool:
        with InOrder(pool if beside else None) as calls:
            for number in range(20):
                calls.do(done.append, number)
        assert done == list(range(20))
        with pytest.raises(ZeroDivisionError), InOrder(pool if beside else None) as calls:
            calls.do(divmod, 1, 0)
        with pytest.raises(KeyError, match="first"):
            _fails_twice(InOrder(pool))


def test_what_fails_is_raised_once_nothing_runs_any_more():
    begun, may_end, ended = threading.Event(), threading.Event(), threading.Event()

    def last() -> None:
        begun.set()
        may_end.wait(60)
        ended.set()

    with ThreadPoolExecutor(1) as pool:
        calls = InOrder(pool)
        calls.do(divmod, 1, 0)
        calls.do(last)
        assert begun.wait(60)
        threading.Timer(0.05, may_end.set).start()
        with pytest.raises(ZeroDivisionError):
            calls.__exit__(None, None, None)
        assert ended.is_set()


def _fails_twice(line: InOrder) -> None:
    with line as calls:
        calls.do(divmod, 1, 0)
        raise KeyError("first")


@pytest.mark.parametrize("channels", [1, 2])
def test_loudness_so_far_is_that_of_what_is_there(channels):
    samples, meter = song(4.0, channels=channels), Meter(RATE, channels, spectrum=False)
    assert meter.lufs_so_far() is None
    for start in range(0, samples.shape[1], RATE):
        meter.add(samples[:, start : start + RATE])
    so_far = meter.lufs_so_far()
    # What is weighted at once is some 3 s here: all of that is known, and the rest not yet.
    whole = samples[:, : int(samples.shape[1] * 0.8)]
    assert so_far == pytest.approx(integrated_loudness(measure_steps([whole], channels, RATE)), abs=0.5)
    assert meter.result().levels.lufs == pytest.approx(so_far, abs=0.5), "more could follow"


def test_what_a_run_says_of_a_song():
    said: list[tuple[float, str]] = []
    telling = Telling(lambda share, words: said.append((share, words())))
    with Mastering(ArrayReader(song(6.0)), RATE, Wish(EVERYTHING), progress=telling) as mastering:
        telling.mastering = mastering
        plan = mastering.settle()
        rendered = mastering.render(plan, lambda block: None)
    assert [words.split()[0] for _, words in said] == sorted(
        (words.split()[0] for _, words in said), key=["listening", "shaping", "rendering"].index
    )
    shares = [share for share, _ in said]
    assert shares == sorted(shares)
    assert shares[-1] == pytest.approx(0.9)
    last = said[-1][1]
    assert last.startswith("rendering 100 %, -")
    assert float(last.split()[3]) == pytest.approx(rendered.measured.levels.lufs, abs=0.5)
    assert last.endswith("LUFS so far")
    telling("encode", 0.5)
    telling("render", 0.5)
    assert said[-2][1] == "encoding 50 %"
    assert said[-1][1].endswith(", round 2")
