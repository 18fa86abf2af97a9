import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.audio.windows import cut_windows, repeat_pad, window_spans


@pytest.mark.parametrize(
    ("samples", "expected"),
    [
        (0, []),
        (1, [(0, 1)]),
        (9, [(0, 9)]),
        (10, [(0, 10)]),
        (11, [(0, 10), (5, 11)]),
        (15, [(0, 10), (5, 15)]),
        (16, [(0, 10), (5, 15), (10, 16)]),
    ],
)
def test_spans_by_hand(samples, expected):
    assert window_spans(samples, window=10, hop=5) == expected


def test_spans_with_a_hop_beyond_the_window_leave_gaps():
    assert window_spans(25, window=10, hop=16) == [(0, 10), (16, 25)]
    assert window_spans(12, window=10, hop=16) == [(0, 10)]


@given(st.integers(1, 5000), st.integers(1, 300), st.integers(1, 300))
def test_spans_cover_the_track_and_none_is_redundant(samples, window, hop):
    spans = window_spans(samples, window, min(hop, window))
    starts = [start for start, _ in spans]
    assert starts == [i * min(hop, window) for i in range(len(spans))]
    assert spans[-1][1] == samples
    assert all(stop - start == window for start, stop in spans[:-1])
    assert all(stop < samples for _, stop in spans[:-1])


@pytest.mark.parametrize("bad", [(10, 0, 1), (10, 1, 0), (-1, 1, 1)])
def test_impossible_spans_are_refused(bad):
    with pytest.raises(ValueError, match="must"):
        window_spans(*bad)


@pytest.mark.parametrize("shape", [(1000,), (8, 1000)])
def test_windows_are_views(shape):
    x = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    windows = cut_windows(x, 300, 150)
    assert iter(windows) is windows
    for (start, stop), window in zip(window_spans(1000, 300, 150), windows, strict=True):
        assert np.shares_memory(window, x)
        np.testing.assert_array_equal(window, x[..., start:stop])


@pytest.mark.parametrize("samples", [1, 3, 333, 500, 501, 999, 1000])
def test_repeat_pad_equals_laions_formula(samples):
    x = np.random.default_rng(samples).standard_normal(samples).astype(np.float32)
    tiled = np.tile(x, int(1000 / samples))
    expected = np.pad(tiled, (0, 1000 - len(tiled)))
    padded = repeat_pad(x, 1000)
    np.testing.assert_array_equal(padded, expected)
    assert padded.dtype == x.dtype


def test_repeat_pad_of_channels_of_nothing_and_of_too_much():
    stereo = np.array([[1, 2], [3, 4]], np.int16)
    np.testing.assert_array_equal(repeat_pad(stereo, 5), [[1, 2, 1, 2, 0], [3, 4, 3, 4, 0]])
    np.testing.assert_array_equal(repeat_pad(np.zeros(0, np.float32), 4), np.zeros(4))
    with pytest.raises(ValueError, match="cannot fill 5 samples up to 4"):
        repeat_pad(np.zeros(5), 4)
