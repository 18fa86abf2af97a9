"""What the report and the manifest say about fallbacks: bounded, and complete in their sum."""

from __future__ import annotations

from collections import Counter

import pytest

from pipeline.engine.progress import OTHERS, Progress
from pipeline.report.performance import fallback_counts, markdown, performance
from pipeline.workflows.execution import summary_text

KEYS = ("stage", "wanted", "used", "reason")


def progress_with(fallbacks: dict[tuple[str, str, str, str], int]) -> Progress:
    return Progress(files=1, fallbacks=Counter(fallbacks))


def test_the_most_frequent_kinds_come_first_and_ties_are_in_order():
    found = {("clap", "x", "none", "b"): 2, ("clap", "x", "none", "a"): 2, ("decode", "y", "z", "c"): 7}
    counts = fallback_counts(progress_with(found))
    assert [tuple(f[k] for k in KEYS) for f in counts] == sorted(found, key=lambda k: (-found[k], k))
    assert [f["count"] for f in counts] == [7, 2, 2]


def test_what_is_left_out_is_counted_per_stage():
    found = {("decode", "finite samples", "0", f"{n} NaN"): 1 + n for n in range(100)}
    found |= {("clap", "bf16", "fp32", "why"): 1, ("decode", *OTHERS): 1000}
    counts = fallback_counts(progress_with(found), most=50)
    assert len(counts) == 52
    assert sum(f["count"] for f in counts) == sum(found.values())
    clap, decode = counts[-2:]
    assert clap == {"stage": "clap", **dict.fromkeys(KEYS[1:], "other"), "count": 1}
    assert decode == {
        "stage": "decode",
        **dict.fromkeys(KEYS[1:], "other"),
        "count": 1000 + sum(range(1, 51)),
    }


def test_a_run_without_fallbacks_says_so():
    assert performance("r", Progress(files=0), 1.0, 0.0, {})["fallbacks"] == []


def staged(hits: int) -> Progress:
    sums = {"compute_s": 1.0, "wait_s": 0.0, "padding_weighted": 0.0, "rows": 4, "device": "cpu"}
    stages = {"features.mel": {**sums, "cache_hits": hits}, "write": {**sums, "cache_hits": 0}}
    return Progress(files=4, stages=stages)


def test_hits_and_misses_are_counted_where_there_is_a_cache():
    left = {
        "shards": 2,
        "bytes": 3_000_000,
        "removed_shards": 1,
        "removed_bytes": 500_000,
        "merged_shards": 0,
    }
    numbers = performance("r", staged(3), 1.0, 0.0, {}, cache=left)
    assert numbers["cache"] == {"hits": 3, "misses": 1, **left}
    assert numbers["stages"]["features.mel"]["cache_hits"] == 3
    text = markdown(numbers, {"cpu_count": 1, "python": "3", "packages": {"ray": "2", "torch": "2"}})
    assert "3 results from it, 1 computed. It holds 3.0 MB in 2 shards; 0.5 MB were evicted." in text
    off = performance("r", staged(0), 1.0, 0.0, {})
    assert off["cache"] is None
    assert "Result cache" not in markdown(
        off, {"cpu_count": 1, "python": "3", "packages": {"ray": "2", "torch": "2"}}
    )


def with_a_copy() -> Progress:
    progress = Progress(files=3, audio_s=600.0)
    progress.committed.update((0, 1))
    progress.status["ok"] = 2
    progress.add_copy(2, "ok", 100, audio_s=370.0)
    return progress


def test_the_audio_that_is_said_is_the_one_whose_speed_is_said_and_copies_are_named():
    numbers = performance("r", with_a_copy(), 60.0, 1.0, {}) | {"command_s": 70.0}
    assert (numbers["audio_s"], numbers["real_time_factor"]) == (600.0, 10.0)
    assert (numbers["copies"], numbers["copies_audio_s"]) == (1, 370.0)
    said = "1 copy of what was computed, 6 min 10 s of audio"
    assert f"10 min 00 s of audio in 1 min 00 s: 10.0× real time, and {said}" in summary_text(
        with_a_copy(), numbers
    )
    environment = {"cpu_count": 1, "python": "3.11", "packages": {"ray": "2", "torch": "2"}}
    page = markdown(numbers, environment)
    assert f"Besides {said}." in page
    assert "Machine: 1 CPU, " in page


def test_without_copies_nothing_is_said_of_them():
    numbers = performance("r", Progress(files=1, audio_s=60.0), 60.0, 1.0, {}) | {"command_s": 70.0}
    text = summary_text(Progress(files=1, audio_s=60.0), numbers)
    assert "cop" not in text
    assert text.startswith("1 file (0 ok")


@pytest.mark.parametrize(("compute_s", "said"), [(90.0, True), (6.0, False)])
def test_a_run_that_mostly_waited_for_its_workers_says_nothing_of_a_speed_up(compute_s, said):
    numbers = performance("r", Progress(files=1, audio_s=60.0), 60.0, 1.0, {}) | {"command_s": 70.0}
    numbers["parallel_speedup"] = compute_s / 60.0
    text = summary_text(Progress(files=1, audio_s=60.0), numbers)
    assert text.endswith("no GPU, parallel speed-up 1.5×" if said else "; no GPU")
