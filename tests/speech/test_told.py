from __future__ import annotations

import numpy as np
import pytest

from pipeline.speech.told import as_told


def test_speakers_are_numbered_by_when_they_first_speak():
    found = as_told([(5, 6, "x"), (0, 2, "y"), (3, 4, "x"), (2, 3, "z")], {"x": np.array([0.0, 2.0])})
    assert found.starts_s.tolist() == [0, 2, 3, 5]
    assert found.speakers.tolist() == [0, 1, 2, 2]
    assert found.names == ["S1", "S2", "S3"]
    assert found.seconds.tolist() == [2, 1, 2]
    assert found.centroids.tolist() == [[0, 0], [0, 0], [0, 1]]
    assert not found.overlaps.any()


def test_overlap_is_with_somebody_else_and_for_some_time():
    turns = [(0, 10, "a"), (1, 2, "b"), (4, 5, "a"), (9, 12, "b"), (12, 13, "a"), (11, 11.5, "b")]
    found = as_told(turns, {})
    assert dict(zip(found.starts_s.tolist(), found.overlaps.tolist(), strict=True)) == {
        0: True, 1: True, 4: False, 9: True, 11: False, 12: False,
    }  # fmt: skip


def test_overlaps_are_those_of_every_pair():
    rng = np.random.default_rng(5)
    for _ in range(50):
        starts = np.round(rng.uniform(0, 20, 15), 1)
        turns = [(s, s + rng.uniform(0.1, 3), str(rng.integers(3))) for s in starts.tolist()]
        found = as_told(turns, {})
        rows = list(zip(found.starts_s, found.ends_s, found.speakers, strict=True))
        expected = [any(w != v and max(a, c) < min(b, d) for c, d, v in rows) for a, b, w in rows]
        assert found.overlaps.tolist() == expected


def test_nothing_and_what_cannot_be():
    found = as_told([], {})
    assert (len(found.starts_s), found.names, found.centroids.shape) == (0, [], (0, 0))
    with pytest.raises(ValueError, match="ends after its start"):
        as_told([(1, 1, "a")], {})
    with pytest.raises(ValueError, match="NaN"):
        as_told([(1, 2, "a")], {"a": np.array([np.nan])})
