from __future__ import annotations

import itertools

import numpy as np
import pytest

from pipeline.models.speech.transcribe.packing import pack, windows_of

FRAME_S = 0.01


def random_lengths(seed: int) -> list[int]:
    rng = np.random.default_rng(seed)
    return rng.integers(1, 481, rng.integers(1, 60)).tolist()


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("gap", [0, 5, 16])
def test_every_piece_has_one_place_in_order(seed, gap):
    lengths = random_lengths(seed)
    windows = pack(lengths, gap=gap, window=480)
    places = [place for window in windows for place in window.places]
    assert [place.piece for place in places] == list(range(len(lengths)))
    assert [place.length for place in places] == lengths
    assert all(window.length <= 480 and window.places[0].start == 0 for window in windows)
    for window in windows:
        for before, place in zip(window.places, window.places[1:], strict=False):
            assert place.start - before.end == gap


@pytest.mark.parametrize("seed", range(10))
def test_the_samples_come_back_out_of_the_windows(seed):
    rng = np.random.default_rng(seed)
    pieces = [rng.standard_normal(length).astype(np.float32) for length in random_lengths(seed)]
    windows = pack([len(piece) for piece in pieces], gap=7, window=480)
    total = 0
    for window in windows:
        packed = window.samples(pieces)
        assert packed.dtype == np.float32
        assert len(packed) == window.length
        for place in window.places:
            np.testing.assert_array_equal(packed[place.start : place.end], pieces[place.piece])
            packed[place.start : place.end] = 0
            total += place.length
        assert not packed.any()  # nothing but silence is left: no sample is in it twice
    assert total == sum(map(len, pieces))


@pytest.mark.parametrize("seed", range(10))
def test_what_lies_in_a_piece_is_found_there(seed):
    for window in pack(random_lengths(seed), gap=16, window=480):
        for place in window.places:
            for start, end in (
                (place.start, place.end),
                (place.start, place.start + 0.5),
                (place.end - 0.5, place.end),
            ):
                assert window.place_of(start, end) == place


def test_no_window_could_take_the_first_piece_of_the_next():
    lengths = random_lengths(3)
    windows = pack(lengths, gap=16, window=480)
    assert len(windows) > 1
    for window, following in itertools.pairwise(windows):
        assert window.length + 16 + following.places[0].length > 480


def test_a_word_over_a_gap_belongs_where_most_of_it_is():
    (window,) = pack([100, 100], gap=20, window=480)
    first, second = window.places
    assert window.place_of(60, 130) == first
    assert window.place_of(90, 150) == second
    # In the gap alone: to the nearer piece.
    assert window.place_of(101, 105) == first
    assert window.place_of(114, 119) == second
    assert window.place_of(500, 510) == second


def test_only_some_of_the_pieces():
    windows = pack([100, 0, 300, 200, 200], gap=10, window=480, only=[0, 3, 4])
    assert [[place.piece for place in window.places] for window in windows] == [[0, 3], [4]]
    assert pack([100], gap=10, window=480, only=[]) == []
    assert pack([], gap=10, window=480) == []


@pytest.mark.parametrize("length", [0, 481])
def test_a_piece_that_no_window_holds(length):
    with pytest.raises(ValueError, match="piece 1 has"):
        pack([10, length], gap=0, window=480)


def test_short_regions_stay_as_they_are():
    regions = np.array([[0.0, 3.0], [3.5, 31.4999], [40.0, 68.0]])
    np.testing.assert_array_equal(windows_of(regions, np.ones(7000), frame_s=FRAME_S), regions)
    assert windows_of(np.zeros((0, 2)), np.ones(10), frame_s=FRAME_S).shape == (0, 2)
    assert windows_of([], np.zeros(0), frame_s=FRAME_S).shape == (0, 2)


def test_a_cut_falls_into_the_pause_and_not_into_a_closure():
    energy = np.ones(6000)
    energy[1800:1803] = 0  # the closure of a plosive
    energy[2200:2240] = 0.05  # a pause with the room in it
    parts = windows_of(np.array([[0.0, 40.0]]), energy, frame_s=FRAME_S)
    assert len(parts) == 2
    assert 22.0 <= parts[0, 1] <= 22.4


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("longest_s", [5.0, 28.0])
def test_parts_add_up_and_none_is_too_long_or_a_crumb(seed, longest_s):
    rng = np.random.default_rng(seed)
    edges = np.cumsum(rng.uniform(0.1, 60, 12))
    regions = edges.reshape(-1, 2)
    parts = windows_of(regions, rng.random(int(edges[-1] / FRAME_S)), frame_s=FRAME_S, longest_s=longest_s)
    lengths = parts[:, 1] - parts[:, 0]
    assert (lengths <= longest_s + 1e-9).all()
    for start, end in regions:
        own = parts[(parts[:, 0] >= start) & (parts[:, 1] <= end)]
        assert own[0, 0] == start
        assert own[-1, 1] == end
        np.testing.assert_array_equal(own[1:, 0], own[:-1, 1])
        if len(own) > 1:
            assert (own[:, 1] - own[:, 0]).min() >= longest_s / 4 - 1e-9
    assert len(parts) > len(regions)


def test_where_nothing_is_known_of_the_energy_it_is_cut_all_the_same():
    parts = windows_of(np.array([[0.0, 100.0]]), np.zeros(10), frame_s=FRAME_S)
    assert parts[0, 0] == 0
    assert parts[-1, 1] == 100
    assert ((parts[:, 1] - parts[:, 0]) <= 28).all()


@pytest.mark.parametrize("energy", [np.full(100, np.nan), np.ones((10, 2))])
def test_energy_that_is_none(energy):
    with pytest.raises(ValueError, match="finite numbers"):
        windows_of(np.array([[0.0, 1.0]]), energy, frame_s=FRAME_S)


def test_a_window_too_short_to_cut():
    with pytest.raises(ValueError, match="too short"):
        windows_of(np.array([[0.0, 1.0]]), np.ones(10), frame_s=FRAME_S, longest_s=0.05)
