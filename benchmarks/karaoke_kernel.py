"""How far each sign of the karaoke score reaches: the scales of a Gaussian process, learned. For `karaoke_fit.py`."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

STEPS = 60
RATE = 0.1
"""Of Adam, on the logarithms."""
MOST_ROWS = 600
"""Scales are learned from so many rows, drawn at random: time grows with their cube."""
SEED = 17


@dataclass(frozen=True)
class Scales:
    """What a Gaussian process takes a quantity for: a line and a smooth function of the standardised signs, and noise.

    Args:
        lengths: over which the smooth function changes, for each sign.
        slopes: standard deviation of the line's slope, for each sign.
        height: standard deviation of the smooth function.
        noise: standard deviation of what neither tells, nor a smooth function of the song alone.
    """

    lengths: np.ndarray
    slopes: np.ndarray
    height: float
    noise: float


def learned(z: np.ndarray, true: np.ndarray, weight: np.ndarray, songs: np.ndarray) -> Scales:
    """The scales that make what is true most likely: type-II maximum likelihood (Rasmussen and Williams 2006, "Gaussian
    Processes for Machine Learning", sections 5.1 and 5.4.1), where each sign has a length of its own.

    Outputs of one song err alike. That goes into a smooth function of each song's own, which no other song has, so that
    the scales are those of what songs have in common.

    Args:
        z: standardised signs, ``[rows, signs]``.
        true: ``[rows]``.
        weight: a row of weight 2 has half the variance of noise, ``[rows]``.
        songs: which song a row is of, ``[rows]``.
    """
    chosen = np.sort(np.random.default_rng(SEED).permutation(len(z))[:MOST_ROWS])
    rows, y = (torch.from_numpy(np.asarray(a, np.float64)[chosen]) for a in (z, true - np.mean(true)))
    variance = torch.from_numpy(1.0 / weight[chosen])
    signs = z.shape[1]
    same = torch.from_numpy(songs[chosen][:, None] == songs[chosen]).double()
    reach = 1.5 * np.sqrt(signs)
    start = {"lengths": np.full(signs, reach), "slopes": np.full(signs, 0.5), "height": 4.0, "noise": 1.5,
             "own_height": 1.5, "own_length": reach}  # fmt: skip
    logs = {
        name: torch.tensor(np.log(value), dtype=torch.float64, requires_grad=True)
        for name, value in start.items()
    }
    adam = torch.optim.Adam(list(logs.values()), lr=RATE)
    for _ in range(STEPS):
        adam.zero_grad()
        _unlikelihood(rows, y, variance, same, {name: value.exp() for name, value in logs.items()}).backward()
        adam.step()
    found = {name: value.detach().exp().numpy() for name, value in logs.items()}
    return Scales(found["lengths"], found["slopes"], float(found["height"]), float(found["noise"]))


def _unlikelihood(z: Tensor, y: Tensor, variance: Tensor, same: Tensor, scales: dict[str, Tensor]) -> Tensor:
    """Negative logarithm of the likelihood, less a constant."""
    line = z * scales["slopes"]
    covariance = scales["height"] ** 2 * _closeness(z / scales["lengths"]) + line @ line.T
    covariance = covariance + same * scales["own_height"] ** 2 * _closeness(z / scales["own_length"])
    factor = torch.linalg.cholesky(covariance + torch.diag(scales["noise"] ** 2 * variance + 1e-6))
    solved = torch.cholesky_solve(y[:, None], factor)[:, 0]
    return 0.5 * y @ solved + torch.log(torch.diagonal(factor)).sum()


def _closeness(z: Tensor) -> Tensor:
    square = z.square().sum(1)
    return torch.exp(-0.5 * (square[:, None] + square - 2 * z @ z.T).clamp(min=0))
