"""What of a mix is in none of its stems, and where it goes, so that the stems add up to the mix.

No network's stems do: Spleeter's hold nothing above 11 kHz (22 dB below the mix, in music), those of demucs are
estimated one by one, Open-Unmix's filter leaves a little, and only mid and side add up by construction. The remainder
is the mix minus the sum of the stems, sample by sample, once the windows are added up:

- ``accompaniment`` adds it to the stem that takes everything else, which so becomes the mix minus the other stems.
- ``share`` splits it by the energy that the stems have around each sample. Weights are taken every 1024 samples (23 ms
  at 44.1 kHz), from both channels of the 1024 samples before and after, and run linearly from one such point to the
  next: taken at each sample alone they would distort, and taken for a whole track they would put the hiss of cymbals
  into a voice that pauses. Where all stems are silent each gets as much as the others. This is Spleeter's own "mask
  extension by average" in the time domain.
- ``drop`` leaves it out.

The sum is as exact as float32: better than -120 dB of the mix.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import pad

from pipeline.models.separation.device_audio import DeviceTrack
from pipeline.models.separation.names import ACCOMPANIMENT, DROP, rest_stem, stems_written

HOP = 1024
"""Samples from one point where the energies of the stems are compared to the next."""


class Remainder:
    """Puts the remainder of one track into its stems while they stream by, on the device they are on.

    It keeps at most two hops of the track, however long that is.

    Args:
        sources: the stems of the backend, in the order of the blocks' first axis.
        residual: one of `pipeline.models.separation.names.RESIDUALS`.
        audio: the mix; long tracks are read once more.

    Attributes:
        sources: the stems of what comes out.
    """

    def __init__(self, sources: Sequence[str], residual: str, audio: DeviceTrack) -> None:
        self.sources = stems_written(sources, residual)
        self._residual, self._audio = residual, audio
        self._position = 0
        self._held: Tensor | None = None
        self._before: Tensor | None = None

    def add(self, stems: Tensor, last: bool = False) -> Tensor:
        """Take the next samples, and return those that are settled; all of them with the ``last`` ones.

        Shape:
            - stems: float32 ``[len(sources of the backend), 2, n]``; may be written to
            - returns: float32 ``[len(self.sources), 2, m]``; ``m`` may be 0

        Raises:
            OSError: the mix cannot be read any more.
        """
        if self._residual == DROP:
            return stems
        if self._residual == ACCOMPANIMENT:
            return self._to_the_rest(stems)
        held = stems if self._held is None else torch.cat([self._held, stems], dim=-1)
        frames = -(-held.shape[-1] // HOP) if last else max(0, held.shape[-1] // HOP - 1)
        weights = self._weights(held, frames, last)
        settled, self._held = held[..., : frames * HOP], held[..., frames * HOP :].clone()
        return settled + self._missing(settled) * weights[:, None, : settled.shape[-1]]

    def _to_the_rest(self, stems: Tensor) -> Tensor:
        missing = self._missing(stems)
        if len(stems) < len(self.sources):
            return torch.cat([stems, missing[None]])
        stems[self.sources.index(rest_stem(self.sources))] += missing
        return stems

    def _missing(self, stems: Tensor) -> Tensor:
        """The mix minus the stems, float32 ``[2, n]``, of the next ``n`` samples."""
        start, self._position = self._position, self._position + stems.shape[-1]
        summed = stems.sum(dim=0)
        return self._audio.again(start, self._position) - summed if summed.numel() else summed

    def _weights(self, held: Tensor, frames: int, last: bool) -> Tensor:
        """What each stem gets of the remainder, float32 ``[stems, frames * HOP]``; sums to 1 at each sample."""
        seen = held[..., : (frames + (not last)) * HOP]
        # Behind the last sample there is nothing.
        seen = pad(seen, (0, (frames + 1) * HOP - seen.shape[-1]))
        energy = seen.unflatten(-1, (-1, HOP)).square().sum(dim=(1, 3))
        before = torch.zeros_like(energy[:, :1]) if self._before is None else self._before
        energy = torch.cat([before, energy], dim=-1)
        self._before = energy[:, frames : frames + 1].clone()
        around = energy[:, :-1] + energy[:, 1:]
        total = around.sum(dim=0)
        points = torch.where(total > 0, around / total, 1.0 / len(held))[..., None]
        ramp = torch.arange(HOP, device=held.device) / HOP
        return (points[:, :-1] * (1 - ramp) + points[:, 1:] * ramp).flatten(1)
