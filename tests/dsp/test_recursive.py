"""Recursive filters, compiled and as matrix products: against scipy, over chunks, and where float32 is weakest."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import signal

from pipeline.dsp.bs1770 import k_weighting
from pipeline.dsp.recursive import (
    BLOCK,
    LaneFilter,
    MatrixFilter,
    RecursiveFilter,
    state_space,
    whole_blocks,
)

FILTERS = {
    "k-weighting at 8 kHz": k_weighting(8000),
    "k-weighting at 44.1 kHz": k_weighting(44100),
    "k-weighting at 192 kHz": k_weighting(192000),
    "one section": signal.butter(2, 0.3, output="sos"),
    "gain in front of a0": np.array([[0.4, 0.2, 0.1, 2.0, -1.0, 0.3]]),
    "eight states": signal.cheby1(8, 0.5, 0.2, output="sos"),
}


KINDS = [RecursiveFilter, MatrixFilter]


def run(sos: np.ndarray, pieces: list[np.ndarray], kind: type = RecursiveFilter) -> np.ndarray:
    recursive = kind(sos, len(pieces[0]))
    return np.concatenate([recursive(torch.from_numpy(p)).numpy() for p, _ in whole_blocks(pieces)], axis=1)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", FILTERS)
@pytest.mark.parametrize("samples", [1, 63, 64, 65, 100_000])
def test_equals_scipy(name, samples, kind):
    sos = FILTERS[name].copy()
    noise = np.random.default_rng(samples).standard_normal((3, samples)).astype(np.float32)
    filtered = run(sos, [noise], kind)
    assert filtered.dtype == np.float32
    assert filtered.shape[1] == -(-samples // BLOCK) * BLOCK
    sos /= sos[:, 3:4]  # what scipy asks for
    expected = signal.sosfilt(sos, noise.astype(np.float64))
    np.testing.assert_allclose(filtered[:, :samples], expected, atol=2e-6 * np.abs(expected).max())


def test_equals_scipy_on_real_music(music):
    for name, song in music.items():
        expected = signal.sosfilt(k_weighting(44100), song.astype(np.float64))
        found = run(k_weighting(44100), [song])[:, : song.shape[1]]
        np.testing.assert_allclose(found, expected, atol=2e-6 * np.abs(expected).max(), err_msg=name)
        energies = np.square(found.astype(np.float64)).sum(), np.square(expected).sum()
        assert 10 * np.log10(energies[0] / energies[1]) == pytest.approx(0.0, abs=1e-6), name


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rate", [44100, 192000])
def test_a_tone_under_a_large_offset_keeps_its_level(rate, kind):
    # The high pass takes away what is 60 dB above the tone.
    time = np.arange(2 * rate) / rate
    samples = (1.0 + 1e-3 * np.sin(2 * np.pi * 1000 * time)).astype(np.float32)[None]
    settled = slice(rate, None)
    found = run(k_weighting(rate), [samples], kind)[0, : len(time)][settled].astype(np.float64)
    expected = signal.sosfilt(k_weighting(rate), samples[0].astype(np.float64))[settled]
    assert np.square(found).mean() == pytest.approx(np.square(expected).mean(), rel=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_chunks_of_any_length_make_no_difference(kind):
    generator = np.random.default_rng(7)
    noise = generator.standard_normal((2, 50_000)).astype(np.float32)
    cuts = np.sort(generator.integers(0, 50_000, 60))
    pieces = run(k_weighting(48000), np.split(noise, cuts, axis=1), kind)
    np.testing.assert_allclose(
        pieces, run(k_weighting(48000), [noise], kind), atol=2e-6 * np.abs(noise).max()
    )


@pytest.mark.parametrize("lengths", [[], [0], [1], [64], [0, 63, 1, 0, 200, 5]])
def test_blocks_hold_every_sample_once_and_in_order(lengths):
    samples = np.arange(2 * sum(lengths), dtype=np.float64).reshape(2, -1)
    pieces = np.split(samples, np.cumsum(lengths)[:-1], axis=1) if lengths else []
    blocks = list(whole_blocks(pieces))
    assert all(b.shape[1] % BLOCK == 0 and b.dtype == np.float32 for b, _ in blocks)
    assert all(0 < count <= b.shape[1] and not b[:, count:].any() for b, count in blocks)
    joined = np.concatenate([np.zeros((2, 0)), *(b[:, :count] for b, count in blocks)], axis=1)
    np.testing.assert_array_equal(joined, samples)


@pytest.mark.parametrize("name", FILTERS)
def test_state_space_has_the_response_of_the_sections(name):
    sos = FILTERS[name] / FILTERS[name][:, 3:4]
    a, b, c, d = state_space(FILTERS[name])
    for omega in (0.01, 0.5, 3.0):
        z = np.exp(1j * omega)
        response = c @ np.linalg.solve(z * np.eye(len(a)) - a, b) + d
        np.testing.assert_allclose(response, signal.sosfreqz(sos, [omega])[1][0], rtol=1e-9, atol=1e-12)


def test_it_is_compiled_where_it_can_be():
    pytest.importorskip("llvmlite")
    noise = torch.randn((2, 64_000), generator=torch.Generator().manual_seed(0))
    compiled, products = (kind(k_weighting(44100), 2) for kind in KINDS)
    assert isinstance(compiled._filter, LaneFilter)
    np.testing.assert_allclose(compiled(noise), products(noise), atol=1e-5)
    # These poles ring for minutes.
    radius = 1.0 - 2e-6
    endless = np.array([[1.0, 0.0, 0.0, 1.0, -2.0 * radius * np.cos(0.3), radius**2]])
    assert isinstance(RecursiveFilter(endless, 1)._filter, MatrixFilter)
