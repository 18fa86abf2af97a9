"""What embedders of voices share: stretches of one length go through the network together."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

_BATCH = 16


def in_batches(
    windows: Sequence[np.ndarray], dimensions: int, embed: Callable[[list[np.ndarray]], np.ndarray]
) -> np.ndarray:
    """One vector for each stretch, float32 ``[windows, dimensions]`` of unit length; zero where the network's is.

    Args:
        windows: ``[n]`` each, any n.
        dimensions: of a vector.
        embed: up to 16 stretches of one length → ``[stretches, dimensions]``.
    """
    result = np.zeros((len(windows), dimensions), np.float32)
    by_length: dict[int, list[int]] = {}
    for index, window in enumerate(windows):
        by_length.setdefault(len(window), []).append(index)
    for indices in by_length.values():
        for at in range(0, len(indices), _BATCH):
            batch = indices[at : at + _BATCH]
            result[batch] = embed([windows[index] for index in batch])
    return result / np.maximum(np.linalg.norm(result, axis=1, keepdims=True), 1e-12)


def checked(samples: np.ndarray) -> np.ndarray:
    """A stretch of speech as float32 ``[n]`` in one piece of memory.

    Raises:
        ValueError: there are no samples, or they hold what is no finite number.
    """
    samples = np.asarray(samples, np.float32)
    if samples.ndim != 1 or not len(samples):
        raise ValueError(f"speech to embed is [n] with n above 0, not {list(samples.shape)}")
    if not np.isfinite(samples).all():
        raise ValueError("speech to embed holds NaN or infinity")
    return np.ascontiguousarray(samples)
