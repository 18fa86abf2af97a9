"""What is worth listening to, and what is there twice."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.report.outliers import (
    MOST,
    clipped,
    equal_contents,
    near_duplicates,
    off_target,
    outliers,
    over_full_scale,
    robust_z,
    silent,
    similar_pairs,
    unusual_loudness,
)
from pipeline.report.overview import NUMBERS, Overview


def dataset(count: int = 20, **columns: list[float]) -> Overview:
    """Tracks 1, 2, 3, … of which only ``columns`` are known."""
    count = max([count, *map(len, columns.values())])
    found = Overview(ids=np.arange(1, count + 1, dtype=np.uint64))
    for name in NUMBERS:
        values = np.full(count, np.nan, np.float32)
        values[: len(columns.get(name, ()))] = columns.get(name, ())
        found.values[name] = values
    return found


def listed(kind) -> list[int]:
    return [ids[0] for ids, _ in kind.items]


def test_the_most_clipped_come_first():
    kind = clipped(dataset(quality_clipping_ratio=[0, 0.01, np.nan, 0.2, 0.01]))
    assert (kind.total, listed(kind)) == (3, [4, 2, 5])
    assert kind.items[0][1].startswith("20.000")


def test_at_most_twenty_are_listed_and_all_are_counted():
    kind = over_full_scale(dataset(loudness_true_peak_dbtp=[0.5] * 33 + [0.0, -1.0]))
    assert kind.total == 33
    assert listed(kind) == list(range(1, MOST + 1))


def test_silence_is_told_by_its_frames_and_else_by_its_level():
    assert listed(silent(dataset(quality_silence_ratio=[0.1, 1.0, 0.95, 0.89]))) == [2, 3]
    assert listed(silent(dataset(loudness_rms_dbfs=[-20, -61, -90, np.nan]))) == [3, 2]


def test_what_is_unlike_the_rest_lies_beyond_robust_deviations():
    levels = [-14.0, -15, -16, -14, -15, -16, -14, -15, -16, -15, -40, -3]
    z = robust_z(np.array(levels))
    assert z[1] == 0
    assert z[0] == pytest.approx(0.6745)
    kind = unusual_loudness(dataset(loudness_integrated_lufs=levels))
    assert listed(kind) == [11, 12]
    assert kind.items[0][1] == "−40.0 LUFS, −25.0 LU from it"


def test_equal_levels_make_no_outlier_and_few_tracks_no_statistics():
    assert unusual_loudness(dataset(loudness_integrated_lufs=[-14.0] * 19 + [-14.4])).total == 0
    assert "at least 10" in unusual_loudness(dataset(loudness_integrated_lufs=[-14.0] * 8 + [-60])).why_none


def test_far_is_far_from_both_targets():
    kind = off_target(dataset(loudness_integrated_lufs=[-23, -14, -8.5, -7, -29.5, np.nan]))
    assert listed(kind) == [4, 5]
    assert kind.items[0][1] == "−7.0 LUFS, +7.0 LU from −14"


def test_every_kind_says_why_it_has_nothing():
    nothing = dataset(0)
    for kind in outliers(nothing):
        assert kind.total == 0
        assert kind.why_none or kind.title == "Equal contents"


def brute_force(vectors: np.ndarray, least: float) -> set[tuple[int, int]]:
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit = vectors / np.where(lengths > 0, lengths, 1)
    return {(a, b) for a, b in np.argwhere(np.triu(unit @ unit.T >= least, 1)).tolist()}


def test_similar_pairs_are_those_of_all_products():
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(1500, 512)) + 3 * rng.normal(size=512)
    vectors[600:700] = vectors[:100] + 0.02 * rng.normal(size=(100, 512))
    vectors[700:800] = vectors[:100] + np.linspace(0.3, 1.2, 100)[:, None] * rng.normal(size=(100, 512))
    vectors[9] = 0
    vectors = vectors.astype(np.float32)
    expected = brute_force(vectors, 0.98)
    assert len(expected) > 120
    total, pairs = similar_pairs(vectors, 0.98)
    assert total == len(expected)
    assert {(a, b) for _, a, b in pairs} == expected
    assert [c for c, _, _ in pairs] == sorted((c for c, _, _ in pairs), reverse=True)


def test_of_a_dataset_that_is_all_the_same_every_pair_counts_and_few_are_kept():
    total, pairs = similar_pairs(np.ones((700, 8), np.float32), 0.98, kept=5)
    assert total == 700 * 699 // 2
    assert len(pairs) == 5


def test_near_duplicates_name_both_and_each_track_once():
    found = dataset(3)
    rng = np.random.default_rng(1)
    a, b = rng.normal(size=(2, 512))
    vectors = np.array([a, b, a + 0.001, a + 0.002], np.float32)
    found.embeddings.add(np.array([7, 8, 9, 10], np.uint64), vectors)
    kind = near_duplicates(found)
    assert kind.total == 3
    assert [set(ids) <= {7, 9, 10} for ids, _ in kind.items] == [True, True]
    assert not kind.note, "all were looked at"
    assert "no embeddings" in near_duplicates(dataset(3)).why_none


def test_equal_contents_are_counted_by_content():
    found = dataset(0)
    found.ids = np.array([5, 3, 5, 5, 2, 2, 9], np.uint64)
    kind = equal_contents(found)
    assert (kind.total, kind.items) == (2, [((5,), "3 files"), ((2,), "2 files")])
    assert kind.note == "3 more files than contents."
