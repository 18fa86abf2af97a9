"""True peak: EBU Tech 3341 signals, whole convolutions, and the bound that spares most of them."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.dsp import true_peak as module
from pipeline.dsp.true_peak import interpolator, true_peak

RATE = 48000


@pytest.mark.parametrize(
    ("period", "degrees", "amplitude", "dbtp"),
    [
        (4, 0, 0.5, -6.0),
        (4, 45, 0.5, -6.0),
        (6, 60, 0.5, -6.0),
        (8, 67.5, 0.5, -6.0),
        (4, 45, 1.41, 3.0),
        (4, 45, 1, 0),
    ],
)
@pytest.mark.parametrize("rate", [44100, 96000])
def test_tech_3341_true_peak(period, degrees, amplitude, dbtp, rate):
    sine = amplitude * np.sin(2 * np.pi * np.arange(rate) / period + np.deg2rad(degrees))
    found = 20 * np.log10(true_peak(sine[None].astype(np.float32), rate))
    # Tech 3341 allows +0.2 and -0.4 dB; at twice the rate a peak may fall between, by up to 0.7 dB at fs/4.
    assert -0.4 - (0.3 if rate == 96000 else 0) <= found - dbtp <= 0.2


def test_true_peak_at_192_khz_is_the_sample_peak():
    sine = np.sin(2 * np.pi * np.arange(1000) / 4 + np.pi / 4).astype(np.float32)
    assert true_peak(sine[None], 192000) == pytest.approx(np.sqrt(0.5), rel=1e-6)


def test_true_peak_is_found_in_any_chunk_and_in_any_channel():
    # Two samples of equal height with the peak between them, placed around the borders of chunks.
    for position in (100, 262143, 262144, 262160, 524290, 599900):
        samples = np.zeros((3, 600_000), dtype=np.float32)
        samples[1, position : position + 2] = 0.7
        assert true_peak(samples, RATE) == pytest.approx(0.7 * 2 * np.sinc(0.5), rel=0.02)


def between_samples(samples: np.ndarray) -> float:
    """Largest absolute interpolated value by one convolution per phase."""
    kernel = interpolator(4).double().numpy()
    rows = [np.convolve(x.astype(np.float64), taps[::-1], "valid") for x in samples for taps in kernel]
    return float(np.abs(rows).max())


@pytest.mark.parametrize("samples", [32, 95, 96, 97, 1000, 262144 + 31, 262144 + 32, 300_000])
def test_true_peak_of_noise_is_that_of_the_whole_convolution(samples):
    generator = np.random.default_rng(samples)
    # From noise of one level, where no block can be left out, to a few loud moments.
    for exponent in (1, 9):
        noise = generator.standard_normal((2, samples)).astype(np.float32) ** exponent
        expected = max(between_samples(noise), float(np.abs(noise).max()))
        assert true_peak(noise, RATE) == pytest.approx(expected, rel=1e-5)


def test_true_peak_of_music_is_that_of_the_whole_convolution(music):
    for name, song in music.items():
        expected = max(between_samples(song), float(np.abs(song).max()))
        assert true_peak(song, 44100) == pytest.approx(expected, rel=1e-5), name


@pytest.mark.parametrize("samples", [0, 1, 31, 32, 33])
def test_true_peak_of_a_few_samples(samples):
    assert true_peak(np.ones((2, samples), dtype=np.float32), 8000) == pytest.approx(
        min(samples, 1), abs=1e-5
    )


def test_interpolators_reach_the_stated_band():
    # Within 0.05 dB up to 0.4 of the rate, 17.6 kHz at 44.1 kHz.
    kernel = interpolator(4).double().numpy()
    times = np.arange(-15, 17)[None, :] - np.array([[1], [2], [3]]) / 4
    for frequency in (0.05, 0.25, 0.4):
        response = (kernel * np.exp(-2j * np.pi * frequency * times)).sum(axis=1)
        np.testing.assert_allclose(20 * np.log10(np.abs(response)), 0.0, atol=0.05)


@pytest.mark.parametrize("factor", [2, 4])
def test_nothing_interpolated_exceeds_its_bound(factor, music):
    generator, block = np.random.default_rng(factor), module._PEAK_BLOCK
    kernel = interpolator(factor)
    alternating = np.where(np.arange(2048) % 2, 1.0, -1.0)
    for samples in (
        generator.standard_normal(4096),
        np.sign(generator.standard_normal(4096)),
        alternating * np.sign(np.arange(2048) - 1000.5),
        np.cumsum(generator.standard_normal(4096)),
        music["feelings"][0, 400_000:800_000],
    ):
        samples = samples.astype(np.float32)
        windows = np.lib.stride_tricks.sliding_window_view(samples.astype(np.float64), kernel.shape[1])
        values = np.abs(windows @ kernel.double().numpy().T).max(axis=1)
        blocks = len(values) // block
        highest = values[: blocks * block].reshape(blocks, block).max(axis=1)
        extremes = module.block_extremes(samples[None], block)
        bound = module.interpolated_bound(kernel, *extremes)[0, :blocks]
        assert (highest <= bound).all()
    # That of music, the last one, is a bound to go by.
    assert np.median(bound / highest) < 2.0


@pytest.mark.parametrize("samples", [1, 2, 33, 34, 66, 1000])
def test_compiled_extremes_are_those_of_numpy(samples, monkeypatch):
    noise = np.random.default_rng(samples).standard_normal((2, samples)).astype(np.float32)
    compiled = module.block_extremes(noise, 32)
    assert compiled[0].max() == np.abs(noise).max()
    monkeypatch.setattr(module, "_compiled_extremes", lambda block: None)
    for found, expected in zip(compiled, module.block_extremes(noise, 32), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
