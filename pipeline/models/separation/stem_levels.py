"""What the stems of a track amount to, summed up while they stream by."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor


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
    """Keeps sums of the blocks it is given, where they are, and nothing else.

    Args:
        sources: stem names in the order of the blocks' first axis.
    """

    def __init__(self, sources: Sequence[str]) -> None:
        self.sources = tuple(sources)
        self._energy: Tensor | None = None
        self._values = 0

    def add(self, block: Tensor) -> None:
        """Take the next block, ``[sources, channels, n]``; on a GPU nobody waits for it.

        Raises:
            ValueError: it has another number of stems.
        """
        if block.ndim != 3 or len(block) != len(self.sources):
            raise ValueError(f"a block of shape {list(block.shape)} is not one of the stems {self.sources}")
        magnitude = torch.linalg.vector_norm(block, dim=(1, 2), dtype=torch.float64)
        energy = magnitude.square_()
        self._energy = energy if self._energy is None else self._energy + energy
        self._values += block.shape[1] * block.shape[2]

    def statistics(self) -> StemStatistics:
        """Of everything added so far.

        Raises:
            ValueError: a block held NaN or infinity.
        """
        sums = [0.0] * len(self.sources) if self._energy is None else self._energy.tolist()
        total = math.fsum(sums)
        if not math.isfinite(total):
            raise ValueError("the stems hold NaN or infinity")
        energy = dict(zip(self.sources, sums, strict=True))
        return StemStatistics(
            {name: e / total if total > 0 else None for name, e in energy.items()},
            {name: 10.0 * math.log10(e / self._values) if e > 0 else None for name, e in energy.items()},
        )
