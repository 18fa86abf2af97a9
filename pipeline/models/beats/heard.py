"""What is heard of a track, frame by frame: the networks' odds of a beat, and how much the sound rises.

The networks were trained on music with drums. Where there are none they are unsure, though a listener taps on: then
the notes that begin tell where the beats are. They show in what the networks are given.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import uniform_filter1d

from pipeline.late import torch
from pipeline.models.beats.front_end import BANDS, FRAMES_PER_SECOND

# How much the logarithm of the odds of a beat and of a downbeat grows with a rise beyond the usual, in mean rises of
# the second before and after. Rises of other kinds (of low bands, to the second frame before, of levels) and values
# from half to one and a half times these do about as well on the half of the truth that is there to develop on. To let
# rises of the bass speak for downbeats finds more of these, and the meter less often.
_RISE, _USUAL, _MOST = 1.0, 1.5, 8.0
_AROUND = 2 * int(FRAMES_PER_SECOND) + 1
_LEAST_ODDS, _LEAST_RISE = 1e-6, 1e-6
_PIECE = 15000  # frames at a time


@dataclass(frozen=True, eq=False)
class Heard:
    """What is heard of a track: 800 bytes for each second.

    Args:
        odds: of beat and downbeat, by the networks; float32 ``[frames, 2]``.
        rises: by how much the bands rise into each frame, on average; float32 ``[frames]``.
        turns: of the harmony, see `pipeline.models.beats.harmony.Turns`; float32 ``[frames]``.
        level: of the bands on average, over all frames.
    """

    odds: np.ndarray
    rises: np.ndarray
    turns: np.ndarray
    level: float

    @property
    def unrest(self) -> float:
        """How much the bands rise in a frame, as a share of their level: music .05 to .2, speech .22 and more, steady
        tones next to nothing."""
        return float(self.rises.mean(dtype=np.float64)) / self.level if self.level > 0 else 0.0

    def activations(self) -> np.ndarray:
        """Odds of beat and downbeat with what rises say of them, float32 ``[frames, 2]``.

        Raises:
            ValueError: NaN or infinity among what was heard.
        """
        if not (np.isfinite(self.odds).all() and np.isfinite(self.rises).all()):
            raise ValueError("the odds of beats hold NaN or infinity")
        around = uniform_filter1d(self.rises, max(1, min(_AROUND, 2 * len(self.rises) - 1)), mode="reflect")
        found = np.empty_like(self.odds)
        for start in range(0, len(found), _PIECE):
            part = slice(start, start + _PIECE)
            relative = np.minimum(self.rises[part] / (around[part] + _LEAST_RISE), _MOST).astype(np.float64)
            odds = np.maximum(self.odds[part].astype(np.float64), _LEAST_ODDS)
            odds *= np.exp(_RISE * (relative - _USUAL))[:, None]
            neither = np.maximum(1.0 - self.odds[part].sum(axis=1, keepdims=True), _LEAST_ODDS)
            found[part] = odds / (odds.sum(axis=1, keepdims=True) + neither)
        return found


def rises_and_levels(inputs: torch.Tensor) -> torch.Tensor:
    """Of what the networks are given, ``[..., INPUTS]``: mean rise and mean level of the bands, ``[..., 2]``."""
    return torch.stack([inputs[..., BANDS:].mean(dim=-1), inputs[..., :BANDS].mean(dim=-1)], dim=-1)
