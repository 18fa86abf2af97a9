"""The samples that every backend of a speech step takes."""

from __future__ import annotations

import numpy as np


def mono_samples(samples: np.ndarray) -> np.ndarray:
    """Mono samples as float32 ``[n]``, any n; what is float32 already is not copied.

    Raises:
        ValueError: another shape or type, or what is no finite number.
    """
    samples = np.asarray(samples)
    if samples.ndim != 1 or samples.dtype.kind != "f":
        raise ValueError(f"samples must be mono floats [n], not {samples.dtype} {samples.shape}")
    if not np.isfinite(samples).all():
        raise ValueError("there are samples that are no finite numbers")
    return samples.astype(np.float32, copy=False)
