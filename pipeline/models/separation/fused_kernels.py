"""Triton kernels for the residual branches and the activations of demucs's networks. Needs Triton on import.

Rows are what a `torch.nn.GroupNorm` of one group takes moments over: one item of the batch, in the frequency
branch one frequency of it. There are few of them and they are long, so each is cut into blocks, one program
each. A block's moments are its mean and the sum of squared deviations from that mean; `finish` combines them
after Chan, Golub and LeVeque 1979, "Updating formulae and a pairwise algorithm for computing sample variances".
No sum of plain squares is ever formed, which would lose the digits of a row whose mean is large.

Matrix products read numbers of the network's format and add up in float32; everything else is float32. Products of
float32 are taken as three of tf32, which lose nothing that shows.

Every variant is compiled once per machine, a second or so each: so what need not be known to the compiler is kept
from it.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit(do_not_specialize=["blocks", "inner", "hidden", "dilation"])
def conv_kernel(
    x, weight, bias, out, partials, length, blocks, inner, batch_stride, channel_stride, channels, hidden,
    dilation, TAPS: tl.constexpr, HIDDEN: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_T: tl.constexpr,
):  # fmt: skip
    """Dilated convolution of a block of a row, with its bias, and the block's moments.

    ``x [batch, channels, inner, length]``, ``weight [TAPS, hidden, channels]`` → ``out [rows, hidden, length]``,
    ``partials [rows, blocks, 2]``.
    """
    row = tl.program_id(0) // blocks
    block = tl.program_id(0) % blocks
    x += (row // inner).to(tl.int64) * batch_stride + (row % inner) * length
    t = block * BLOCK_T + tl.arange(0, BLOCK_T)
    k = tl.arange(0, HIDDEN)
    total = tl.zeros([HIDDEN, BLOCK_T], tl.float32)
    for tap in tl.static_range(TAPS):
        source = t + (tap - TAPS // 2) * dilation
        inside = (source >= 0) & (source < length)
        for first in range(0, channels, BLOCK_C):
            c = first + tl.arange(0, BLOCK_C)
            w = tl.load(
                weight + (tap * hidden + k)[:, None] * channels + c[None, :],
                mask=(k < hidden)[:, None] & (c < channels)[None, :],
                other=0.0,
            )
            v = tl.load(
                x + c[:, None] * channel_stride + source[None, :],
                mask=(c < channels)[:, None] & inside[None, :],
                other=0.0,
            )
            total = tl.dot(w, v.to(w.dtype), total, input_precision="tf32x3")
    kept = (k < hidden)[:, None] & (t < length)[None, :]
    total += tl.load(bias + k, mask=k < hidden, other=0.0)[:, None]
    # The moments of what is stored, rounded as it is.
    value = tl.where(kept, total.to(out.dtype.element_ty).to(tl.float32), 0.0)
    count = (hidden * tl.minimum(BLOCK_T, length - block * BLOCK_T)).to(tl.float32)
    mean = tl.sum(value) / count
    apart = tl.where(kept, value - mean, 0.0)
    partials += (row.to(tl.int64) * blocks + block) * 2
    tl.store(partials, mean)
    tl.store(partials + 1, tl.sum(apart * apart))
    out += row.to(tl.int64) * hidden * length
    tl.store(out + k[:, None] * length + t[None, :], value, mask=kept)


@triton.jit(do_not_specialize=["length", "blocks", "channels"])
def finish_kernel(partials, moments, length, blocks, channels, eps, BLOCK: tl.constexpr, PARTS: tl.constexpr):
    """Moments of a row from those of its blocks of ``BLOCK`` of ``length``: ``[rows, 2]``, mean and 1 / deviation."""
    row = tl.program_id(0).to(tl.int64)
    partials += row * blocks * 2
    sums = tl.zeros([PARTS], tl.float32)
    for first in range(0, blocks, PARTS):
        i = first + tl.arange(0, PARTS)
        share = tl.minimum(BLOCK, length - i * BLOCK).to(tl.float32) / length
        sums += tl.load(partials + 2 * i, mask=i < blocks, other=0.0) * share
    mean = tl.sum(sums)
    squares = tl.zeros([PARTS], tl.float32)
    for first in range(0, blocks, PARTS):
        i = first + tl.arange(0, PARTS)
        share = tl.minimum(BLOCK, length - i * BLOCK).to(tl.float32) / length
        apart = tl.load(partials + 2 * i, mask=i < blocks, other=0.0) - mean
        within = tl.load(partials + 2 * i + 1, mask=i < blocks, other=0.0)
        between = tl.where(i < blocks, apart * apart * share, 0.0)
        # Divided before adding: the count of a row of ten minutes is beyond the integers of float32.
        squares += between + within / length / channels
    tl.store(moments + 2 * row, mean)
    tl.store(moments + 2 * row + 1, 1.0 / tl.sqrt(tl.sum(squares) + eps))


@triton.jit
def _activated(
    h, moments, norm_weight, norm_bias, row, t, length, hidden, HIDDEN: tl.constexpr, DTYPE: tl.constexpr
):
    """GELU of the normalised ``h [rows, hidden, length]`` at ``t`` of a row, with the exact error function."""
    k = tl.arange(0, HIDDEN)
    kept = (k < hidden)[:, None] & (t < length)[None, :]
    mean = tl.load(moments + 2 * row)
    scale = tl.load(norm_weight + k, mask=k < hidden, other=0.0) * tl.load(moments + 2 * row + 1)
    shift = tl.load(norm_bias + k, mask=k < hidden, other=0.0)
    h += row.to(tl.int64) * hidden * length
    value = tl.load(h + k[:, None] * length + t[None, :], mask=kept, other=0.0).to(tl.float32)
    value = (value - mean) * scale[:, None] + shift[:, None]
    value = 0.5 * value * (1.0 + tl.erf(value * 0.7071067811865476))
    return tl.where(kept, value, 0.0).to(DTYPE)


@triton.jit(do_not_specialize=["blocks", "hidden"])
def mix_moments_kernel(
    h, moments, norm_weight, norm_bias, weight, bias, partials, length, blocks, hidden, outputs,
    HIDDEN: tl.constexpr, BLOCK_O: tl.constexpr, BLOCK_T: tl.constexpr,
):  # fmt: skip
    """Moments of the second, pointwise convolution, which is computed and not kept.

    It has sixteen times the channels of its input: computing it twice moves less than storing it once.
    ``h [rows, hidden, length]``, ``weight [outputs, hidden]`` → ``partials [rows, blocks, 2]``.
    """
    row = tl.program_id(0) // blocks
    block = tl.program_id(0) % blocks
    t = block * BLOCK_T + tl.arange(0, BLOCK_T)
    k = tl.arange(0, HIDDEN)
    a = _activated(
        h, moments, norm_weight, norm_bias, row, t, length, hidden, HIDDEN, weight.dtype.element_ty
    )
    columns = tl.minimum(BLOCK_T, length - block * BLOCK_T)
    count, mean, squares = 0.0, 0.0, 0.0
    for first in range(0, outputs, BLOCK_O):
        o = first + tl.arange(0, BLOCK_O)
        kept = (o < outputs)[:, None] & (t < length)[None, :]
        w = tl.load(
            weight + o[:, None] * hidden + k[None, :],
            mask=(o < outputs)[:, None] & (k < hidden)[None, :],
            other=0.0,
        )
        z = tl.dot(w, a, input_precision="tf32x3")
        z += tl.load(bias + o, mask=o < outputs, other=0.0)[:, None]
        new = (tl.minimum(BLOCK_O, outputs - first) * columns).to(tl.float32)
        new_mean = tl.sum(tl.where(kept, z, 0.0)) / new
        apart = tl.where(kept, z - new_mean, 0.0)
        step = new_mean - mean
        both = count + new
        mean += step * (new / both)
        squares += tl.sum(apart * apart) + step * step * (count * new / both)
        count = both
    partials += (row.to(tl.int64) * blocks + block) * 2
    tl.store(partials, mean)
    tl.store(partials + 1, squares)


@triton.jit(do_not_specialize=["blocks", "inner", "hidden"])
def mix_apply_kernel(
    h, moments, norm_weight, norm_bias, weight, bias, mixed_moments, mixed_weight, mixed_bias, layer_scale,
    x, out, rounded, length, blocks, inner, batch_stride, channel_stride, channels, hidden,
    ROUNDED: tl.constexpr, HIDDEN: tl.constexpr, BLOCK_O: tl.constexpr, BLOCK_T: tl.constexpr,
):  # fmt: skip
    """The second convolution again, normalised, through GLU and layer scale, added to ``x``.

    ``h [rows, hidden, length]``, ``weight [2 * channels, hidden]``, ``x [batch, channels, inner, length]`` →
    ``out`` laid out as ``x``; with ``ROUNDED`` also into ``rounded``, for the convolution that reads it next.
    """
    row = tl.program_id(0) // blocks
    t = (tl.program_id(0) % blocks) * BLOCK_T + tl.arange(0, BLOCK_T)
    k = tl.arange(0, HIDDEN)
    a = _activated(
        h, moments, norm_weight, norm_bias, row, t, length, hidden, HIDDEN, weight.dtype.element_ty
    )
    mean, deviation = tl.load(mixed_moments + 2 * row), tl.load(mixed_moments + 2 * row + 1)
    start = (row // inner).to(tl.int64) * batch_stride + (row % inner) * length
    x += start
    out += start
    rounded += start
    for first in range(0, channels, BLOCK_O):
        o = first + tl.arange(0, BLOCK_O)
        valid = o < channels
        weights = (k < hidden)[None, :] & valid[:, None]
        places = weight + o[:, None] * hidden + k[None, :]
        value = tl.dot(tl.load(places, mask=weights, other=0.0), a, input_precision="tf32x3")
        gate = tl.dot(
            tl.load(places + channels * hidden, mask=weights, other=0.0), a, input_precision="tf32x3"
        )
        value += (tl.load(bias + o, mask=valid, other=0.0) - mean)[:, None]
        gate += (tl.load(bias + channels + o, mask=valid, other=0.0) - mean)[:, None]
        value *= (tl.load(mixed_weight + o, mask=valid, other=0.0) * deviation)[:, None]
        gate *= (tl.load(mixed_weight + channels + o, mask=valid, other=0.0) * deviation)[:, None]
        value += tl.load(mixed_bias + o, mask=valid, other=0.0)[:, None]
        gate += tl.load(mixed_bias + channels + o, mask=valid, other=0.0)[:, None]
        value *= tl.load(layer_scale + o, mask=valid, other=0.0)[:, None]
        kept = valid[:, None] & (t < length)[None, :]
        at = o[:, None] * channel_stride + t[None, :]
        residual = tl.load(x + at, mask=kept, other=0.0).to(tl.float32)
        result = residual + value * tl.sigmoid(gate)
        tl.store(out + at, result.to(out.dtype.element_ty), mask=kept)
        if ROUNDED:
            tl.store(rounded + at, result.to(rounded.dtype.element_ty), mask=kept)


@triton.jit(do_not_specialize=["blocks", "channels"])
def gelu_kernel(
    x, bias, out, read, written, first, blocks, channels, ACTIVATE: tl.constexpr, BLOCK: tl.constexpr
):
    """Bias and, if ``ACTIVATE``, GELU of ``x [rows, read]`` from ``first`` on: ``out [rows, written]``.

    A row is one channel of one item; ``bias [channels]``.
    """
    row = (tl.program_id(0) // blocks).to(tl.int64)
    i = (tl.program_id(0) % blocks) * BLOCK + tl.arange(0, BLOCK)
    value = tl.load(x + row * read + first + i, mask=i < written, other=0.0).to(tl.float32)
    value += tl.load(bias + row % channels)
    if ACTIVATE:
        value = 0.5 * value * (1.0 + tl.erf(value * 0.7071067811865476))
    tl.store(out + row * written + i, value.to(out.dtype.element_ty), mask=i < written)


@triton.jit(do_not_specialize=["blocks", "channels"])
def glu_kernel(x, bias, out, size, blocks, channels, BLOCK: tl.constexpr):
    """Bias and GLU of ``x [batch, 2 * channels, size]``: ``out [batch, channels, size]``, ``bias [2 * channels]``."""
    row = (tl.program_id(0) // blocks).to(tl.int64)
    i = (tl.program_id(0) % blocks) * BLOCK + tl.arange(0, BLOCK)
    channel = row % channels
    item = row // channels
    place = (row + item * channels) * size + i
    value = tl.load(x + place, mask=i < size, other=0.0).to(tl.float32)
    place = (row + (item + 1) * channels) * size + i
    gate = tl.load(x + place, mask=i < size, other=0.0).to(tl.float32)
    value += tl.load(bias + channel)
    gate += tl.load(bias + channels + channel)
    tl.store(out + row * size + i, (value * tl.sigmoid(gate)).to(out.dtype.element_ty), mask=i < size)


@triton.jit(do_not_specialize=["blocks"])
def moments_kernel(x, partials, size, blocks, BLOCK: tl.constexpr):
    """Moments of the blocks of ``x [rows, size]``: ``partials [rows, blocks, 2]``."""
    row = (tl.program_id(0) // blocks).to(tl.int64)
    block = tl.program_id(0) % blocks
    i = block * BLOCK + tl.arange(0, BLOCK)
    value = tl.load(x + row * size + i, mask=i < size, other=0.0).to(tl.float32)
    mean = tl.sum(value) / tl.minimum(BLOCK, size - block * BLOCK)
    apart = tl.where(i < size, value - mean, 0.0)
    tl.store(partials + 2 * (row * blocks + block), mean)
    tl.store(partials + 2 * (row * blocks + block) + 1, tl.sum(apart * apart))


@triton.jit(do_not_specialize=["blocks"])
def normalise_kernel(x, moments, weight, bias, out, size, blocks, channels, BLOCK: tl.constexpr):
    """``x [rows, size]`` normalised by its row's moments; channels vary fastest: ``weight``, ``bias [channels]``."""
    row = (tl.program_id(0) // blocks).to(tl.int64)
    i = (tl.program_id(0) % blocks) * BLOCK + tl.arange(0, BLOCK)
    value = tl.load(x + row * size + i, mask=i < size, other=0.0).to(tl.float32)
    value = (value - tl.load(moments + 2 * row)) * tl.load(moments + 2 * row + 1)
    channel = i % channels
    value = value * tl.load(weight + channel, mask=i < size, other=0.0)
    value += tl.load(bias + channel, mask=i < size, other=0.0)
    tl.store(out + row * size + i, value.to(out.dtype.element_ty), mask=i < size)
