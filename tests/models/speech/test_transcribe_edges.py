from __future__ import annotations

import numpy as np
import pytest

from pipeline.models.speech.transcribe.edges import snap_words
from pipeline.models.speech.transcribe.transcript import RecognisedWord


def words_at(*times: tuple[float, float]) -> list[RecognisedWord]:
    return [RecognisedWord(f"w{i}", start, end, 0.9) for i, (start, end) in enumerate(times)]


def times_of(words: list[RecognisedWord]) -> list[tuple[float, float]]:
    return [(round(word.start_s, 9), round(word.end_s, 9)) for word in words]


def test_outer_edges_go_onto_the_edges_of_speech_and_inner_ones_stay():
    words = words_at((0.8, 1.4), (1.4, 1.9), (1.9, 2.7))
    snapped = snap_words(words, np.array([[1.0, 2.5]]))
    assert times_of(snapped) == [(1.0, 1.4), (1.4, 1.9), (1.9, 2.5)]
    assert [word.word for word in snapped] == ["w0", "w1", "w2"]


def test_late_starts_and_early_ends_are_drawn_out():
    assert times_of(snap_words(words_at((1.3, 1.5), (1.5, 2.2)), np.array([[1.0, 2.5]]))) == [
        (1.0, 1.5),
        (1.5, 2.5),
    ]


def test_no_edge_goes_further_than_its_reach():
    words = words_at((1.5, 1.6), (1.6, 2.0))
    assert times_of(snap_words(words, np.array([[1.0, 2.5]]))) == times_of(words)
    assert times_of(snap_words(words, np.array([[1.0, 2.5]]), reach_s=0.5)) == [(1.0, 1.6), (1.6, 2.5)]


def test_a_word_that_reaches_over_a_pause_loses_it():
    words = words_at((0.0, 0.6), (0.6, 2.4), (2.4, 3.0))
    snapped = snap_words(words, np.array([[0.0, 0.9], [1.8, 3.0]]))
    assert times_of(snapped) == [(0.0, 0.9), (1.8, 2.4), (2.4, 3.0)]


def test_a_word_far_from_all_speech_is_as_it_was():
    words = words_at((0.1, 0.3), (5.0, 5.5), (9.0, 9.1))
    assert times_of(snap_words(words, np.array([[5.1, 5.4]]))) == [(0.1, 0.3), (5.1, 5.4), (9.0, 9.1)]


def test_nothing_to_snap_or_to_snap_to():
    words = words_at((0.1, 0.3))
    assert snap_words(words, np.zeros((0, 2))) == words
    assert snap_words([], np.array([[0.0, 1.0]])) == []


@pytest.mark.parametrize("seed", range(60))
def test_words_stay_in_order_without_overlap_and_none_is_negative(seed):
    rng = np.random.default_rng(seed)
    bounds = np.cumsum(rng.exponential(0.15, 60) * (rng.random(60) > 0.2))
    words = words_at(*bounds.reshape(-1, 2).tolist())
    regions = np.cumsum(rng.exponential(0.5, 16)).reshape(-1, 2)
    reach = rng.uniform(0, 1)
    snapped = snap_words(words, regions, reach)
    assert [word.word for word in snapped] == [word.word for word in words]
    flat = [t for word in snapped for t in (word.start_s, word.end_s)]
    assert flat == sorted(flat)
    moved = 0
    for before, after in zip(words, snapped, strict=True):
        if (after.start_s, after.end_s) != (before.start_s, before.end_s):
            moved += 1
            inside = (regions[:, 0] <= after.start_s + 1e-9) & (after.end_s <= regions[:, 1] + 1e-9)
            assert inside.any()
    assert moved > 0
    # Once is enough.
    assert snap_words(snapped, regions, reach) == snapped


def test_snapping_leaves_the_callers_words_alone():
    words = words_at((0.8, 1.4))
    snap_words(words, np.array([[1.0, 2.0]]))
    assert times_of(words) == [(0.8, 1.4)]
