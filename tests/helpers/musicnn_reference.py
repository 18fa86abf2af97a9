"""musicnn's published graph in numpy, written after ``musicnn/models.py`` of its wheel: TensorFlow is not installed."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

FRONT = ((7, 38), (7, 67), (128, 1), (64, 1), (32, 1))


def musicnn(variables: Mapping[str, np.ndarray], patch: np.ndarray) -> np.ndarray:
    """What a network makes of a patch ``[187, 96]``: 50 probabilities, and the 200 values before: float64 ``[250]``."""
    graph = _Graph(variables)
    x = graph.norm(patch.astype(np.float64)[..., None], 0)[..., 0]
    front = np.concatenate([graph.front(x, number, *size) for number, size in enumerate(FRONT)], axis=1)
    one = graph.middle(front, 5)
    two = graph.middle(one, 6) + one
    three = graph.middle(two, 7) + two
    every = np.concatenate([front, one, two, three], axis=1)
    pooled = np.stack([every.max(axis=0), every.mean(axis=0)], axis=1).ravel()
    units = graph.norm(np.maximum(graph.dense(graph.norm(pooled, 9), 0), 0), 10)
    return np.concatenate([1 / (1 + np.exp(-graph.dense(units, 1))), units])


class _Graph:
    """TensorFlow's layers by their numbers; channels come last."""

    def __init__(self, variables: Mapping[str, np.ndarray]) -> None:
        self._variables = variables

    def _get(self, layer: str, number: int, name: str) -> np.ndarray:
        return self._variables[f"{layer}{f'_{number}' if number else ''}/{name}"].astype(np.float64)

    def norm(self, x: np.ndarray, number: int) -> np.ndarray:
        names = ("gamma", "beta", "moving_mean", "moving_variance")
        gamma, beta, mean, variance = (self._get("batch_normalization", number, name) for name in names)
        return (x - mean) / np.sqrt(variance + 1e-3) * gamma + beta

    def dense(self, x: np.ndarray, number: int) -> np.ndarray:
        return x @ self._get("dense", number, "kernel") + self._get("dense", number, "bias")

    def front(self, x: np.ndarray, number: int, frames: int, bands: int) -> np.ndarray:
        """``[frames, filters]``: padded with zeros in time, one more at the end where it is uneven."""
        padded = np.pad(x, (((frames - 1) // 2, frames // 2), (0, 0)))
        windows = sliding_window_view(padded, (frames, bands)).reshape(len(x), -1, frames * bands)
        kernel = self._get("conv2d", number, "kernel")
        answers = windows @ kernel.reshape(frames * bands, -1) + self._get("conv2d", number, "bias")
        return self.norm(np.maximum(answers, 0), number + 1).max(axis=1)

    def middle(self, x: np.ndarray, number: int) -> np.ndarray:
        padded = np.pad(x, ((3, 3), (0, 0)))
        windows = sliding_window_view(padded, 7, axis=0).transpose(0, 2, 1).reshape(len(x), -1)
        kernel = self._get("conv2d", number, "kernel")
        answers = windows @ kernel.reshape(-1, kernel.shape[-1]) + self._get("conv2d", number, "bias")
        return self.norm(np.maximum(answers, 0), number + 1)


def random_variables(seed: int = 0, dead: float = 0.5) -> dict[str, np.ndarray]:
    """Variables of a network under TensorFlow's names: of its filters so large a share is dead, and some batch norms
    have negative factors."""
    rng, variables = np.random.default_rng(seed), {}

    def layer(name: str, *shape: int) -> None:
        scale = 1.0 / np.sqrt(np.prod(shape[:-1]))
        variables[f"{name}/kernel"] = (rng.standard_normal(shape) * scale).astype(np.float32)
        variables[f"{name}/bias"] = (rng.standard_normal(shape[-1]) * 0.3).astype(np.float32)

    def norm(number: int, channels: int) -> None:
        name = f"batch_normalization_{number}" if number else "batch_normalization"
        drawn = rng.standard_normal((4, channels)).astype(np.float32)
        parts = {"gamma": drawn[0], "beta": drawn[1], "moving_mean": drawn[2] * 0.3,
                 "moving_variance": np.abs(drawn[3]) + 0.1}  # fmt: skip
        variables.update({f"{name}/{part}": value for part, value in parts.items()})

    norm(0, 1)
    for number, ((frames, bands), filters) in enumerate(zip(FRONT, (204, 204, 51, 51, 51), strict=True)):
        name = f"conv2d_{number}" if number else "conv2d"
        layer(name, frames, bands, 1, filters)
        variables[f"{name}/kernel"][..., rng.random(filters) < dead] *= 1e-12
        norm(number + 1, filters)
    for number, channels in ((5, 561), (6, 64), (7, 64)):
        layer(f"conv2d_{number}", 7, channels, 1, 64)
        norm(number + 1, 64)
    norm(9, 1506)
    layer("dense", 1506, 200)
    norm(10, 200)
    layer("dense_1", 200, 50)
    return variables
