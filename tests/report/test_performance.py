"""What the report and the manifest say about fallbacks: bounded, and complete in their sum."""

from __future__ import annotations

from collections import Counter

from pipeline.engine.progress import OTHERS, Progress
from pipeline.report.performance import fallback_counts, performance

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
