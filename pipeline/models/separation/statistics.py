"""What the stems of a track amount to, summed up while they stream by."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class StemStatistics(NamedTuple):
    """Shares and levels of the stems of one track, by stem name.

    Args:
        shares: share of the stems' summed energy, summing to 1; None for each where all are silent.
        rms_dbfs: RMS level over all samples and channels; None for a silent stem. A sine of full scale has
            -3.01 dBFS.
    """

    shares: dict[str, float | None]
    rms_dbfs: dict[str, float | None]


class StemFold:
    """Keeps sums of the blocks it is given, and nothing else.

    Args:
        sources: stem names in the order of the blocks' first axis.
    """

    def __init__(self, sources: Sequence[str]) -> None:
        self.sources = tuple(sources)
        self._energy = np.zeros(len(self.sources))
        self._values = 0

    def add(self, block: np.ndarray) -> None:
        """Take the next block, ``[sources, channels, n]``.

        Raises:
            ValueError: it has another number of stems, or holds NaN or infinity.
        """
        if block.ndim != 3 or len(block) != len(self.sources):
            raise ValueError(f"a block of shape {list(block.shape)} is not one of the stems {self.sources}")
        self._energy += np.square(block, dtype=np.float64).sum(axis=(1, 2))
        self._values += block.shape[1] * block.shape[2]
        if not np.isfinite(self._energy).all():
            raise ValueError("the stems hold NaN or infinity")

    def statistics(self) -> StemStatistics:
        """Of everything added so far."""
        total = float(self._energy.sum())
        energy = dict(zip(self.sources, map(float, self._energy), strict=True))
        return StemStatistics(
            {name: e / total if total > 0 else None for name, e in energy.items()},
            {name: 10.0 * math.log10(e / self._values) if e > 0 else None for name, e in energy.items()},
        )
