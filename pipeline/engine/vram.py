"""What the networks take of a card's memory, as measured, and what follows for batches of other sizes."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from functools import cache

GIB = 1 << 30

# Peak GiB of a process's tensors by batch: one H100, torch 2.11, `benchmarks/gpu`, November 2026. A clip is 10 s of
# HTSAT-base, a window 7.8 s of htdemucs or 11.9 s of Spleeter.
MEASURED: dict[tuple[str, str], dict[int, float]] = {
    ("clap", "bfloat16"): {16: 0.5, 64: 1.5, 128: 2.3, 256: 4.2},
    ("clap", "float32"): {64: 2.2},
    ("htdemucs", "bfloat16"): {4: 1.3, 8: 2.5, 16: 4.8, 32: 9.4},
    ("htdemucs", "float32"): {16: 5.4},
    ("spleeter", "float32"): {8: 1.0, 16: 2.0, 32: 3.9},
}
# What each process on a card takes besides, outside the allocator: the CUDA context and its libraries.
CONTEXT_BYTES = int(0.6 * GIB)
# Audio and stems of the tracks in flight lie on the card, too: with them htdemucs took 10.1 GiB at 32 windows.
TRACKS_BYTES = int(0.75 * GIB)
# What an allocator reserves is more than its tensors take.
RESERVED = 1.15


def batch_bytes(networks: Sequence[tuple[str, str]], items: int) -> int:
    """Bytes that the allocator of one process takes for a batch, of the most demanding network of a stage.

    Args:
        networks: of the stage, as in `MEASURED`: as they run on a card where `amp=auto` decides, which is bfloat16 from
            Ampere on. In float32 a batch of half the size takes no more, and a batch that does not fit is halved.
        items: clips or windows.
    """
    most = max(tensor_gib(network, dtype, items) for network, dtype in networks)
    return int(most * RESERVED * GIB) + TRACKS_BYTES


def tensor_gib(network: str, dtype: str, items: int) -> float:
    """Peak GiB of the tensors of a network with a batch of ``items``, by the line through what was measured."""
    per_item, fixed = _line(network, dtype)
    return fixed + per_item * items


@cache
def _line(network: str, dtype: str) -> tuple[float, float]:
    """GiB per item, and what does not depend on the batch."""
    points = MEASURED[network, dtype]
    if len(points) == 1:
        [(items, peak)] = points.items()
        return peak / items, 0.0
    return tuple(statistics.linear_regression(list(points), list(points.values())))
