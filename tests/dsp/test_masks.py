"""Energies by group: the same as the masks applied, however the frames are cut and whoever does it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pipeline.dsp import masks as module
from pipeline.dsp.masks import Masking, energy_by_group, masks

MASKINGS = [Masking(), Masking(kernel_size=17), Masking(margin_harmonic=2.0), Masking(hard=True)]


@pytest.fixture(scope="module")
def power() -> torch.Tensor:
    power = np.random.default_rng(6).random((300, 129), dtype=np.float32) ** 8
    power[40:120] = 0.0
    power[:, 60:70] *= 1e-38  # denormal, too
    return torch.from_numpy(power).T


@pytest.mark.parametrize("masking", MASKINGS)
@pytest.mark.parametrize(
    ("first", "last", "number"), [(0, None, 0), (31, 270, 31), (31, 270, 1000), (5, 6, 21)]
)
def test_energies_are_those_of_the_masks(masking, first, last, number, power):
    group = 22
    found = energy_by_group(power, masking, group, number, first=first, last=last).numpy()
    parts = [torch.cat(m, 1).numpy() for m in list(zip(*masks(power, masking, first, last), strict=True))[1:]]
    frames = number + np.arange(parts[0].shape[1])
    starts = np.flatnonzero(np.diff(frames // group, prepend=-1))
    for energy, mask in zip(found, parts, strict=True):
        of_frames = np.square(mask, dtype=np.float64) * power[:, first:last].numpy()
        np.testing.assert_allclose(
            energy, np.add.reduceat(of_frames, starts, axis=1).T, rtol=1e-5, atol=1e-37
        )


def test_compiled_energies_are_those_of_torch(power, monkeypatch):
    compiled = energy_by_group(power, Masking(), 22, 0)
    monkeypatch.setattr(module, "_compiled_energies", lambda: None)
    torch.testing.assert_close(energy_by_group(power, Masking(), 22, 0), compiled, rtol=1e-5, atol=1e-37)
