"""What embedders of voices share: stretches of one length go through the network together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

_BATCH = 16


class BatchEmbedder:
    """An embedder whose network takes stretches of one length together.

    Attributes:
        dimensions: of a vector.
        cosines: of `pipeline.speech.clustering.Cosines`, those that are others than CAM++'s.
    """

    dimensions: int
    cosines: Mapping[str, float] = {}

    def embed(self, windows: Sequence[np.ndarray]) -> np.ndarray:
        """One vector for each stretch of speech; stretches of one length share batches.

        Args:
            windows: float32 ``[n]`` within -1..1 at 16 kHz each, any n above 0; 1 to 3 s are best.

        Returns:
            float32 ``[windows, dimensions]`` of unit length; zero where the network's is.

        Raises:
            ValueError: a window is empty, or holds what is no finite number.
        """
        result = np.zeros((len(windows), self.dimensions), np.float32)
        by_length: dict[int, list[int]] = {}
        for index, window in enumerate(windows):
            by_length.setdefault(len(window), []).append(index)
        for indices in by_length.values():
            for at in range(0, len(indices), _BATCH):
                batch = indices[at : at + _BATCH]
                result[batch] = self._batch([windows[index] for index in batch])
        return result / np.maximum(np.linalg.norm(result, axis=1, keepdims=True), 1e-12)

    def _batch(self, windows: list[np.ndarray]) -> np.ndarray:
        """Float32 ``[windows, dimensions]`` of up to 16 stretches of one length."""
        raise NotImplementedError


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
