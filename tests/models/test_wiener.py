"""The Wiener filter against its formulas in float64, matrix by matrix."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pipeline.models.separation.wiener import wiener

BINS = 5


def reference(mix: np.ndarray, masks: np.ndarray, frames: int) -> np.ndarray:
    """Complex128 ``[targets, items, 2, frames, bins]`` of ``[items, 2, frames, bins]`` and masks ``[targets, ...]``."""
    mix, found = mix.astype(np.complex128), np.zeros(masks.shape, np.complex128)
    for item in range(len(mix)):
        for first in range(0, mix.shape[2], frames):
            cut = (item, slice(None), slice(first, first + frames))
            scale = max(1.0, np.abs(mix[cut]).max() / 10)
            for f in range(mix.shape[-1]):
                x = mix[cut][..., f] / scale
                y = masks[(slice(None), *cut)][..., f] * x
                power = (np.abs(y) ** 2).mean(axis=1)
                spread = np.einsum("jat,jbt->jab", y, y.conj()) / (1e-10 + power.sum(axis=1))[:, None, None]
                total = 1e-5 * np.eye(2) + np.einsum("jt,jab->tab", power, spread)
                gain = np.einsum("jt,jab,tbc->jtac", power, spread, np.linalg.inv(total))
                found[(slice(None), *cut)][..., f] = scale * np.einsum("jtac,ct->jat", gain, x)
    return found


def spectra(items: int, frames: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    parts = rng.standard_normal((2, items, 2, frames, BINS))
    return (30 * (parts[0] + 1j * parts[1])).astype(np.complex64)


def masks_for(mix: np.ndarray, targets: int = 3, alike: bool = False) -> np.ndarray:
    """Float32 ``[targets, *mix.shape]``; ``alike`` in both channels."""
    masks = np.random.default_rng(1).uniform(0, 1.2, (targets, *mix.shape)).astype(np.float32)
    return np.repeat(masks[:, :, :1], 2, axis=2) if alike else masks


def found(mix: np.ndarray, masks: np.ndarray, frames: int) -> np.ndarray:
    lazily = (torch.from_numpy(mask).transpose(1, 2) for mask in masks)
    return torch.stack(list(wiener(torch.from_numpy(mix), lazily, frames))).numpy()


@pytest.mark.parametrize(
    ("total", "frames"), [(7, 300), (12, 4), (13, 4), (1, 1), (5, 1)], ids=lambda value: str(value)
)
def test_stretches_whole_and_left_over(total, frames):
    mix = spectra(2, total)
    masks = masks_for(mix)
    wanted = reference(mix, masks, frames)
    np.testing.assert_allclose(found(mix, masks, frames), wanted, atol=1e-6 * np.abs(mix).max())


@pytest.mark.parametrize("side", [0.0, 1e-5, 1e-3])
@pytest.mark.parametrize("pan", [1.0, 0.3])
def test_channels_that_are_alike(side, pan):
    """The mix's matrix is singular but for its regularisation; in float32 errors are as large as the mix."""
    mix = spectra(1, 40)
    mix[:, 1] = pan * mix[:, 0] + side * mix[:, 1]
    masks = masks_for(mix, alike=True)
    wanted = reference(mix, masks, 16)
    assert np.isfinite(wanted).all()
    np.testing.assert_allclose(found(mix, masks, 16), wanted, atol=1e-6 * np.abs(mix).max())


@pytest.mark.parametrize("gain", [1e-30, 1e-6, 1e-3, 1e4])
def test_levels(gain):
    mix = gain * spectra(1, 20)
    masks = masks_for(mix)
    wanted = reference(mix, masks, 8)
    np.testing.assert_allclose(found(mix, masks, 8), wanted, atol=1e-6 * np.abs(mix).max())


def test_silence():
    mix = spectra(2, 24)
    mix[0, :, 6:20] = 0
    mix[1, 1] = 0
    masks = masks_for(mix)
    masks[2] = 0
    got = found(mix, masks, 8)
    np.testing.assert_allclose(got, reference(mix, masks, 8), atol=1e-6 * np.abs(mix).max())
    assert (got[:, 0, :, 6:20] == 0).all()
    assert (got[:, 1, 1] == 0).all()
    assert (got[2] == 0).all()


def test_targets_sum_to_a_loud_mix():
    mix = spectra(1, 30)
    masks = 0.2 + masks_for(mix)
    np.testing.assert_allclose(found(mix, masks, 10).sum(axis=0), mix, atol=1e-3 * np.abs(mix).max())


def test_items_do_not_see_each_other():
    mix = spectra(3, 20)
    mix[1] *= 100
    masks = masks_for(mix)
    together = found(mix, masks, 8)
    for item in range(3):
        alone = found(mix[item : item + 1], masks[:, item : item + 1], 8)
        np.testing.assert_array_equal(together[:, item], alone[:, 0])
