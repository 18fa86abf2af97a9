"""Seconds that a piece of work takes at its best: what else the machine does only ever adds to them."""

from __future__ import annotations

import time
from collections.abc import Callable

BEST_OF = 3


def quickest(work: Callable[[], object]) -> float:
    """Seconds that ``work`` takes, the best of three after one that is not counted."""
    work()
    took = []
    for _ in range(BEST_OF):
        started = time.perf_counter()
        work()
        took.append(time.perf_counter() - started)
    return min(took)
