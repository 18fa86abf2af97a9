"""The distance of fingerprints: scaled by a library, of what is there in both."""

from __future__ import annotations

import math

import numpy as np
import pytest

from pipeline.features.fingerprint import Fingerprint
from pipeline.mastering.distance import PREFIX, SCALE, distance, nearest, numbers

MEANS = np.array([mean for mean, _ in SCALE.values()])
SPREADS = np.array([spread for _, spread in SCALE.values()])


def shifted(*dimensions: int, by: float = 1.0) -> list[float]:
    """The mean fingerprint, some numbers of which are so many standard deviations larger."""
    moved = MEANS.copy()
    moved[list(dimensions)] += by * SPREADS[list(dimensions)]
    return list(moved)


def test_the_scale_is_of_the_columns_in_their_order():
    assert [PREFIX + name for name in SCALE] == [f.name for f in Fingerprint().columns()]
    assert np.isfinite(MEANS).all()
    assert (SPREADS > 0).all()
    # Shares add up to 1, in the mean, too.
    assert MEANS[:7].sum() == pytest.approx(1.0, abs=0.005)


@pytest.mark.parametrize("dimension", range(25))
def test_every_number_counts_in_units_of_its_spread(dimension):
    assert distance(shifted(), shifted(dimension)) == pytest.approx(1 / 5)
    assert distance(shifted(), shifted(dimension, by=-3)) == pytest.approx(3 / 5)


def test_it_is_a_distance():
    generator = np.random.default_rng(0)
    a, b, c = (list(MEANS + SPREADS * generator.standard_normal(25)) for _ in range(3))
    assert distance(a, a) == 0.0
    assert distance(a, b) == distance(b, a) > 0
    assert distance(a, c) <= distance(a, b) + distance(b, c)
    z = (np.array(a) - np.array(b)) / SPREADS
    assert distance(a, b) == pytest.approx(np.sqrt(np.mean(z**2)))


def test_two_of_a_library_are_apart_by_the_root_of_two():
    generator = np.random.default_rng(1)
    library = MEANS + SPREADS * generator.standard_normal((200, 25))
    apart = [distance(a, b) for a, b in zip(library[::2], library[1::2], strict=True)]
    assert np.mean(apart) == pytest.approx(math.sqrt(2), abs=0.05)


@pytest.mark.parametrize("undefined", [None, math.nan, math.inf])
def test_what_is_undefined_has_no_say(undefined):
    a, b = shifted(0), shifted()
    b[3] = b[9] = undefined
    assert distance(a, b) == distance(b, a) == pytest.approx(math.sqrt(1 / 23))
    half = [*shifted()[:13], *[undefined] * 12]
    assert distance(shifted(0), half) == pytest.approx(math.sqrt(1 / 13))
    assert distance(shifted(), [*half[:12], *[undefined] * 13]) is None
    # Twelve are missing in one and another in the other: twelve are left.
    assert distance([undefined, *shifted()[1:]], half) is None
    assert distance([None] * 25, [None] * 25) is None


def test_rows_and_columns_are_fingerprints_too():
    a, b = shifted(2), shifted(4, by=2.0)
    row = {PREFIX + name: x for name, x in zip(SCALE, a, strict=True)} | {"uri": "a.flac", "tempo_bpm": 99.0}
    plain = dict(zip(SCALE, b, strict=True))
    assert distance(row, plain) == pytest.approx(math.sqrt(5) / 5)
    assert distance(row, np.array(b)) == distance(a, b)
    del plain["loudness_lufs"]
    assert numbers(plain)[7] is None
    # Of a row with both, the fingerprint's own number counts.
    assert numbers(row | {"tempo_bpm": 1.0})[10] == a[10]


@pytest.mark.parametrize("bad", [[1.0] * 24, [], {"uri": "a.flac"}, {}])
def test_what_is_no_fingerprint_is_refused(bad):
    with pytest.raises(ValueError, match="fingerprint"):
        distance(bad, shifted())


def test_a_library_may_have_a_scale_of_its_own():
    scale = {name: (0.0, 2.0) for name in SCALE}
    assert distance([1.0] * 25, [5.0] * 25, scale) == pytest.approx(2.0)


def test_nearest_first():
    library = [("far", shifted(1, 2, by=5.0)), ("none", [None] * 25), ("near", shifted(7, by=0.1))]
    library.append(("same", shifted()))
    found = nearest(shifted(), library)
    assert [name for name, _ in found] == ["same", "near", "far"]
    assert found[1][1] == pytest.approx(0.1 / 5)
    assert [name for name, _ in nearest(shifted(), library, 1)] == ["same"]
    scale = {name: (m, s * (100.0 if name == "loudness_lufs" else 1.0)) for name, (m, s) in SCALE.items()}
    assert nearest(shifted(), library, scale=scale)[1][1] == pytest.approx(0.001 / 5)
