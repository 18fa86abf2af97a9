"""Recursive filters several samples at a time: compiled, or as matrix products where nothing compiles."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from pipeline.dsp.compiled import LANES, Kernel, compiled
from pipeline.late import torch

# Samples per row of the matrix products. The cost of a sample grows with it, that of joining the rows shrinks.
# A multiple of the square of the lanes of a vector.
BLOCK = 64

# A filter that rings for longer than this is not compiled.
_LONGEST_RINGING = 1 << 18

# Powers of the state matrix below this have faded out of float32.
_FADED = 1e-10


class RecursiveFilter:
    """A cascade of second-order sections that keeps its state from call to call.

    Args:
        sos: sections as in scipy, stable, float64 ``[sections, 6]``.
        channels: filtered alike and apart.

    The result is that of ``scipy.signal.sosfilt`` within 1e-6 of the largest sample.
    """

    def __init__(self, sos: np.ndarray, channels: int) -> None:
        design = _lane_design(sos.tobytes())
        self._filter = LaneFilter(design, channels) if design else MatrixFilter(sos, channels)

    def __call__(self, samples: torch.Tensor) -> torch.Tensor:
        """Filter the next samples.

        Shape: float32 ``[channels, n]`` → the same; ``n`` is a multiple of `BLOCK`.
        """
        return self._filter(samples)


class LaneFilter:
    """A compiled filter: the lanes of a vector run through as many parts of the samples at the same time.

    All but the first lane begin without a state. What would have rung from the part before is known when all
    have come to their ends, and is added to the beginning of each part.
    """

    def __init__(self, design: _LaneDesign, channels: int) -> None:
        self._design = design
        self._states = np.zeros((channels, len(design.matrix)))
        # Samples per lane, and the matrix to the power of them: chunks are mostly of the same length.
        self._part, self._carry = 0, np.eye(len(design.matrix))

    def __call__(self, samples: torch.Tensor) -> torch.Tensor:
        """As `RecursiveFilter`."""
        design = self._design
        samples = samples.contiguous()
        filtered = torch.empty_like(samples)
        part = samples.shape[1] // LANES
        if part != self._part:
            self._part, self._carry = part, np.linalg.matrix_power(design.matrix, part)
        ringing = design.ringing[:, :part]
        for channel, state in enumerate(self._states):
            lanes = np.zeros((len(state), LANES))
            lanes[:, 0] = state
            rows = samples[channel].data_ptr(), filtered[channel].data_ptr()
            design.run(*rows, design.coefficients.ctypes.data, lanes.ctypes.data, part)
            entering = np.empty((LANES - 1, len(state)))
            state[:] = lanes[:, 0]
            for lane in range(1, LANES):
                entering[lane - 1] = state
                state[:] = lanes[:, lane] + self._carry @ state
            beginnings = filtered[channel].view(LANES, part)[1:, : ringing.shape[1]]
            beginnings.addmm_(torch.from_numpy(entering).float(), ringing)
        return filtered


@dataclass(frozen=True)
class _LaneDesign:
    """What a `LaneFilter` is made of.

    Args:
        matrix: of the state, float64 ``[states, states]``.
        ringing: response to each state, until it has faded, float32 ``[states, samples]``.
        coefficients: b0, b1, b2, -a1, -a2 of each section, where a0 is 1, float64 ``[sections, 5]``.
        run: filters one channel, see `_compiled_sections`.
    """

    matrix: np.ndarray
    ringing: torch.Tensor
    coefficients: np.ndarray
    run: Callable[..., None]


@lru_cache(maxsize=16)
def _lane_design(sections: bytes) -> _LaneDesign | None:
    sos = np.frombuffer(sections).reshape(-1, 6)
    run = _compiled_sections(len(sos))
    matrix, _, output, _ = state_space(sos)
    ringing, power = output[None], matrix
    while np.abs(ringing[len(ringing) // 2 :]).max() > _FADED:
        if len(ringing) >= _LONGEST_RINGING:
            return None
        ringing, power = np.concatenate([ringing, ringing @ power]), power @ power
    audible = np.flatnonzero(np.abs(ringing).max(axis=1) > _FADED)[-1] + 1
    ringing = torch.from_numpy(np.ascontiguousarray(ringing[:audible].T, dtype=np.float32))
    coefficients = (sos / sos[:, 3:4])[:, [0, 1, 2, 4, 5]] * [1, 1, 1, -1, -1]
    return None if run is None else _LaneDesign(matrix, ringing, np.ascontiguousarray(coefficients), run)


@lru_cache(maxsize=4)
def _compiled_sections(sections: int) -> Callable[..., None] | None:
    """A cascade of sections (direct form II transposed) in float64 over as many parts as there are lanes.

    Addresses of the samples, the result, the coefficients and the states (float64 ``[2 * sections, LANES]``,
    overwritten by those at the end), then the samples per part, a multiple of the lanes.
    """

    def write(kernel: Kernel) -> None:
        build, index = kernel.build, kernel.index
        samples, result, coefficients, states, part = kernel.arguments
        factors = [
            kernel.broadcast(kernel.load(coefficients, index(i), kernel.doubles.element))
            for i in range(5 * sections)
        ]
        starts = [build.mul(part, index(lane)) for lane in range(LANES)]

        def advance(value: Any, state: list[Any]) -> Any:
            value = build.fpext(value, kernel.doubles)
            for section in range(sections):
                b0, b1, b2, a1, a2 = factors[5 * section : 5 * section + 5]
                near, far = 2 * section, 2 * section + 1
                output = kernel.multiply_add(b0, value, state[near])
                state[near] = kernel.multiply_add(a1, output, kernel.multiply_add(b1, value, state[far]))
                state[far] = kernel.multiply_add(a2, output, build.fmul(b2, value))
                value = output
            return build.fptrunc(value, kernel.vector)

        def square(time: Any, *state: Any) -> list[Any]:
            state = list(state)
            rows = [kernel.load(samples, build.add(start, time)) for start in starts]
            outputs = [advance(value, state) for value in kernel.transpose(rows)]
            for start, row in zip(starts, kernel.transpose(outputs), strict=True):
                kernel.store(row, result, build.add(start, time))
            return state

        offsets = [index(i * LANES) for i in range(2 * sections)]
        entering = [kernel.load(states, offset, kernel.doubles) for offset in offsets]
        for offset, state in zip(offsets, kernel.repeat(part, LANES, square, entering), strict=True):
            kernel.store(state, states, offset)

    return compiled(write, pointers=4, integers=1)


class MatrixFilter:
    """A filter as matrix products.

    The response to a block of samples is a triangular matrix times the block plus what rings from before it.
    What rings is a state of two numbers per section, carried from block to block by a scan in powers of two.
    """

    def __init__(self, sos: np.ndarray, channels: int) -> None:
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
            torch.from_numpy(np.ascontiguousarray(m, dtype=np.float32))
            for m in (response, drive, ringing, powers[BLOCK])
        )
        self._state = torch.zeros((channels, len(a), 1))

    def __call__(self, samples: torch.Tensor) -> torch.Tensor:
        """As `RecursiveFilter`."""
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
