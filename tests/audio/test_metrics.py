from __future__ import annotations

import math

import numpy as np
import pytest

from pipeline.audio.metrics import si_sdr


def orthogonal_pair(samples: int = 4096) -> tuple[np.ndarray, np.ndarray]:
    """Two sinusoids of equal energy that are orthogonal over their length."""
    phase = 2 * np.pi * np.arange(samples) / samples
    return np.sin(31 * phase), np.sin(57 * phase)


@pytest.mark.parametrize("ratio_db", [-20.0, 0.0, 7.5, 60.0])
def test_energy_ratio_of_orthogonal_parts(ratio_db):
    reference, noise = orthogonal_pair()
    estimate = reference + noise * 10 ** (-ratio_db / 20)
    assert si_sdr(estimate, reference) == pytest.approx(ratio_db, abs=1e-6)


@pytest.mark.parametrize("gain", [-3.0, 1e-30, 0.5, 1e30])
def test_gain_and_sign_of_the_estimate_do_not_matter(gain):
    reference, noise = orthogonal_pair()
    assert si_sdr(gain * (reference + 0.1 * noise), reference) == pytest.approx(20.0, abs=1e-6)


def test_channels_share_one_gain():
    reference, _ = orthogonal_pair()
    stereo = np.stack([reference, reference])
    # Half the target's energy is kept when one of two equal channels is lost: <e,r>² / |e|²|r|² = 1/2.
    assert si_sdr(np.stack([reference, 0 * reference]), stereo) == pytest.approx(0.0, abs=1e-9)


def test_edges():
    reference, noise = orthogonal_pair()
    assert si_sdr(2 * reference, reference) == math.inf
    assert si_sdr(np.array([1.0, 0.0]), np.array([0.0, 1.0])) == -math.inf
    assert si_sdr(0 * noise, reference) is None
    assert si_sdr(reference, 0 * noise) is None
    assert si_sdr(np.zeros(0), np.zeros(0)) is None
    assert si_sdr(np.ones(1), np.ones(1)) == math.inf


def test_what_is_refused():
    with pytest.raises(ValueError, match="differ"):
        si_sdr(np.ones((1, 4)), np.ones(4))
    with pytest.raises(ValueError, match="NaN"):
        si_sdr(np.array([np.nan, 1.0]), np.ones(2))
