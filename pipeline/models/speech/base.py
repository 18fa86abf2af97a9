"""What every backend of a speech step has in common. Mono float32 comes in, seconds of source time go out.

A backend takes a recording piece by piece, so that ten hours need no more memory than ten minutes: ``stream`` gives an
object whose ``push`` takes the next samples and whose ``finish`` ends the recording. How a recording is cut into pieces
changes nothing in the results.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np

from pipeline.models.backends import BackendUnavailable

__all__ = [
    "ActivityStream",
    "Backend",
    "BackendUnavailable",
    "DenoiseStream",
    "Denoiser",
    "VoiceActivity",
]


class Backend(Protocol):
    """What every backend says of itself.

    Attributes:
        name: as in the configuration.
        version: raised whenever the numbers change; part of the product's key.
        sample_rate: of the samples that it takes, Hz.
    """

    name: str
    version: str
    sample_rate: int

    def model_id(self) -> str:
        """Name and hash of its weights; the name alone where it has none."""
        ...


class ActivityStream(Protocol):
    """Voice activity of one recording."""

    def push(self, samples: np.ndarray) -> None:
        """Take the next samples, float32 ``[n]`` within -1..1, any n."""
        ...

    def finish(self) -> np.ndarray:
        """The regions of speech, float64 ``[regions, 2]``: start and end in seconds, in order, without overlap."""
        ...


class VoiceActivity(Backend, Protocol):
    """A backend that says where somebody speaks."""

    def stream(self) -> ActivityStream:
        """Begin a recording."""
        ...


class DenoiseStream(Protocol):
    """The denoised rendition of one recording, aligned to the sample."""

    def push(self, samples: np.ndarray) -> np.ndarray:
        """Take the next samples ``[n]`` and give those that are done, float32 ``[m]``; both add up in the end."""
        ...

    def finish(self) -> np.ndarray:
        """The samples that are still missing: as many have come out then as went in."""
        ...


class Denoiser(Backend, Protocol):
    """A backend that takes noise away from speech."""

    def stream(self, *, limit_db: float | None = None) -> DenoiseStream:
        """Begin a recording.

        Args:
            limit_db: the most that is taken away, dB; None is all that the backend would.
        """
        ...
