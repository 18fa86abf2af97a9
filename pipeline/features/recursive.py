"""Recursive filters as matrix products: several times as fast as sample by sample, and the same on a GPU."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import torch

# Samples per row of the matrix products. The cost of a sample grows with it, that of joining the rows shrinks.
BLOCK = 64

# Powers of the state matrix below this have faded out of float32.
_FADED = 1e-10


class RecursiveFilter:
    """A cascade of second-order sections that keeps its state from call to call.

    The response to a block of samples is a triangular matrix times the block plus what rings from before it.
    What rings is a state of two numbers per section, carried from block to block by a scan in powers of two.

    Args:
        sos: sections as in scipy, stable, float64 ``[sections, 6]``.
        channels: filtered alike and apart.
        device: where the filter runs.

    The result is that of ``scipy.signal.sosfilt`` within 1e-6 of the largest sample.
    """

    def __init__(self, sos: np.ndarray, channels: int, device: torch.device | str = "cpu") -> None:
        a, b, c, d = _balanced(*state_space(sos))
        powers = [np.eye(len(a))]
        for _ in range(BLOCK):
            powers.append(a @ powers[-1])
        impulse = np.array([d, *(c @ power @ b for power in powers[: BLOCK - 1])])
        response = np.zeros((BLOCK, BLOCK))
        for i in range(BLOCK):
            response[i, i:] = impulse[: BLOCK - i]
        drive = np.stack([power @ b for power in powers[BLOCK - 1 :: -1]], axis=1)
        ringing = np.stack([c @ power for power in powers[:BLOCK]], axis=1)
        self._response, self._drive, self._ringing, self._carry = (
            torch.from_numpy(np.ascontiguousarray(m, dtype=np.float32)).to(device)
            for m in (response, drive, ringing, powers[BLOCK])
        )
        self._state = torch.zeros((channels, len(a), 1), device=device)

    def __call__(self, samples: torch.Tensor) -> torch.Tensor:
        """Filter the next samples.

        Shape: float32 ``[channels, n]`` → the same; ``n`` is a multiple of `BLOCK`.
        """
        channels, order, _ = self._state.shape
        rows = samples.reshape(-1, BLOCK)
        # States in rows: products with matrices of four columns would cost as much as the filter itself.
        driven = (self._drive @ rows.T).reshape(order, channels, -1).transpose(0, 1)
        states = torch.cat([self._state, driven], dim=2)
        carry, distance = self._carry, 1
        while distance < states.shape[2] and float(carry.abs().max()) > _FADED:
            states[:, :, distance:] += carry @ states[:, :, :-distance]
            carry, distance = carry @ carry, 2 * distance
        self._state = states[:, :, -1:].clone()
        entering = states[:, :, :-1].transpose(1, 2).reshape(-1, order)
        return (rows @ self._response).addmm_(entering, self._ringing).reshape(channels, -1)


def state_space(sos: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
    """``s' = a s + b x``, ``y = c s + d x`` of a cascade of second-order sections (direct form II transposed).

    Returns:
        float64 ``[states, states]``, ``[states]``, ``[states]`` and a number.
    """
    a, b, c, d = np.zeros((0, 0)), np.zeros(0), np.zeros(0), 1.0
    for b0, b1, b2, a0, a1, a2 in sos:
        section = np.array([[-a1, a0], [-a2, 0.0]]) / a0
        drive = np.array([b1 - a1 * b0 / a0, b2 - a2 * b0 / a0]) / a0
        a = np.block([[a, np.zeros((len(a), 2))], [np.outer(drive, c), section]])
        b, c, d = np.append(b, drive * d), np.append(c * b0 / a0, [1.0, 0.0]), d * b0 / a0
    return a, b, c, d


def _balanced(
    a: np.ndarray, b: np.ndarray, c: np.ndarray, d: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
    """The same filter with states that noise drives alike and apart, so that float32 holds them.

    In direct form a high pass far below the sample rate is the small difference of two large states.
    """
    gramian, power = np.outer(b, b), a
    while np.abs(power).max() > 1e-20:
        gramian = gramian + power @ gramian @ power.T
        power = power @ power
    root = np.linalg.cholesky(gramian)
    inverse = np.linalg.inv(root)
    return inverse @ a @ root, inverse @ b, c @ root, d


def whole_blocks(chunks: Iterable[np.ndarray]) -> Iterator[tuple[np.ndarray, int]]:
    """``chunks`` cut anew into multiples of `BLOCK`; the last one is filled up with zeros.

    Shape: ``[channels, any]`` each → float32 ``[channels, a multiple of BLOCK]`` each, and how many of its
    samples were given.
    """
    rest: np.ndarray | None = None
    for chunk in chunks:
        # Always a copy: torch does not support arrays that cannot be written to.
        joined = np.array(chunk, np.float32) if rest is None else np.concatenate([rest, chunk], axis=1)
        whole = joined.shape[1] // BLOCK * BLOCK
        if whole:
            yield joined[:, :whole].astype(np.float32, copy=False), whole
        rest = joined[:, whole:] if whole < joined.shape[1] else None
    if rest is not None:
        padded = np.pad(rest, ((0, 0), (0, BLOCK - rest.shape[1])))
        yield padded.astype(np.float32, copy=False), rest.shape[1]
