"""Sums and extremes over the bins of each frame, several frames to a vector; by torch where nothing compiles."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any

from pipeline.dsp.compiled import LANES, Kernel, compiled
from pipeline.late import torch

# More extremes than this would not stay in registers, and torch is as fast.
_MOST_COMPILED = 24

# Bins summed, and searched, together; see `_crossing_by_blocks` and `_mean_of_largest`.
_BLOCK = 32
_GROUP = 8


@dataclass(frozen=True)
class FrameSums:
    """Of each frame of a power spectrogram, all but the first float64 ``[frames]``.

    Args:
        magnitude: square root of the power, float32 ``[bins, frames]``.
        power: sum of the power.
        floored: sum of the power, each bin at least ``least``.
        log: mean natural logarithm of the power, each bin at least ``least``.
        moments: sums of ``magnitude``, of ``magnitude * bin`` and of ``magnitude * bin ** 2``, ``[3, frames]``.
    """

    magnitude: torch.Tensor
    power: torch.Tensor
    floored: torch.Tensor
    log: torch.Tensor
    moments: torch.Tensor


def frame_sums(power: torch.Tensor, least: float) -> FrameSums:
    """See `FrameSums`.

    Args:
        power: float32 ``[bins, frames]``, not negative.
        least: what the floored sums take for nothing, a normal float32.
    """
    bins, frames = power.shape
    kernel = _compiled_sums(least) if frames >= LANES and bins else None
    if kernel is None:
        return _torch_sums(power, least)
    power = power.contiguous()
    magnitude = torch.empty_like(power)
    sums = power.new_empty((5, frames), dtype=torch.float64)
    product = power.new_empty((2, frames))
    kernel(power.data_ptr(), magnitude.data_ptr(), sums.data_ptr(), product.data_ptr(), bins, frames)
    octaves = product[0].double().log2() + product[1]
    return FrameSums(magnitude, sums[0], sums[1], octaves * (math.log(2.0) / bins), sums[2:])


def _torch_sums(power: torch.Tensor, least: float) -> FrameSums:
    magnitude, floored = power.sqrt(), power.clamp_min(least)
    number = torch.arange(len(power), dtype=torch.float64)
    # In float64 the difference of the moments stays exact for a pure tone, too.
    moments = torch.stack([torch.ones_like(number), number, number.square()]) @ magnitude.double()
    totals = (x.sum(dim=0).double() for x in (power, floored))
    return FrameSums(magnitude, *totals, floored.log().mean(dim=0).double(), moments)


@lru_cache(maxsize=4)
def _compiled_sums(least: float) -> Callable[..., None] | None:
    """All of `frame_sums` in one pass. Addresses of power, magnitude, sums and product, then bins and frames.

    A logarithm per bin is spared: the bins are multiplied, and the exponent of the product is taken out and
    counted after each one. ``product`` ``[2, frames]`` is what is left, in 1..2, and the count.
    """

    def write(kernel: Kernel) -> None:
        build, index = kernel.build, kernel.index
        power, magnitude, sums, product, bins, frames = kernel.arguments
        zero, nothing = kernel.constant(0.0), kernel.constant(0.0, kernel.doubles)

        def column(frame: Any) -> None:
            def add(bin_: Any, factor: Any, exponents: Any, *totals: Any) -> list[Any]:
                offset = build.add(build.mul(bin_, frames), frame)
                value = kernel.load(power, offset)
                root = kernel.square_root(value)
                kernel.store(root, magnitude, offset)
                floored = kernel.extreme(True, value, kernel.constant(least))
                factor, exponent = kernel.mantissa_and_exponent(build.fmul(factor, floored))
                number = kernel.broadcast(build.sitofp(bin_, kernel.doubles.element))
                wide, wide_floored, wide_root = (
                    build.fpext(x, kernel.doubles) for x in (value, floored, root)
                )
                first = build.fmul(wide_root, number)
                parts = wide, wide_floored, wide_root, first, build.fmul(first, number)
                added = [build.fadd(total, part) for total, part in zip(totals, parts, strict=True)]
                return [factor, build.fadd(exponents, exponent), *added]

            start = [kernel.constant(1.0), zero, *[nothing] * 5]
            factor, exponents, *totals = kernel.repeat(bins, 1, add, start)
            for matrix, values in ((product, (factor, exponents)), (sums, totals)):
                for row, value in enumerate(values):
                    kernel.store(value, matrix, build.add(build.mul(frames, index(row)), frame))

        kernel.whole_vectors(frames, column)

    return compiled(write, pointers=4, integers=2)


def crossing_bin(magnitude: torch.Tensor, threshold: torch.Tensor) -> torch.Tensor:
    """The first bin of each frame at which the running sum reaches the threshold, at most the last one.

    Args:
        magnitude: float32 ``[bins, frames]``, not negative.
        threshold: float64 ``[frames]``, not above the sum of the bins.

    Shape: → ``[frames]``.
    """
    bins, frames = magnitude.shape
    kernel = _compiled_crossing() if frames >= LANES and bins else None
    if kernel is None:
        return _crossing_by_blocks(magnitude, threshold)
    magnitude, threshold = magnitude.contiguous(), threshold.contiguous()
    below = magnitude.new_empty(frames)
    kernel(magnitude.data_ptr(), threshold.data_ptr(), below.data_ptr(), bins, frames)
    return below.clamp_max(bins - 1)


@cache
def _compiled_crossing() -> Callable[..., None] | None:
    """How many running sums are below the threshold. Addresses of all three, then bins and frames."""

    def write(kernel: Kernel) -> None:
        build = kernel.build
        magnitude, threshold, below, bins, frames = kernel.arguments
        one, nothing = kernel.constant(1.0), kernel.constant(0.0)

        def column(frame: Any) -> None:
            wanted = kernel.load(threshold, frame, kernel.doubles)

            def add(bin_: Any, count: Any, total: Any) -> list[Any]:
                value = kernel.load(magnitude, build.add(build.mul(bin_, frames), frame))
                total = build.fadd(total, build.fpext(value, kernel.doubles))
                short = build.fcmp_ordered("<", total, wanted)
                return [build.fadd(count, build.select(short, one, nothing)), total]

            count, _ = kernel.repeat(bins, 1, add, [nothing, kernel.constant(0.0, kernel.doubles)])
            kernel.store(count, below, frame)

        kernel.whole_vectors(frames, column)

    return compiled(write, pointers=3, integers=2)


def _crossing_by_blocks(magnitude: torch.Tensor, threshold: torch.Tensor) -> torch.Tensor:
    """`crossing_bin` by torch.

    A running sum over all bins is slow along this axis, so the first pass sums blocks of bins and the second
    one looks into only that block which holds the bin.
    """
    bins, frames = magnitude.shape
    padded = torch.nn.functional.pad(magnitude, (0, 0, 0, -bins % _BLOCK))
    blocks = padded.view(-1, _BLOCK, frames)
    upto = blocks.sum(dim=1).double().cumsum(dim=0)
    # The last sum may differ from that behind the threshold by its rounding.
    block = (upto < threshold).sum(dim=0).clamp_max(len(upto) - 1)
    frame = torch.arange(frames)
    inside = blocks[block, :, frame].double().cumsum(dim=1)
    before = upto[block, frame] - inside[:, -1]
    below = ((before + inside.T) < threshold).sum(dim=0)
    return (block * _BLOCK + below.clamp_max(_BLOCK - 1)).clamp_max(bins - 1)


def extreme_means(band: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean of the ``count`` largest, and of the ``count`` smallest bins of each frame.

    Args:
        band: float32 ``[bins, frames]``, at least ``count`` bins.
        count: at least 1.

    Shape: → two of ``[frames]``.
    """
    bins, frames = band.shape
    kernel = _compiled_extremes(count) if frames >= LANES and count <= _MOST_COMPILED else None
    if kernel is None:
        return _mean_of_largest(band, count), -_mean_of_largest(-band, count)
    band = band.contiguous()
    means = band.new_empty((2, frames))
    kernel(band.data_ptr(), means.data_ptr(), bins, frames)
    return means[0], means[1]


