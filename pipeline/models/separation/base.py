"""The interface of a separation backend, and the registry it enters by being written.

To add one, write one file in this folder with a class that derives from `Separator` and is decorated with
`@register`; `pipeline.models.separation.choose` then finds it under its ``name``. A backend says how a track
is cut (`Separator.windows`) and what becomes of a batch of windows (`Separator.separate`); batching across
tracks, overlap-add and bounded memory are `pipeline.models.separation.separation_stream`'s.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

import torch
from torch import Tensor

from pipeline.models.backends import BackendUnavailable
from pipeline.models.separation.device_audio import DeviceTrack
from pipeline.models.separation.names import SeparationOptions
from pipeline.models.separation.window import UNTOUCHED, Level, Window

__all__ = ["REGISTRY", "SAMPLE_RATE", "BackendUnavailable", "Separator", "register"]

SAMPLE_RATE = 44100
"""Rate of the audio that the stage hands out, Hz: that of every published model."""


class Separator:
    """A separation backend.

    Attributes:
        name: as in ``separation.backends``.
        version: raised whenever the numbers change; part of the extractor key.
        cpu_speed: seconds of audio per second on one core, measured; what ``auto`` plans with.
        sources: stem names in the order of the second axis of what `separate` returns.
        sample_rate: the rate it works at, Hz.
        segment: length of a full window, s.
        batch_items: windows in one batch. One is fastest on a CPU, where two no longer fit the caches.
        device: where it runs.
        amp: whether it runs in bfloat16 autocast.
        least_side_db: below this level of the side, (L - R) / 2, over the mid it has nothing to go by; None where it
            does not need the stereo image.
        plain: why it runs on a GPU without the kernels that were written for it; empty where it does not.
    """

    name: ClassVar[str]
    version: ClassVar[str]
    cpu_speed: float
    sources: tuple[str, ...]
    sample_rate: int = SAMPLE_RATE
    segment: float
    batch_items: int = 1
    device: torch.device
    amp: bool = False
    least_side_db: float | None = None
    plain: str = ""

    @classmethod
    def load(cls, device: str = "cpu", options: SeparationOptions | None = None) -> Separator:
        """Build it with its real weights on ``device``.

        Raises:
            BackendUnavailable: a package or weights are missing.
            UserError: what ``options`` name is not there.
        """
        raise NotImplementedError

    def model_id(self) -> str:
        """Name and weights hash, for ``separation_model`` and ``extractor_keys``."""
        raise NotImplementedError

    def refuses(self, channels: int, samples: int) -> str | None:
        """Why this input is not for this backend (native channel count; samples at `sample_rate`), or None."""
        return None

    def windows(self, samples: int) -> Iterator[Window]:
        """How a track of so many samples is cut, by rising ``offset``; they cover it."""
        raise NotImplementedError

    def transition(self, size: int) -> Tensor | None:
        """Weights ``[n]`` of a window's output, on the host, ``n >= length``; divided by their sum after adding.

        None adds the outputs as they are.
        """
        return None

    def level(self, audio: DeviceTrack) -> Level | None:
        """What is taken out of the track before the network sees it; None for silence, whose stems are zeros.

        Called in the context of `pipeline.models.transfer.copying`: it must not wait for the network.

        Raises:
            ValueError: it holds NaN or infinity.
        """
        return UNTOUCHED

    def separate(self, batch: Tensor) -> Tensor:
        """The stems of a batch of windows, each on its own.

        Shape:
            - batch: float32 ``[items, 2, samples]`` on `device`
            - returns: float32 ``[items, sources, 2, samples]`` on the same device
        """
        raise NotImplementedError

    def padding_fraction(self, samples: int) -> float:
        """Share of what the network processes for so many samples that lies outside the track, 0..1."""
        outside = total = 0
        for window in self.windows(samples):
            inside = min(window.start + window.size, samples) - max(window.start, 0)
            outside += window.size - max(0, inside)
            total += window.size
        return outside / total if total else 0.0


REGISTRY: dict[str, type[Separator]] = {}


def register(cls: type[Separator]) -> type[Separator]:
    """Class decorator: enter ``cls`` under its ``name``."""
    REGISTRY[cls.name] = cls
    return cls
