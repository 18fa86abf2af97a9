"""What the karaoke score's calibration is fitted by, on quantities that are known."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.append(str(Path(__file__).resolve().parents[2] / "benchmarks"))

import karaoke_fit
import karaoke_kernel


@pytest.fixture(scope="module")
def rows() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Eight signs of which the first bends, the second is a line, and the others say nothing; 20 songs."""
    rng = np.random.default_rng(2)
    z = rng.standard_normal((300, 8))
    songs = rng.integers(0, 20, 300)
    true = 4 * np.sin(2 * z[:, 0]) + 2 * z[:, 1] + 0.2 * rng.standard_normal(300)
    return z, true, songs


def _telling(scales: karaoke_kernel.Scales) -> np.ndarray:
    """How much each sign moves the prediction."""
    return (scales.height / scales.lengths) ** 2 + scales.slopes**2


def test_lengths_and_slopes_tell_the_signs_that_count(rows):
    z, true, songs = rows
    scales = karaoke_kernel.learned(z, true, np.ones(len(z)), songs)
    assert np.argmin(scales.lengths) == 0
    assert scales.lengths[0] < 0.3 * np.min(scales.lengths[2:])
    assert set(np.argsort(-_telling(scales))[:2]) == {0, 1}
    assert scales.noise < 1.0


def test_what_a_song_has_of_its_own_is_not_taken_for_what_signs_say(rows):
    """A sign that is but the number of the song, and errors that are the song's: no other song can use it."""
    z, true, songs = rows
    own = np.random.default_rng(3).standard_normal(20)[songs] * 3
    told = np.column_stack([z, songs / 6.0 - 1.7])
    known, unknown = (
        karaoke_kernel.learned(told, true + own, np.ones(len(z)), of) for of in (songs, np.arange(len(z)))
    )
    assert _telling(known)[8] < 0.1 * _telling(unknown)[8]
    assert known.noise < 1.0 < unknown.noise


def test_an_interval_holds_for_new_songs():
    """Errors of a song are alike; of many draws the next song's are within in nine of ten."""
    rng = np.random.default_rng(4)
    held = []
    for _ in range(200):
        size = np.exp(rng.standard_normal(31))
        wrong = np.abs(rng.standard_normal((31, 12))) * size[:, None]
        songs = np.repeat(np.arange(30), 12)
        half = karaoke_fit.conformal(wrong[:30].ravel(), songs)
        held.append(np.mean(wrong[30] <= half))
    assert 0.86 <= np.mean(held) <= 0.92


def test_of_few_outputs_the_interval_is_the_largest_error():
    assert karaoke_fit.conformal(np.array([1.0, 3.0, 2.0]), np.array(["a", "b", "a"])) == 3.0


def test_songs_count_and_not_their_outputs():
    """One song with a thousand small errors does not hide the errors of nineteen."""
    wrong = np.concatenate([np.full(1000, 0.1), np.arange(1.0, 20.0)])
    songs = np.concatenate([np.zeros(1000), np.arange(1, 20)])
    assert karaoke_fit.conformal(wrong, songs) == 17.0
