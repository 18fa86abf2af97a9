"""How close an estimate comes to a reference."""

from __future__ import annotations

import math

import numpy as np


def si_sdr(estimate: np.ndarray, reference: np.ndarray) -> float | None:
    """Scale-invariant signal-to-distortion ratio, dB; higher is better.

    All channels together are one vector, so one gain serves them all; no mean is removed.
    Source: Le Roux et al. 2019, "SDR - half-baked or well done?", ICASSP, equation 1.

    Args:
        estimate: ``[..., samples]``, real.
        reference: the same shape.

    Returns:
        dB; ``inf`` for an exact multiple of the reference, ``-inf`` for an estimate that holds nothing of it,
        None where either is empty or silent, for which the ratio is undefined.

    Raises:
        ValueError: the shapes differ, or either holds NaN or infinity.
    """
    estimate, reference = np.asarray(estimate, np.float64), np.asarray(reference, np.float64)
    if estimate.shape != reference.shape:
        raise ValueError(f"the shapes {list(estimate.shape)} and {list(reference.shape)} differ")
    if not (np.isfinite(estimate).all() and np.isfinite(reference).all()):
        raise ValueError("estimate or reference holds NaN or infinity")
    if not estimate.any() or not reference.any():
        return None
    # Scaled to a peak of one, so that squares neither vanish nor overflow.
    estimate = estimate.ravel() / np.abs(estimate).max()
    reference = reference.ravel() / np.abs(reference).max()
    target = reference * (estimate @ reference) / (reference @ reference)
    distortion = estimate - target
    signal, noise = float(target @ target), float(distortion @ distortion)
    if noise == 0.0:
        return math.inf
    return 10.0 * math.log10(signal / noise) if signal > 0.0 else -math.inf
