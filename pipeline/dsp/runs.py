"""Runs of true in a row of frames."""

from __future__ import annotations

import numpy as np


def runs(active: np.ndarray) -> np.ndarray:
    """First frame and the one after the last of each run of true, int64 ``[runs, 2]``."""
    edges = np.flatnonzero(np.diff(np.concatenate(([False], active, [False])).astype(np.int8)))
    return edges.reshape(-1, 2)


def without_gaps(active: np.ndarray, most: int) -> np.ndarray:
    """``active`` with its inner gaps of up to ``most`` frames closed."""
    closed = active.copy()
    found = runs(active)
    for end, start in zip(found[:-1, 1], found[1:, 0], strict=True):
        if start - end <= most:
            closed[end:start] = True
    return closed
