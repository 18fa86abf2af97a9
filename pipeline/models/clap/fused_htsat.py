"""HTSAT on a GPU with residual sums, layer norms and casts in one kernel each.

Between two matrix products torch reads and writes the residual stream, float32, five times: sum, norm, cast. Here it
is read and written once, and the norm leaves in the format of the matrices. On an H100 those passes were half of the
time of HTSAT-base at 64 clips. The numbers are torch's but for the order in which a norm adds up.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.models.clap.htsat import FRAMES, MEL_BINS, Htsat, patches
from pipeline.models.kernels import launch, only_compiling

# Elements of a program.
_ELEMENTS = 4096
# Directions of latent vectors: the least cosine between fused and plain ones.
_CLOSE = 0.9995


def fused_latent(branch: Htsat, log_mel: Tensor) -> Tensor:
    """What ``branch(log_mel)`` returns: float32 ``[batch, 1024, 64]`` → ``[batch, features]``."""
    proj, norm, dtype = branch.patch_embed.proj, branch.patch_embed.norm, branch.dtype
    x = norm(F.linear(patches(log_mel), proj.weight.flatten(1), proj.bias))
    for stage in branch.layers:
        # What the last matrix gave and is not in x yet.
        delta = None
        for block in stage.blocks:
            delta = block.attn(add_norm(x, delta, block.norm1, dtype))
            seen = add_norm(x, delta, block.norm2, dtype)
            delta = block.mlp.fc2(F.gelu(block.mlp.fc1(seen)))
        x = x.add_(delta)
        merge = stage.downsample
        if merge is not None:
            x = x.index_select(1, merge.places).view(len(x), -1, 4 * x.shape[2])
            x = merge.reduction(add_norm(x, None, merge.norm, dtype)).float()
    return branch.norm(x).mean(dim=1)


def add_norm(x: Tensor, delta: Tensor | None, norm: nn.LayerNorm, dtype: torch.dtype) -> Tensor:
    """``norm(x + delta)`` in ``dtype``; ``x``, float32 and contiguous ``[..., width]``, becomes the sum."""
    from pipeline.models.clap.norm_kernels import add_norm_kernel

    width = x.shape[-1]
    rows = x.numel() // width
    out = torch.empty_like(x, dtype=dtype)
    padded = 1 << (width - 1).bit_length()
    at_once = max(1, _ELEMENTS // padded)
    launch(
        add_norm_kernel, -(-rows // at_once), x, x if delta is None else delta.contiguous(), norm.weight, norm.bias,
        out, rows, width, norm.eps, ADDS=delta is not None, ROWS=at_once, WIDTH=padded,
    )  # fmt: skip
    return out


def fused(branch: Htsat) -> functools.partial[Tensor]:
    """`fused_latent` of a network, its kernels compiled. Raises whatever is wrong, ``ArithmeticError`` for numbers."""
    generator = torch.Generator().manual_seed(0)
    log_mel = torch.randn(2, FRAMES, MEL_BINS, generator=generator).to(branch.norm.weight.device)
    with torch.inference_mode():
        with only_compiling():
            fused_latent(branch, log_mel)
        found, expected = fused_latent(branch, log_mel), branch._latent(log_mel)
    least = float(F.cosine_similarity(found, expected, dim=-1).min())
    if not least >= _CLOSE:
        raise ArithmeticError(f"fused layer norms: cosine {least:.6f} to torch's")
    return functools.partial(fused_latent, branch)
