"""True peak after ITU-R BS.1770-4, annex 2: the largest value between the samples, found where it can be."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np

from pipeline.dsp.compiled import LANES, Kernel, compiled
from pipeline.late import torch

# Zero crossings of the interpolating sinc on either side, and the shape of its Kaiser window.
_PEAK_ZEROS = 16
PEAK_CONTEXT = 2 * _PEAK_ZEROS - 1
"""Samples before a piece of a track without which `true_peak` would not see between the two."""
_PEAK_KAISER_BETA = 7.0
# Samples whose peaks are found by one row of a matrix product; with the taps less one it spans two blocks.
_PEAK_BLOCK = 2 * _PEAK_ZEROS
# Rows per product, from the most promising down: what they reach spares the rest.
_PEAK_FRAMES = 1024


def oversampling(sample_rate: int) -> int:
    """Factor of the true-peak meter, which works at about 192 kHz: 4, from 96 kHz 2, from 192 kHz 1."""
    if sample_rate >= 192000:
        return 1
    return 2 if sample_rate >= 96000 else 4


def interpolator(factor: int, zeros: int = _PEAK_ZEROS, beta: float = _PEAK_KAISER_BETA) -> torch.Tensor:
    """Windowed-sinc filters of the samples between two input samples, float32 ``[factor - 1, taps]``.

    The gap lies between the two taps in the middle. Each filter passes a constant unchanged.

    Args:
        factor: of oversampling.
        zeros: zero crossings of the sinc on either side, half the taps.
        beta: shape of its Kaiser window.
    """
    phase = torch.arange(1, factor, dtype=torch.float64)[:, None] / factor
    time = torch.arange(-zeros + 1, zeros + 1, dtype=torch.float64)[None, :] - phase
    ratio = (1.0 - (time / zeros).square()).clamp(min=0.0)
    window = torch.special.i0(beta * ratio.sqrt())
    kernel = torch.sinc(time) * window
    return (kernel / kernel.sum(dim=1, keepdim=True)).float()


def true_peak(samples: np.ndarray, sample_rate: int) -> float:
    """Largest absolute value of the oversampled signal (BS.1770-4, annex 2), at least the sample peak.

    Between samples it is known only where the interpolating filter sees nothing but the track: the first and
    last 16 samples count as they are. With zeros beyond, a clip cut in the middle of a wave would ring at the
    cut and read up to 1 dB too much.

    Args:
        samples: float32 ``[channels, samples]``.
        sample_rate: Hz; it determines the `oversampling`.

    Returns:
        amplitude, 1 is full scale; 0 without samples.
    """
    if samples.size == 0:
        return 0.0
    kernel = interpolator(oversampling(sample_rate))
    block, taps = _PEAK_BLOCK, 2 * _PEAK_ZEROS
    peaks, bends = block_extremes(samples.astype(np.float32, copy=False), block)
    peak = float(peaks.max())
    windows = samples.shape[1] - taps + 1
    if not len(kernel) or windows < 1:
        return peak
    if windows % block:
        rest = torch.from_numpy(np.array(samples[:, windows // block * block :], dtype=np.float32))
        peak = max(peak, float((rest.unfold(1, taps, 1) @ kernel.T).abs().amax()))
    bound = interpolated_bound(kernel, peaks, bends)[:, : windows // block]
    channel, number = np.nonzero(bound > peak)
    order = np.argsort(-bound[channel, number], kind="stable")
    matrix, offsets = _band_matrix(kernel, block), np.arange(block + taps - 1)
    for start in range(0, len(order), _PEAK_FRAMES):
        chosen = order[start : start + _PEAK_FRAMES]
        channels, numbers = channel[chosen], number[chosen]
        if bound[channels[0], numbers[0]] <= peak:
            break
        frames = samples[channels[:, None], block * numbers[:, None] + offsets].astype(np.float32, copy=False)
        peak = max(peak, float((torch.from_numpy(frames) @ matrix).abs().amax()))
    return peak


def interpolated_bound(kernel: torch.Tensor, peaks: np.ndarray, bends: np.ndarray) -> np.ndarray:
    """What no value interpolated within a block exceeds; the filters see that block and the next one.

    A filter is the straight line between its two middle samples plus a weighted sum of second differences: it
    passes a constant unchanged, and a line but for a shift along it. Music bends little for its height, and so
    of a hundred blocks two or three are left that might hold the peak.

    Args:
        kernel: from `interpolator`.
        peaks, bends: from `block_extremes`, ``[channels, blocks + 1]``.

    Shape: → ``[channels, blocks]``.
    """
    taps = kernel.double().numpy()
    before = _PEAK_ZEROS - 1
    share = taps @ np.arange(taps.shape[1]) - before
    taps[:, before] -= 1.0 - share
    taps[:, before + 1] -= share
    weight = np.abs(taps.cumsum(axis=1).cumsum(axis=1)).sum(axis=1).max()
    # The margin is for the rounding of the taps and of the products.
    highest = np.maximum(peaks[:, :-1], peaks[:, 1:]) * (1.0 + 1e-5)
    return highest + np.maximum(bends[:, :-1], bends[:, 1:]) * (weight * (1.0 + 1e-5))


def block_extremes(samples: np.ndarray, block: int) -> tuple[np.ndarray, np.ndarray]:
    """Largest absolute sample and largest absolute second difference of each block of ``block`` samples.

    The difference counts for the block in which its first sample lies. The last entry, of what is left behind
    the whole blocks, is always there; a block is whole where two samples follow it.

    Shape: float32 ``[channels, samples]`` → two of float32 ``[channels, blocks + 1]``.
    """
    channels, length = samples.shape
    blocks = max(0, length - 2) // block
    extremes = np.zeros((2, channels, blocks + 1), dtype=np.float32)
    kernel = _compiled_extremes(block)
    for channel, row in enumerate(np.ascontiguousarray(samples) if samples.strides[1] != 4 else samples):
        if kernel is not None and blocks:
            found = np.empty((2, blocks + LANES - 1), dtype=np.float32)
            kernel(row.ctypes.data, found[0].ctypes.data, found[1].ctypes.data, blocks)
            extremes[:, channel, :-1] = found[:, :blocks]
        else:
            whole, bent = np.abs(row[: blocks * block]), np.abs(np.diff(row[: blocks * block + 2], 2))
            extremes[0, channel, :-1] = whole.reshape(blocks, block).max(axis=1)
            extremes[1, channel, :-1] = bent.reshape(blocks, block).max(axis=1)
        rest = row[blocks * block :]
        extremes[0, channel, -1] = np.abs(rest).max(initial=0.0)
        extremes[1, channel, -1] = np.abs(np.diff(rest, 2)).max(initial=0.0)
    return extremes[0], extremes[1]


@lru_cache(maxsize=2)
def _compiled_extremes(block: int) -> Callable[..., None] | None:
    """Addresses of the samples and of both extremes, with `LANES` - 1 floats to spare behind, then blocks."""

    def write(kernel: Kernel) -> None:
        build, index = kernel.build, kernel.index
        samples, peaks, bends, blocks = kernel.arguments

        def one_block(number: Any) -> None:
            start = build.mul(number, index(block))
            peak = bend = kernel.constant(0.0)
            for offset in range(0, block, LANES):
                first, second, third = (
                    kernel.load(samples, build.add(start, index(offset + ahead))) for ahead in range(3)
                )
                bent = build.fsub(build.fsub(third, second), build.fsub(second, first))
                peak = kernel.extreme(True, peak, kernel.absolute(first))
                bend = kernel.extreme(True, bend, kernel.absolute(bent))
            for lanes, extremes in ((peak, peaks), (bend, bends)):
                for distance in (1, 2, 4):
                    turned = kernel.shuffle(lanes, lanes, [lane ^ distance for lane in range(LANES)])
                    lanes = kernel.extreme(True, lanes, turned)
                # Same throughout: the next block goes over all but the first.
                kernel.store(lanes, extremes, number)

        kernel.repeat(blocks, 1, one_block)

    return compiled(write, pointers=3, integers=1)


def _band_matrix(kernel: torch.Tensor, block: int) -> torch.Tensor:
    """All filters at ``block`` consecutive samples: ``[block + taps - 1, filters * block]``."""
    filters, taps = kernel.shape
    matrix = kernel.new_zeros((block, filters, block + taps - 1))
    for position in range(block):
        matrix[position, :, position : position + taps] = kernel
    return matrix.reshape(block * filters, -1).T.contiguous()
