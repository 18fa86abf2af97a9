import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.audio.windows import window_spans


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
