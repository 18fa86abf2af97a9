"""Which files a plan looks at: headers of all or of some, and a sample that takes a bounded time."""

import numpy as np
import pytest
import soundfile

from pipeline.audio.decode import Probe
from pipeline.dataset.sources.listing import SourceItem, list_source
from pipeline.dataset.sources.probing import Header
from pipeline.dataset.sources.sampling import Range
from pipeline.engine.packing import planned
from pipeline.workflows.plan.header_survey import Look, look, pick
from pipeline.workflows.plan_config import PlanConfig


def seen(*seconds: float | None) -> Look:
    """Files whose headers say so; None has no header that can be read."""
    files = planned(SourceItem(f"{i}.wav", round(1000 * (s or 1))) for i, s in enumerate(seconds))
    headers = {
        i: Header() if s is None else Header(Probe("wav", "pcm_s16le", 8000, 1, s))
        for i, s in enumerate(seconds)
    }
    total = sum(s or 0 for s in seconds)
    return Look(
        files, headers, [f.item.size_bytes for f in files], Range(total, total, total), Range(0, 0, 0)
    )


def test_the_sample_is_bounded_by_files_and_by_audio():
    many = seen(*np.linspace(5, 30, 400))
    assert len(pick(many, PlanConfig()).files) == 24
    few = pick(many, PlanConfig(max_minutes=2))
    assert 60 < sum(many.seconds(i) for i in few.files) <= 120
    assert few == pick(many, PlanConfig(max_minutes=2))
    assert few.files != pick(many, PlanConfig(max_minutes=2, seed=1)).files
    assert pick(many, PlanConfig(sample=0)).files == []


def test_a_small_set_is_not_run_twice_over():
    small = seen(*[30.0] * 12)
    assert sum(small.seconds(i) for i in pick(small, PlanConfig()).files) == 90


def test_long_files_are_passed_over_and_counted():
    mixed = seen(*[20.0] * 50, 7200.0, 9000.0)
    found = pick(mixed, PlanConfig())
    assert found.too_long == 2
    assert found.longest_s == 300
    assert max(mixed.seconds(i) for i in found.files) == 20


def test_of_long_files_only_the_shortest_is_taken():
    found = pick(seen(9000.0, 7200.0, 8000.0), PlanConfig())
    assert (found.files, found.too_long) == ([1], 3)


def test_files_without_a_header_are_tried_apart():
    found = pick(seen(None, 5.0, *[None] * 20), PlanConfig())
    assert found.files == [1]
    assert len(found.broken) == 8


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """60 WAV files of 0.1 to 6 s, and one that is none."""
    root = tmp_path_factory.mktemp("many")
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, 48000)
    for number in range(60):
        soundfile.write(root / f"{number:02d}.wav", noise[: 800 * (number + 1)], 8000)
    (root / "none.wav").write_text("no audio")
    return root


def test_all_headers_of_few_files_and_a_sample_of_many(folder):
    files = planned(list_source(str(folder)))
    truth = sum(0.1 * (n + 1) for n in range(60))
    whole = look(files, {}, PlanConfig())
    assert whole.complete
    assert whole.audio_s.expected == pytest.approx(truth)
    assert whole.audio_s.low == whole.audio_s.high == whole.audio_s.expected
    assert (len(whole.good), len(whole.broken)) == (60, 1)
    assert whole.unreadable == Range(*(pytest.approx(1 / 61),) * 3)
    assert [(f["container"], f["files"]) for f in whole.formats] == [("wav", 60)]
    some = look(files, {}, PlanConfig(headers=20))
    assert len(some.headers) == 20
    assert some.audio_s.expected == pytest.approx(truth, rel=1e-3)  # 44 bytes of header are all that differs
    assert some.audio_s.low < some.audio_s.expected < some.audio_s.high
    assert some.unreadable.low < some.unreadable.high


def test_without_files_there_is_nothing_to_see():
    nothing = look([], {}, PlanConfig())
    assert (nothing.audio_s.expected, nothing.formats, list(nothing.durations())) == (0, [], [])
    assert pick(nothing, PlanConfig()).files == []
