"""From a sample to the whole: the right files, and ranges that hold the truth."""

import math

import numpy as np
import pytest

from pipeline.dataset.sources.sampling import Range, Z, choose, extrapolate, strata, wilson


@pytest.mark.parametrize(("hits", "n"), [(0, 10), (5, 10), (10, 10), (1, 100), (3, 24)])
def test_the_wilson_interval_solves_its_own_equation(hits, n):
    """Its ends are the rates from which what was seen lies just ``Z`` standard errors away (Wilson 1927)."""
    low, high = wilson(hits, n)
    assert 0 <= low <= hits / n <= high <= 1
    for end in {low, high} - {0.0, 1.0}:
        assert abs(hits / n - end) == pytest.approx(Z * math.sqrt(end * (1 - end) / n))
    assert (low == 0) == (hits == 0)
    assert (high == 1) == (hits == n)


def test_nothing_seen_says_nothing():
    assert wilson(0, 0) == (0.0, 1.0)


def library(seed=0):
    """3000 files of three kinds with their own bytes per second; suffixes, sizes, seconds, names."""
    rng = np.random.default_rng(seed)
    kinds, sizes, seconds = [], [], []
    for suffix, rate, count, length in (
        (".wav", 176_400, 2000, 8),
        (".mp3", 20_000, 800, 200),
        (".flac", 90_000, 200, 600),
    ):
        audio = length * rng.lognormal(0, 0.5, count)
        kinds += [suffix] * count
        seconds += audio.tolist()
        sizes += (audio * rate * rng.uniform(0.8, 1.2, count)).astype(int).tolist()
    return kinds, sizes, np.array(seconds), [f"{i}{k}" for i, k in enumerate(kinds)]


def test_strata_hold_each_file_once_and_go_by_kind_and_size():
    kinds, sizes, _, _ = library()
    groups = strata(kinds, sizes)
    assert sorted(i for g in groups for i in g.tolist()) == list(range(len(kinds)))
    assert len(groups) == 9
    for group in groups:
        assert len({kinds[i] for i in group}) == 1
    wavs = [[sizes[i] for i in g] for g in groups if kinds[g[0]] == ".wav"]
    assert max(wavs[0]) <= min(wavs[1])
    assert max(wavs[1]) <= min(wavs[2])


def test_files_of_unknown_size_are_a_stratum():
    groups = strata(["a", "a", "a"], [1, None, 2])
    assert sorted(sorted(g.tolist()) for g in groups) == [[0, 2], [1]]


def test_the_choice_depends_on_names_and_seed_alone():
    kinds, sizes, _, names = library()
    groups = strata(kinds, sizes)
    chosen = choose(groups, sizes, names, 24, seed=0)
    assert chosen == choose(strata(kinds, sizes), sizes, names, 24, seed=0)
    assert len(set(chosen)) == 24
    assert set(chosen) != set(choose(groups, sizes, names, 24, seed=1))
    assert {kinds[i] for i in chosen} == {".wav", ".mp3", ".flac"}
    assert {kinds[i] for i in chosen[:9]} == {".wav", ".mp3", ".flac"}, "beginnings are samples, too"


@pytest.mark.parametrize(("count", "taken"), [(0, 0), (1, 1), (4, 4), (99, 12)])
def test_never_more_than_asked_for_or_there(count, taken):
    sizes = list(range(1, 13))
    found = choose(strata("abcdef" * 2, sizes), sizes, [str(s) for s in sizes], count, 0)
    assert len(found) == len(set(found)) == taken


def test_all_known_is_exact():
    kinds, sizes, seconds, _ = library()
    found = extrapolate(strata(kinds, sizes), sizes, dict(enumerate(seconds.tolist())))
    assert found == Range(*(pytest.approx(seconds.sum()),) * 3)


def test_the_range_holds_the_truth_about_as_often_as_it_says():
    """90 % of the time; of 40 libraries with their own sample, 30 at least."""
    held = 0
    for seed in range(40):
        kinds, sizes, seconds, names = library(seed)
        groups = strata(kinds, sizes)
        chosen = choose(groups, sizes, names, 150, seed)
        found = extrapolate(groups, sizes, {i: float(seconds[i]) for i in chosen}, seed)
        truth = seconds.sum()
        assert found.expected == pytest.approx(truth, rel=0.1)
        assert found.low <= found.expected <= found.high
        held += found.low <= truth <= found.high
    assert held >= 30


def test_unknown_sizes_count_by_files():
    found = extrapolate([np.arange(10)], [None] * 10, {0: 10.0, 1: 20.0})
    assert found.expected == pytest.approx(150.0)
    assert found.low < found.expected < found.high


def test_a_stratum_nobody_looked_into_takes_the_ratio_of_the_others():
    groups = [np.array([0, 1]), np.array([2])]
    found = extrapolate(groups, [100, 100, 300], {0: 1.0, 1: 3.0})
    assert found.expected == pytest.approx(1 + 3 + 300 * 4 / 200)


def test_nothing_known_is_nothing():
    assert extrapolate([np.arange(3)], [1, 2, 3], {}) == Range(0.0, 0.0, 0.0)
