"""Zero-phase Linkwitz-Riley bands: their response by formula, pieces, places inside a song, silence."""

from __future__ import annotations

import numba
import numpy as np
import pytest

from pipeline.mastering.crossover import Crossover, fading, jitted


def split(samples: np.ndarray, crossover: Crossover, piece: int) -> tuple[np.ndarray, np.ndarray]:
    """All of ``samples`` through ``crossover``, with the silence that fills up the last block."""
    parts = [crossover.push(samples[:, i : i + piece]) for i in range(0, samples.shape[1], piece)]
    parts.append(crossover.finish())
    return np.concatenate([p[0] for p in parts], axis=1), np.concatenate([p[1] for p in parts], axis=2)


def noise(channels: int, count: int, seed: int = 0) -> np.ndarray:
    return (0.2 * np.random.default_rng(seed).standard_normal((channels, count))).astype(np.float32)


@pytest.mark.parametrize("rate", [8000, 44100, 192000])
def test_low_passes_are_linkwitz_riley_without_phase(rate):
    corners = (100.0, 1000.0, 3000.0)
    crossover = Crossover(corners, rate, 1)
    length, place = 4 * crossover.block, 2 * crossover.block - 37
    impulse = np.zeros((1, length), np.float32)
    impulse[0, place] = 1.0
    whole, lows = split(impulse, crossover, 5000)
    np.testing.assert_array_equal(whole, impulse)
    hz = np.fft.rfftfreq(length, 1.0 / rate)
    shift = np.exp(2j * np.pi * hz / rate * place)
    for corner, low in zip(corners, lows[:, 0].astype(np.float64), strict=True):
        # The bilinear transform maps Nyquist to infinity.
        ratio = np.tan(np.pi * hz[:-1] / rate) / np.tan(np.pi * corner / rate)
        response = (np.fft.rfft(low) * shift)[:-1]
        np.testing.assert_allclose(response, 1.0 / (1.0 + ratio**4), atol=1e-7)
    if rate == 44100:
        octave_above = (np.fft.rfft(impulse[0] - lows[0, 0]) * shift)[np.argmin(np.abs(hz - 50.0))]
        assert 20.0 * np.log10(abs(octave_above)) == pytest.approx(-24.6, abs=0.5), (
            "high pass, an octave below"
        )


@pytest.mark.parametrize(
    ("rate", "channels", "corners"), [(8000, 1, (30.0,)), (44100, 2, (120.0, 2000.0, 6000.0))]
)
def test_pieces_make_no_difference(rate, channels, corners):
    samples = noise(channels, 50_001)
    samples[:, 20_000:40_000] = 0.0
    whole = split(samples, Crossover(corners, rate, channels), 10**9)
    for piece in (333, 8192, 30_000):
        for found, expected in zip(
            split(samples, Crossover(corners, rate, channels), piece), whole, strict=True
        ):
            assert found.tobytes() == expected.tobytes()


def test_begun_inside_a_song_it_is_the_same_after_its_context():
    crossover = Crossover((60.0, 2000.0), 44100, 2)
    samples = noise(2, 12 * crossover.block) + 0.3
    _, whole = split(samples, crossover, 40_000)
    start = 3 * crossover.block
    later = Crossover((60.0, 2000.0), 44100, 2)
    _, inside = split(samples[:, start:], later, 40_000)
    difference = np.abs(inside - whole[:, :, start:])
    assert difference[:, :, later.context :].max() <= 1e-7
    assert difference.max() > 1e-3, "it does begin differently"


def test_silence_behind_a_sound_becomes_exactly_zero():
    samples = np.zeros((1, 88_200), np.float32)
    samples[0, :1000] = 1.0
    _, lows = split(samples, Crossover((120.0, 9000.0), 44100, 1), 4000)
    assert lows[0, 0, 1500] != 0.0
    assert not lows[:, :, 44100:].any()
    assert np.abs(lows[:, 0, 1000 + 2 * fading(120.0, 44100)]).max() < 1e-12


@pytest.mark.parametrize("count", [0, 1])
def test_hardly_any_samples(count):
    whole, lows = split(np.ones((2, count), np.float32), Crossover((500.0,), 16000, 2), 10)
    assert whole.shape[1] == lows.shape[2]
    assert whole.sum() == 2 * count
    assert lows.any() == bool(count)


@pytest.mark.parametrize("corners", [(10.0,), (200.0, 100.0), (200.0, 200.0), (float("nan"),), (4000.0,)])
def test_corners_that_cannot_be(corners):
    with pytest.raises(ValueError, match="crossover"):
        Crossover(corners, 8000, 1)


def test_a_folder_that_cannot_be_written_to_is_no_reason_not_to_compile(monkeypatch):
    compile_, asked = numba.njit, []

    def without_folder(**options):
        asked.append(options)
        if options.get("cache"):
            raise RuntimeError("cannot cache function: no locator available")
        return compile_(**options)

    def doubled(values: np.ndarray) -> None:
        for i in range(values.shape[0]):
            values[i] *= 2.0

    monkeypatch.setattr(numba, "njit", without_folder)
    values = np.ones(3)
    jitted(doubled)(values)
    assert values.tolist() == [2.0, 2.0, 2.0]
    assert len(asked) == 2
