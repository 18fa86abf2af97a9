"""The sliding median: against its definition, against scipy, and how much it does."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers.medians import sliding_median, window_medians
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.ndimage import median_filter

from pipeline.dsp.median import median_network, reflected


def by_definition(x: np.ndarray, size: int) -> np.ndarray:
    padded = np.pad(x, ((size // 2, size), (0, 0)), "symmetric")
    return np.stack([np.sort(padded[i : i + size], axis=0)[size // 2] for i in range(len(x))])


@pytest.mark.parametrize("size", [*range(1, 36), 63, 64, 100, 255])
def test_equals_the_definition(size):
    noise = np.random.default_rng(size).standard_normal((150, 5)).astype(np.float32)
    for rows in (1, 2, 3, 17, 150):
        x = noise[:rows]
        np.testing.assert_array_equal(sliding_median(torch.from_numpy(x), size), by_definition(x, size))


@pytest.mark.parametrize("size", [2, 5, 16, 31, 48])
def test_equals_scipy(size):
    noise = np.random.default_rng(size).standard_normal((200, 9)).astype(np.float32)
    for rows in (size, 200):
        expected = median_filter(noise[:rows], (size, 1), mode="reflect")
        np.testing.assert_array_equal(sliding_median(torch.from_numpy(noise[:rows]), size), expected)


@given(
    arrays(np.float32, st.tuples(st.integers(1, 30), st.integers(1, 3)), elements=st.integers(0, 3)),
    st.integers(1, 20),
)
def test_equals_the_definition_with_ties(x, size):
    np.testing.assert_array_equal(sliding_median(torch.from_numpy(x), size), by_definition(x, size))


@pytest.mark.parametrize("size", [1, 2, 3, 6, 7, 9, 12])
def test_is_right_for_every_order_of_zeros_and_ones(size):
    """A network of minima and maxima that is right for these is right for all (Knuth, TAOCP 3, 5.3.4)."""
    network = median_network(size)
    span = size + network.tile - 1
    bits = (np.arange(1 << span) >> np.arange(span)[:, None]) & 1
    padded = np.zeros((network.padded_length(network.tile), 1 << span), np.float32)
    padded[:span] = bits
    got = window_medians(torch.from_numpy(padded), size, network.tile).numpy()
    for window in range(network.tile):
        expected = bits[window : window + size].sum(axis=0) >= size - size // 2
        np.testing.assert_array_equal(got[window], expected)


@pytest.mark.parametrize(("size", "most"), [(3, 3), (7, 10), (15, 18), (31, 27), (63, 39)])
def test_neighbouring_windows_share_their_work(size, most):
    network = median_network(size)
    assert len(network.steps) / network.tile <= most


def test_values_are_released_once_and_never_read_again():
    network = median_network(31)
    gone: set[int] = set()
    for (_, a, b), released in zip(network.steps, network.released, strict=True):
        assert not gone & {a[0], b[0]}
        assert not gone & set(released)
        gone |= set(released)
    values = set(range(network.tile + len(network.steps)))
    assert values - gone == {value for value, _ in network.outputs}


def test_any_layout_is_accepted_and_left_alone():
    x = torch.from_numpy(np.random.default_rng(5).standard_normal((40, 50)).astype(np.float32))
    before = x.clone()
    expected = sliding_median(x.T.contiguous(), 9)
    assert torch.equal(sliding_median(x.T, 9), expected)
    assert torch.equal(x, before)


@pytest.mark.parametrize("shape", [(0, 4), (4, 0)])
def test_nothing_has_no_medians(shape):
    assert sliding_median(torch.zeros(shape), 31).shape == shape


@pytest.mark.parametrize("size", [0, -3])
def test_impossible_sizes_are_refused(size):
    with pytest.raises(ValueError, match=f"size={size} must be positive"):
        sliding_median(torch.zeros((4, 4)), size)


def test_reflection_doubles_the_end_samples():
    positions = reflected(torch.arange(-7, 10), 3)
    np.testing.assert_array_equal(positions, np.pad(np.arange(3), (7, 7), "symmetric"))
