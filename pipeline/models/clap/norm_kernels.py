"""The Triton kernel of `fused_htsat`. Needs Triton on import."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit(do_not_specialize=["rows"])
def add_norm_kernel(
    x, delta, weight, bias, out, rows, width, eps,
    ADDS: tl.constexpr, ROWS: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """Layer norm of ``x [rows, width]`` into ``out``, after ``x += delta`` if ``ADDS``. Moments in two passes."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, WIDTH)
    kept = (row < rows)[:, None] & (column < width)[None, :]
    at = row.to(tl.int64)[:, None] * width + column[None, :]
    value = tl.load(x + at, mask=kept, other=0.0).to(tl.float32)
    if ADDS:
        value += tl.load(delta + at, mask=kept, other=0.0).to(tl.float32)
        tl.store(x + at, value, mask=kept)
    apart = tl.where(kept, value - (tl.sum(value, 1) / width)[:, None], 0.0)
    scale = 1.0 / tl.sqrt(tl.sum(apart * apart, 1) / width + eps)
    result = apart * scale[:, None] * tl.load(weight + column, mask=column < width, other=0.0)[None, :]
    result += tl.load(bias + column, mask=column < width, other=0.0)[None, :]
    tl.store(out + at, result.to(out.dtype.element_ty), mask=kept)