@lru_cache(maxsize=32)
def _compiled_extremes(count: int) -> Callable[..., None] | None:
    """`extreme_means` by insertion into a sorted list. Addresses of band and means, then bins and frames."""

    def write(kernel: Kernel) -> None:
        build, index = kernel.build, kernel.index
        band, means, bins, frames = kernel.arguments

        def column(frame: Any) -> None:
            for part, larger in enumerate((True, False)):

                def insert(bin_: Any, *best: Any, larger: bool = larger) -> list[Any]:
                    value = kernel.load(band, build.add(build.mul(bin_, frames), frame))
                    ranked = []
                    for kept in best:
                        ranked.append(kernel.extreme(larger, kept, value))
                        value = kernel.extreme(not larger, kept, value)
                    return ranked

                worst = kernel.constant(-math.inf if larger else math.inf)
                total, *others = kernel.repeat(bins, 1, insert, [worst] * count)
                for value in others:
                    total = build.fadd(total, value)
                mean = build.fdiv(total, kernel.constant(float(count)))
                kernel.store(mean, means, build.add(build.mul(frames, index(part)), frame))

        kernel.whole_vectors(frames, column)

    return compiled(write, pointers=2, integers=2)


def _mean_of_largest(band: torch.Tensor, count: int) -> torch.Tensor:
    """Mean of the ``count`` largest bins of each frame: ``[bins, frames]`` → ``[frames]``.

    The largest bins lie in the groups with the largest maxima, so that only those few groups, which hold a
    fraction of the bins, have to be searched.
    """
    if count == 1:
        return band.amax(dim=0)
    padding = (0, 0, 0, -band.shape[0] % _GROUP)
    groups = torch.nn.functional.pad(band, padding, value=-torch.inf).unflatten(0, (-1, _GROUP))
    # topk is quick along contiguous rows only.
    best = groups.amax(dim=1).T.contiguous().topk(min(count, len(groups)), dim=1, sorted=False).indices
    candidates = groups.gather(0, best.T[:, None, :].expand(-1, _GROUP, -1)).flatten(0, 1)
    return candidates.T.contiguous().topk(count, dim=1, sorted=False).values.mean(dim=1)
