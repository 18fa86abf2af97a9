"""The algebra of segments, against sets of small steps of time, and its edges."""

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.speech import segments
from pipeline.speech.segments import Clip, Coverage, Passage, Region, Turn, Word

# Spans of whole steps: each is the set of steps that it covers, so that sets say what the algebra has to.
STEPS = 24
steps = st.integers(0, STEPS)
spans = st.lists(st.tuples(steps, steps).map(lambda pair: Region(min(pair), max(pair))), max_size=8)
turns = st.lists(
    st.tuples(steps, steps, st.sampled_from("abc")).map(lambda t: Turn(min(t[:2]), max(t[:2]), t[2])),
    max_size=8,
)


def covered(regions):
    return {step for region in regions for step in range(int(region.start_s), int(region.end_s))}


def is_tidy(regions):
    """In order, none empty, none that overlaps with the next or touches it."""
    return all(region.start_s < region.end_s for region in regions) and all(
        before.end_s < after.start_s for before, after in pairwise(regions)
    )


@settings(deadline=None)
@given(spans, spans)
def test_union_intersection_and_subtraction_are_those_of_sets(first, second):
    for result, expected in (
        (segments.union(first, second), covered(first) | covered(second)),
        (segments.intersection(first, second), covered(first) & covered(second)),
        (segments.subtraction(first, second), covered(first) - covered(second)),
        (segments.gaps(first, STEPS), set(range(STEPS)) - covered(first)),
    ):
        assert covered(result) == expected
        assert is_tidy(result)


@settings(deadline=None)
@given(spans)
def test_total_counts_overlap_once(first):
    assert segments.total_s(first) == len(covered(first))


@settings(deadline=None)
@given(spans, st.integers(0, 5))
def test_merge_closes_gaps_up_to_the_one_given(first, gap):
    merged = segments.merge(first, gap)
    assert covered(first) <= covered(merged)
    assert all(after.start_s - before.end_s > gap for before, after in pairwise(merged))
    for region in segments.gaps(first, STEPS):
        inside = covered([region]) & covered(merged)
        between = region.start_s > 0 and region.end_s < STEPS
        assert inside in (set(), covered([region]))
        assert bool(inside) == (between and bool(covered(first)) and region.end_s - region.start_s <= gap)


@settings(deadline=None)
@given(turns)
def test_overlaps_are_where_two_speakers_speak(some):
    expected = {
        step
        for step in range(STEPS)
        if len({turn.speaker for turn in some if turn.start_s <= step < turn.end_s}) >= 2
    }
    found = segments.overlaps(some)
    assert covered(found) == expected
    assert is_tidy(found)
    for turn in segments.mark_overlaps(some):
        assert turn.overlap == bool(covered([turn]) & expected)


@settings(deadline=None)
@given(spans, steps, steps)
def test_coverage_is_what_lies_in_a_stretch(first, one, other):
    start, end = min(one, other), max(one, other)
    cover = Coverage(first)
    assert cover.seconds(start, end) == pytest.approx(len(covered(first) & set(range(start, end))))
    assert bool(cover.holds(start)) == (start in covered(first))


@settings(deadline=None)
@given(spans, steps, steps)
def test_clamp_keeps_what_lies_inside(first, one, other):
    start, end = min(one, other), max(one, other)
    clamped = segments.clamp(first, start, end)
    assert covered(clamped) == covered(first) & set(range(start, end))
    assert all(start <= region.start_s <= region.end_s <= end for region in clamped)


def test_clamp_keeps_what_a_turn_says():
    assert segments.clamp([Turn(-1, 5, "a", 0.5, True)], 0, 3) == [Turn(0, 3, "a", 0.5, True)]
    inside = Word("yes", 1, 2, 0.9)
    assert segments.clamp([inside], 0, 3)[0] is inside


def test_pad_grows_together_and_stays_inside():
    padded = segments.pad([Region(1, 2), Region(3, 4), Region(9.5, 9.9), Region(6, 6)], 0.5, 10)
    assert padded == [Region(0.5, 4.5), Region(9.0, 10.0)]


@settings(deadline=None)
@given(st.integers(0, 2**50), st.sampled_from([8000, 11025, 16000, 22050, 44100, 48000, 192000, 7]))
def test_samples_survive_seconds_exactly(sample, rate):
    assert segments.sample_of(segments.seconds_of(sample, rate), rate) == sample


def test_arrays_of_regions_come_back():
    pairs = np.array([[0.5, 1.25], [2.0, 7.0]])
    np.testing.assert_array_equal(segments.pairs_of(segments.regions_of(pairs)), pairs)
    assert segments.regions_of(np.zeros((0, 2))) == []
    assert segments.pairs_of([]).shape == (0, 2)
    with pytest.raises(ValueError, match="shape"):
        segments.regions_of(np.zeros(4))


@pytest.mark.parametrize("times", [(math.nan, 1), (0, math.inf), (-math.inf, 1), (2, 1)])
def test_a_span_of_no_time_is_refused(times):
    for make in (
        Region,
        lambda start, end: Turn(start, end, "a"),
        lambda start, end: Word("a", start, end, 1.0),
        lambda start, end: Passage(index=0, start_s=start, end_s=end),
    ):
        with pytest.raises(ValueError, match=r"finite|ends"):
            make(*times)


def test_measures_are_finite_or_none():
    assert Word("a", 0, 1).probability is None
    with pytest.raises(ValueError, match="probability"):
        Word("a", 0, 1, math.nan)
    with pytest.raises(ValueError, match="confidence"):
        Turn(0, 1, "a", math.inf)
    with pytest.raises(ValueError, match="avg_logprob"):
        Passage(index=0, start_s=0, end_s=1, avg_logprob=-math.inf)


def test_numbers_of_numpy_become_floats():
    word = Word("a", np.float32(0.5), np.int64(2), np.float32(0.25))
    assert [type(value) for value in (word.start_s, word.end_s, word.probability)] == [float] * 3


def test_a_clip_says_why_it_is_dropped():
    given_ = {"segment_id": "0", "start_s": 0, "end_s": 1, "start_sample": 0, "end_sample": 16000}
    assert Clip(**given_).keep
    with pytest.raises(ValueError, match="reason"):
        Clip(**given_, keep=False)
    with pytest.raises(ValueError, match="reason"):
        Clip(**given_, drop_reason="short")


@pytest.mark.parametrize("length", [-1, math.nan, math.inf])
def test_lengths_are_finite_and_not_negative(length):
    with pytest.raises(ValueError, match="finite and not negative"):
        segments.merge([], length)
    with pytest.raises(ValueError, match="finite and not negative"):
        segments.gaps([], length)
    with pytest.raises(ValueError, match="finite and not negative"):
        segments.pad([], length, 1)


def test_samples_need_a_rate_and_a_time():
    with pytest.raises(ValueError, match="positive"):
        segments.sample_of(1.0, 0)
    with pytest.raises(ValueError, match="positive"):
        segments.seconds_of(1, -1)
    with pytest.raises(ValueError, match="finite"):
        segments.sample_of(math.nan, 8000)
