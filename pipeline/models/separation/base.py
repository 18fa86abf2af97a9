"""The interface of a separation backend, and the registry it enters by being written.

To add one, write one file in this folder with a class that derives from `Separator` and is decorated with
`@register`; `pipeline.models.separation.choose` then finds it under its ``name``.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

import numpy as np


class BackendUnavailable(Exception):
    """This backend cannot run here: weights or a package are missing. The message says what to type."""


class Separator:
    """A separation backend.

    Class attributes:
        name: as in ``separation.backends``.
        version: raised whenever the numbers change; part of the extractor key.
        sources: stem names in the order of the first axis of what `stream` yields.
        sample_rate: the rate it works at, Hz.
    """

    name: ClassVar[str]
    version: ClassVar[str]
    sources: ClassVar[tuple[str, ...]]
    sample_rate: ClassVar[int] = 44100

    @classmethod
    def load(cls, device: str = "cpu") -> Separator:
        """Build it with its real weights on ``device``. Raises `BackendUnavailable`."""
        raise NotImplementedError

    def model_id(self) -> str:
        """Name and weights hash, for ``extractor_keys``."""
        raise NotImplementedError

    def refuses(self, channels: int, samples: int) -> str | None:
        """Why this input is not for this backend (native channel count; samples at `sample_rate`), or None."""
        return None

    def padding_fraction(self, samples: int) -> float:
        """Share of what the network processes for so many samples that is filling, 0..1."""
        return 0.0

    def stream(self, audio: np.ndarray) -> Iterator[np.ndarray]:
        """Separate one track in bounded memory.

        Args:
            audio: stereo float32 ``[2, samples]`` at `sample_rate`.

        Yields:
            consecutive blocks, float32 ``[sources, 2, n]``; their lengths sum to ``samples``.
        """
        raise NotImplementedError

    def separate(self, audio: np.ndarray) -> np.ndarray:
        """All stems at once, float32 ``[sources, 2, samples]``; needs memory for the whole track."""
        blocks = list(self.stream(audio))
        return np.concatenate(blocks, axis=-1) if blocks else np.zeros((len(self.sources), 2, 0), np.float32)


REGISTRY: dict[str, type[Separator]] = {}


def register(cls: type[Separator]) -> type[Separator]:
    """Class decorator: enter ``cls`` under its ``name``."""
    REGISTRY[cls.name] = cls
    return cls
