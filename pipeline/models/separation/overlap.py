"""Windows of a track added up again, where they are."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad

from pipeline.models.separation.window import UNTOUCHED, Level, Window


def triangle(size: int) -> Tensor:
    """demucs's transition weights with ``transition_power=1``: they rise to 1 in the middle and fall again.

    Shape:
        - returns: float32 ``[size]``
    """
    rising = torch.arange(1, size // 2 + 1)
    weight = torch.cat([rising, torch.arange(size - size // 2, 0, -1)])
    return weight / weight.max()


class OverlapAdd:
    """Adds the windows of one track, on the device they are on, and hands out what is complete.

    Args:
        samples: length of the track; what is handed out sums to it exactly.
        level: what was taken out of the track and is put back.
    """

    def __init__(self, samples: int, level: Level = UNTOUCHED) -> None:
        self._samples, self._level = samples, level
        self._sum: Tensor | None = None
        self._weights: Tensor | None = None
        self._position = 0

    def add(self, window: Window, stems: Tensor, weight: Tensor | None) -> Tensor:
        """Take the next window and return the samples before it, which no later one can change.

        Args:
            window: its place; offsets rise.
            stems: float32 ``[sources, 2, window.size]``.
            weight: ``[n]``, ``n >= window.length``, on the same device, or None for 1 without normalisation.

        Returns:
            float32 ``[sources, 2, n]``; ``n`` may be 0.
        """
        first = window.offset - window.start
        kept = stems[..., first : first + window.length]
        if self._sum is None:
            self._position = window.offset
            self._sum = kept.new_zeros(*kept.shape[:-1], 0)
            self._weights = None if weight is None else weight.new_zeros(0)
        complete = self._take(window.offset)
        self._sum = _grown(self._sum, window.length)
        if weight is None:
            self._sum[..., : window.length] += kept
            return complete
        weight = weight[: window.length]
        self._weights = _grown(self._weights, window.length)
        self._weights[: window.length] += weight
        self._sum[..., : window.length].addcmul_(kept, weight)
        return complete

    def rest(self) -> Tensor:
        """What is left after the last window."""
        return self._take(self._position + self._sum.shape[-1])

    def _take(self, until: int) -> Tensor:
        count = until - self._position
        done = self._sum[..., :count]
        if self._weights is not None:
            done = done / self._weights[:count]
            self._weights = self._weights[count:].clone()
        # A view would keep the whole buffer alive.
        self._sum = self._sum[..., count:].clone()
        start = min(count, max(0, -self._position))
        end = max(start, min(count, self._samples - self._position))
        self._position = until
        done = done[..., start:end]
        if self._level != UNTOUCHED:
            done = done * self._level.scale + self._level.mean
        return done


def _grown(buffer: Tensor, size: int) -> Tensor:
    missing = size - buffer.shape[-1]
    return pad(buffer, (0, missing)) if missing > 0 else buffer
