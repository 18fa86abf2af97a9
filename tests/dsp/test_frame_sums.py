"""Sums and extremes per frame: against numpy, compiled (from 8 frames on) and by torch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.dsp import frame_sums as module
from pipeline.dsp.frame_sums import crossing_bin, extreme_means, frame_sums

# Seven frames are torch's, from eight on they are a vector's.
FRAMES = st.sampled_from([1, 7, 8, 9, 24, 27])


@pytest.mark.parametrize("frames", [1, 8, 9, 250])
@pytest.mark.parametrize("bins", [1, 2, 1025])
def test_sums_equal_numpy(bins, frames):
    rng = np.random.default_rng(frames)
    power = (rng.random((bins, frames), dtype=np.float32) ** 8) * np.float32(10.0) ** rng.integers(
        -45, 25, frames
    )
    power = power.astype(np.float32)
    power[:, 0] = 0.0
    found = frame_sums(torch.from_numpy(power), 1e-10)
    wide = power.astype(np.float64)
    floored, number = np.maximum(wide, np.float32(1e-10)), np.arange(bins)[:, None]
    root = np.sqrt(wide)
    np.testing.assert_allclose(found.magnitude, root, rtol=2e-7)
    np.testing.assert_allclose(found.power, wide.sum(axis=0), rtol=1e-5)
    np.testing.assert_allclose(found.floored, floored.sum(axis=0), rtol=1e-5)
    np.testing.assert_allclose(found.log, np.log(floored).mean(axis=0), rtol=1e-5, atol=1e-5)
    for moment, factor in zip(found.moments, (1.0, number, number**2), strict=True):
        np.testing.assert_allclose(moment, (root * factor).sum(axis=0), rtol=2e-7)


@settings(max_examples=40, deadline=None)
@given(bins=st.integers(1, 200), frames=FRAMES, share=st.floats(0.01, 0.99), seed=st.integers(0, 99))
def test_the_crossing_equals_a_plain_running_sum(bins, frames, share, seed):
    rng = np.random.default_rng(seed)
    # Whole numbers, so that every sum is exact whatever its order.
    magnitude = rng.integers(0, 100, (bins, frames)).astype(np.float32)
    running = magnitude.astype(np.float64).cumsum(axis=0)
    threshold = share * running[-1]
    found = crossing_bin(torch.from_numpy(magnitude), torch.from_numpy(threshold))
    np.testing.assert_array_equal(found.numpy(), (running < threshold).sum(axis=0))


@settings(max_examples=40, deadline=None)
@given(
    bins=st.integers(64, 300),
    frames=FRAMES,
    count=st.sampled_from([1, 2, 8, 24, 25]),
    seed=st.integers(0, 99),
)
def test_the_means_of_the_extremes_equal_a_sort(bins, frames, count, seed):
    # Few distinct values, so that there are ties.
    band = np.random.default_rng(seed).integers(-20, 20, (bins, frames)).astype(np.float32)
    ranked = np.sort(band, axis=0)
    largest, smallest = extreme_means(torch.from_numpy(band), count)
    np.testing.assert_allclose(largest.numpy(), ranked[-count:].mean(axis=0), atol=1e-5)
    np.testing.assert_allclose(smallest.numpy(), ranked[:count].mean(axis=0), atol=1e-5)


def test_compiled_and_torch_agree(monkeypatch):
    power = torch.rand((513, 40), generator=torch.Generator().manual_seed(5)) ** 6
    compiled = frame_sums(power, 1e-10)
    crossing = crossing_bin(compiled.magnitude, 0.85 * compiled.moments[0])
    extremes = extreme_means(compiled.magnitude[100:300], 4)
    for name in ("_compiled_sums", "_compiled_crossing", "_compiled_extremes"):
        monkeypatch.setattr(module, name, lambda *parameters: None)
    by_torch = frame_sums(power, 1e-10)
    for name in ("magnitude", "power", "floored", "log", "moments"):
        torch.testing.assert_close(getattr(by_torch, name), getattr(compiled, name), rtol=1e-6, atol=0.0)
    assert torch.equal(crossing_bin(compiled.magnitude, 0.85 * compiled.moments[0]), crossing)
    torch.testing.assert_close(extreme_means(compiled.magnitude[100:300], 4), extremes)
