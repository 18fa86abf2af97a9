"""Aggregates against numpy in float64, and their edges."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from pipeline.features.statistics import (
    STATISTICS,
    decibels,
    decibels_above,
    frames_per_group,
    percentiles,
    statistics_of,
)

matrices = arrays(
    np.float32,
    st.tuples(st.integers(1, 4), st.integers(1, 50)),
    elements=st.floats(-1e6, 1e6, width=32),
)


@given(matrices)
def test_statistics_equal_numpy_in_float64(matrix):
    exact = matrix.astype(np.float64)
    expected = {
        "mean": exact.mean(axis=1),
        "std": exact.std(axis=1),
        "min": exact.min(axis=1),
        "max": exact.max(axis=1),
        "median": np.median(exact, axis=1),
        **{f"p{p}": np.percentile(exact, p, axis=1) for p in (10, 25, 75, 90)},
    }
    found = statistics_of(matrix, STATISTICS)
    assert list(found) == list(STATISTICS)
    for name, values in found.items():
        assert values.dtype == np.float64
        np.testing.assert_allclose(values, expected[name], rtol=1e-9, atol=1e-6, err_msg=name)


@given(matrices, st.lists(st.floats(0.0, 100.0), max_size=5))
def test_percentiles_are_those_of_numpy(matrix, percents):
    before = matrix.copy()
    found = percentiles(matrix, percents)
    assert len(found) == len(percents)
    for percent, values in zip(percents, found, strict=True):
        expected = np.percentile(matrix.astype(np.float64), percent, axis=1)
        np.testing.assert_allclose(values, expected, rtol=1e-9, atol=1e-6)
    np.testing.assert_array_equal(matrix, before)


def test_mean_of_many_float32_values_does_not_drift():
    series = np.full((1, 5_000_000), 0.1, dtype=np.float32)
    assert statistics_of(series, ["mean"])["mean"][0] == pytest.approx(float(np.float32(0.1)), rel=1e-12)


def test_a_vector_gives_scalars():
    assert statistics_of(np.array([1.0, 2.0, 6.0]), ["median"])["median"].shape == ()


def test_no_frames_and_unknown_names_are_refused():
    with pytest.raises(ValueError, match="no frames"):
        statistics_of(np.zeros((3, 0)), ["mean"])
    with pytest.raises(ValueError, match="unknown statistic 'mode'"):
        statistics_of(np.zeros((3, 2)), ["mode"])


@pytest.mark.parametrize(
    ("rate", "hop", "hz", "group"), [(22050, 512, 2.0, 22), (8000, 512, 2.0, 8), (8000, 4096, 100.0, 1)]
)
def test_series_rate_is_rounded_to_whole_frames(rate, hop, hz, group):
    assert frames_per_group(rate, hop, hz) == group


def test_decibels_of_nothing():
    assert decibels(0.0) is None
    assert decibels(0.01) == pytest.approx(-20.0)
    np.testing.assert_allclose(
        decibels_above(np.array([0.0, 1e-20, 1.0, 100.0]), -100.0), [-100, -100, 0, 20]
    )
