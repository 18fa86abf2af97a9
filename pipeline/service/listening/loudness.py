"""How loud a master is so far: measured piece by piece, while it is rendered."""

from __future__ import annotations

import numpy as np

from pipeline.dsp.bs1770 import (
    LOWEST_RATE,
    Steps,
    integrated_loudness,
    measure_steps,
    step_start,
)

# What K-weighting forgets is forgotten twice over.
_CONTEXT_STEPS = 2


class LoudnessSoFar:
    """Integrated loudness of what was added up to now.

    Args:
        sample_rate: Hz.
        channels: number of channels.
    """

    def __init__(self, sample_rate: int, channels: int) -> None:
        self._rate, self._channels = sample_rate, channels
        self._steps = Steps.joined([])
        # The samples of the last steps, and of the one that is not whole.
        self._kept, self._origin = np.zeros((channels, 0), np.float32), 0

    def add(self, samples: np.ndarray) -> None:
        """The next samples, float32 ``[channels, n]``."""
        if self._rate < LOWEST_RATE:
            return
        kept = np.concatenate([self._kept, samples], axis=1)
        first = len(self._steps.energy)
        found = measure_steps([kept], self._channels, self._rate, self._origin, first)
        self._steps = Steps.joined([self._steps, found])
        keep = step_start(max(0, len(self._steps.energy) - _CONTEXT_STEPS), self._rate)
        self._kept, self._origin = kept[:, keep - self._origin :], keep

    @property
    def lufs(self) -> float | None:
        """LUFS; None where there is none."""
        return integrated_loudness(self._steps)
