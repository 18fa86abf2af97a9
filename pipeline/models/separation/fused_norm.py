"""demucs's residual branches, activations and group norms on a GPU, a few kernels in place of a dozen passes.

What torch runs under autocast for ``conv → GroupNorm(1) → GELU → conv → GroupNorm(1) → GLU → LayerScale → +`` reads
and writes each number some twenty times, most of them in float32, and takes the moments of a row, which may have
eight million numbers, in one block of threads: three fifths of htdemucs's time on an H100. Here the first
convolution leaves its output in the network's format with the moments of its blocks, and the second one, of
sixteen times the channels, is never stored at all: it is computed once for its moments and once for the sum.

Numbers differ from torch's by rounding. The caller sees to devices, shapes and formats; see `fused_demucs`.
Triton is imported with the first call.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.models.kernels import launch, only_compiling

_BLOCK_T = 128
_BLOCK_C = 64
_BLOCK = 2048
_PARTS = 256
# Bounds of the error of `check`, as a share of the signal: rounding passes, that of torch's tf32 convolutions too.
_CLOSE = {torch.float32: 5e-3, torch.bfloat16: 3e-2, torch.float16: 5e-3}


@functools.cache
def _kernels() -> Any:
    from pipeline.models.separation import fused_kernels

    return fused_kernels


class Cast:
    """Parameters in the formats that kernels read, made once: autocast makes them anew with every call."""

    def __init__(self) -> None:
        # With each its parameter, so that no other can come to its id.
        self._kept: dict[tuple, tuple[Tensor, Tensor]] = {}
        self._made: dict[tuple, Any] = {}

    def __call__(self, parameter: Tensor, dtype: torch.dtype = torch.float32, taps: bool = False) -> Tensor:
        """``parameter`` in ``dtype``; with ``taps`` a kernel ``[out, in, taps]`` as ``[taps, out, in]``."""
        version = 0 if parameter.is_inference() else parameter._version
        key = (id(parameter), parameter.data_ptr(), version, dtype, taps)
        if key not in self._kept:
            value = parameter.detach()
            value = value.permute(2, 0, 1) if taps else value
            self._kept[key] = parameter, value.to(dtype).contiguous()
        return self._kept[key][1]

    def once(self, key: tuple, make: Callable[[], Any]) -> Any:
        """What ``make`` returned for ``key``."""
        if key not in self._made:
            self._made[key] = make()
        return self._made[key]

    def __deepcopy__(self, memo: dict) -> Cast:
        return Cast()


def is_branch(layer: nn.Module) -> bool:
    """Whether ``layer`` is a branch of demucs's ``DConv`` as `residual_branch` computes it: no LSTM, no attention."""
    kinds = ("Conv1d", "GroupNorm", "GELU", "Conv1d", "GroupNorm", "GLU", "LayerScale")
    if not isinstance(layer, nn.Sequential) or tuple(type(part).__name__ for part in layer) != kinds:
        return False
    conv, norm, gelu, mix, mixed, glu, scale = layer
    return bool(
        norm.num_groups == mixed.num_groups == 1
        and norm.affine
        and mixed.affine
        and gelu.approximate == "none"
        and glu.dim == 1
        and not scale.channel_last
        and is_plain_convolution(conv)
        and is_plain_convolution(mix)
        and conv.stride == mix.stride == mix.kernel_size == (1,)
        and conv.kernel_size[0] % 2 == 1
        and conv.padding == (conv.dilation[0] * (conv.kernel_size[0] // 2),)
        and mix.padding == (0,)
        and mix.out_channels == 2 * conv.in_channels
        and conv.out_channels <= 64
    )


def is_plain_convolution(conv: nn.Module) -> bool:
    """Whether it has a bias, one group, and zeros for padding."""
    return conv.bias is not None and conv.groups == 1 and conv.padding_mode == "zeros"


def residual_branch(
    layer: nn.Sequential, cast: Cast, x: Tensor, seen: Tensor, last: bool
) -> tuple[Tensor, Tensor]:
    """``x`` plus one branch of a ``DConv``.

    Args:
        layer: see `is_branch`.
        x: ``[batch, channels, inner, length]``, contiguous; a row is an item and an index of ``inner``.
        seen: ``x`` in the format of the network.
        last: whether only a convolution reads what comes out.

    Returns:
        the sum, in float32 as autocast has it, and the same in the format of the network; one tensor if ``last``.
    """
    conv, norm, _, mix, mixed, _, scale = layer
    kernels = _kernels()
    dtype = seen.dtype
    batch, channels, inner, length = x.shape
    hidden = conv.out_channels
    rows, blocks = batch * inner, -(-length // _BLOCK_T)
    padded = max(16, 1 << (hidden - 1).bit_length())
    block_o = 16 if padded == 16 else 32
    h = x.new_empty((rows, hidden, length), dtype=dtype)
    partials = x.new_empty((rows, blocks, 2), dtype=torch.float32)
    # Each its own, so that all begin where wide reads may: which kernels are compiled depends on it.
    moments, mixed_moments = (x.new_empty((rows, 2), dtype=torch.float32) for _ in range(2))
    strides = (channels * inner * length, inner * length)
    launch(
        kernels.conv_kernel, rows * blocks, seen, cast(conv.weight, dtype, taps=True), cast(conv.bias), h, partials,
        length, blocks, inner, *strides, channels, hidden, conv.dilation[0],
        TAPS=conv.kernel_size[0], HIDDEN=padded, BLOCK_C=_BLOCK_C, BLOCK_T=_BLOCK_T,
    )  # fmt: skip
    _finish(partials, moments, length, hidden, eps=norm.eps, block=_BLOCK_T)
    activated = (h, moments, cast(norm.weight), cast(norm.bias), cast(mix.weight, dtype), cast(mix.bias))
    launch(
        kernels.mix_moments_kernel, rows * blocks, *activated, partials, length, blocks, hidden, 2 * channels,
        HIDDEN=padded, BLOCK_O=block_o, BLOCK_T=_BLOCK_T,
    )  # fmt: skip
    _finish(partials, mixed_moments, length, 2 * channels, eps=mixed.eps, block=_BLOCK_T)
    out = torch.empty_like(x, dtype=dtype if last else torch.float32)
    rounded = out if out.dtype == dtype else torch.empty_like(x, dtype=dtype)
    launch(
        kernels.mix_apply_kernel, rows * blocks, *activated, mixed_moments, cast(mixed.weight), cast(mixed.bias),
        cast(scale.scale), x, out, rounded, length, blocks, inner, *strides, channels, hidden,
        ROUNDED=rounded is not out, HIDDEN=padded, BLOCK_O=block_o, BLOCK_T=_BLOCK_T,
    )  # fmt: skip
    return out, rounded


def residual_branches(
    layers: nn.ModuleList, cast: Cast, x: Tensor, dtype: torch.dtype, rounds: bool
) -> Tensor:
    """``x [batch, channels, inner, length]`` through a ``DConv``; in ``dtype`` if ``rounds``, else as autocast."""
    x = x.contiguous()
    seen = x.to(dtype)
    for i, layer in enumerate(layers, 1):
        x, seen = residual_branch(layer, cast, x, seen, last=rounds and i == len(layers))
    return x


def gelu(x: Tensor, bias: Tensor, first: int = 0, size: int | None = None, activate: bool = True) -> Tensor:
    """``gelu(x + bias)`` of ``size`` elements per channel from ``first`` on.

    Shape:
        - x: ``[batch, channels, elements]``, contiguous
        - bias: float32 ``[channels]``
        - returns: ``[batch, channels, size]``, in ``x``'s format
    """
    batch, channels, read = x.shape
    size = read - first if size is None else size
    out = x.new_empty((batch, channels, size))
    blocks = -(-size // _BLOCK)
    launch(
        _kernels().gelu_kernel, batch * channels * blocks, x, bias, out, read, size, first, blocks, channels,
        ACTIVATE=activate, BLOCK=_BLOCK,
    )  # fmt: skip
    return out


def glu(x: Tensor, bias: Tensor) -> Tensor:
    """``glu(x + bias, dim=1)``: contiguous ``[batch, 2 * channels, ...]`` → ``[batch, channels, ...]``."""
    batch, channels = len(x), x.shape[1] // 2
    out = x.new_empty((batch, channels, *x.shape[2:]))
    size = out[0, 0].numel()
    blocks = -(-size // _BLOCK)
    launch(
        _kernels().glu_kernel, batch * channels * blocks, x, bias, out, size, blocks, channels, BLOCK=_BLOCK
    )
    return out


def group_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float, dtype: torch.dtype) -> Tensor:
    """Group norm of one group with the channels last: contiguous ``[batch, ..., channels]``, in ``dtype``."""
    rows, channels = len(x), x.shape[-1]
    size = x[0].numel()
    blocks = -(-size // _BLOCK)
    partials = x.new_empty((rows, blocks, 2), dtype=torch.float32)
    moments = x.new_empty((rows, 2), dtype=torch.float32)
    out = torch.empty_like(x, dtype=dtype)
    launch(_kernels().moments_kernel, rows * blocks, x, partials, size, blocks, BLOCK=_BLOCK)
    _finish(partials, moments, size, 1, eps=eps, block=_BLOCK)
    launch(
        _kernels().normalise_kernel, rows * blocks, x, moments, weight, bias, out, size, blocks, channels,
        BLOCK=_BLOCK,
    )  # fmt: skip
    return out


def _finish(partials: Tensor, moments: Tensor, length: int, channels: int, *, eps: float, block: int) -> None:
    rows, blocks, _ = partials.shape
    launch(
        _kernels().finish_kernel, rows, partials, moments, length, blocks, channels, eps,
        BLOCK=block, PARTS=_PARTS, num_warps=1,
    )  # fmt: skip


def check(device: torch.device, dtype: torch.dtype) -> None:
    """Compare every kernel with torch on small inputs. Raises whatever is wrong, ``ArithmeticError`` for numbers."""
    from demucs.demucs import DConv

    # Layers start out random: leave the caller's generators alone.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        branches = DConv(48, compress=8, depth=2, init=1.0).eval()
        x = torch.randn(1, 48, 2, 336)
    branches = branches.to(device)
    x = (x + 1.0).to(device, dtype)
    cast, bias = Cast(), torch.linspace(-1, 1, 48, device=device)

    def fused() -> list[Tensor]:
        return [
            residual_branches(branches.layers, cast, x, dtype, rounds=True),
            gelu(x.flatten(2), bias, 16, 320),
            glu(x, bias),
            group_norm(x.transpose(1, 3).contiguous(), bias, bias, 1e-5, torch.float32),
        ]

    with torch.inference_mode():
        with only_compiling():
            fused()
        found = fused()
        wide, shifted = x.float(), x.float() + bias[:, None, None]
        rows = wide.transpose(1, 2).flatten(0, 1)
        norm = nn.functional.group_norm(wide, 1, bias, bias, 1e-5)
        expected = [
            branches(rows).unflatten(0, (1, 2)).transpose(1, 2),
            nn.functional.gelu(shifted.flatten(2)[..., 16:336]),
            nn.functional.glu(shifted, 1),
            norm.transpose(1, 3),
        ]
        # What a branch adds, not what it is added to.
        found[0], expected[0] = found[0].float() - wide, expected[0] - wide
        for what, a, b in zip(("branch", "GELU", "GLU", "norm"), found, expected, strict=True):
            apart = float((a.float() - b).norm() / b.norm())
            if not apart <= _CLOSE[dtype]:
                raise ArithmeticError(f"fused {what} in {dtype} is {apart:.2g} from torch's")
