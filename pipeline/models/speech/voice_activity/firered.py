"""Voice activity by FireRedVAD (Xu et al. 2026), which knows music for what it is better than the others do."""

from __future__ import annotations

import numpy as np

from pipeline.commands import as_typed
from pipeline.errors import UserError
from pipeline.models import weights
from pipeline.models.speech.base import BackendUnavailable
from pipeline.models.speech.voice_activity.activity import (
    ActivityOptions,
    FrameGrid,
    Recording,
    Regions,
    SampleQueue,
)
from pipeline.models.speech.voice_activity.firered_network import (
    FRAME_LENGTH,
    FRAME_STEP,
    LOOK_AHEAD,
    LOOK_BEHIND,
    SAMPLE_RATE,
    Dfsmn,
    log_mel,
    read_network,
)

WEIGHTS = "firered-vad"
# 10 s. As many in every call, so that how a recording is cut changes nothing.
_CHUNK = 1000


class FireRed:
    """Voice activity by FireRedVAD.

    Args:
        network: with its weights.
        options: what makes frames a region.
        weights_hash: sha256 of the weights, hex.
    """

    name = "firered"
    version = "1"
    sample_rate = SAMPLE_RATE
    threshold = 0.5
    # A frame stands for the step around its middle.
    grid = FrameGrid(FRAME_STEP / SAMPLE_RATE, (FRAME_LENGTH - FRAME_STEP) / 2 / SAMPLE_RATE)

    def __init__(
        self, network: Dfsmn, options: ActivityOptions | None = None, weights_hash: str = ""
    ) -> None:
        self.network = network
        self.options = options or ActivityOptions()
        self.weights_hash = weights_hash

    @classmethod
    def load(cls, options: ActivityOptions | None = None, *, threads: int = 1) -> FireRed:
        """Build it with its weights from the store. Raises `BackendUnavailable` where it cannot run."""
        path = weights.find(WEIGHTS)
        if path is None:
            raise BackendUnavailable(weights.missing(WEIGHTS))
        try:
            return cls(read_network(path), options, weights.weights_hash(path))
        except UserError as error:
            raise BackendUnavailable(str(error)) from error
        except ValueError as error:
            fetch = as_typed(f"delete it, then python jobs/models.py fetch {WEIGHTS}")
            raise BackendUnavailable(f"{path} cannot be used, {error}: {fetch}") from error

    def model_id(self) -> str:
        """Name and weights hash."""
        return f"{WEIGHTS}:{self.weights_hash[:12]}"

    def frames(self) -> FireRedFrames:
        """Begin a recording, for its probabilities."""
        return FireRedFrames(self.network, 0)

    def stream(self) -> Recording:
        """Begin a recording."""
        return Recording(self.frames(), Regions(self.options, self.threshold, self.grid))


class FireRedFrames:
    """Probabilities of one recording, 10 ms apart.

    Args:
        network: with its weights.
        classes: those of the network's classes that are given; one by its number, float32 ``[m]``, or a slice of
            them, ``[m, classes]``.
    """

    def __init__(self, network: Dfsmn, classes: int | slice) -> None:
        self._network = network
        self._classes = classes
        self._queue = SampleQueue()
        # Frames before the next one to be given whose samples are still held.
        self._behind = 0

    def push(self, samples: np.ndarray) -> np.ndarray:
        """Take the next samples and give the frames that are done."""
        self._queue.append(samples)
        done = [self._probabilities(samples[:0])]
        while len(self._queue) >= _samples_of(self._behind + _CHUNK + LOOK_AHEAD):
            held = self._queue.first(_samples_of(self._behind + _CHUNK + LOOK_AHEAD))
            done.append(self._probabilities(held)[self._behind : self._behind + _CHUNK])
            behind = min(LOOK_BEHIND, self._behind + _CHUNK)
            self._queue.drop((self._behind + _CHUNK - behind) * FRAME_STEP)
            self._behind = behind
        return np.concatenate(done)

    def finish(self) -> np.ndarray:
        """The frames that are still missing."""
        return self._probabilities(self._queue.first(len(self._queue)))[self._behind :]

    def _probabilities(self, samples: np.ndarray) -> np.ndarray:
        return self._network(log_mel(samples))[:, self._classes]


def _samples_of(frames: int) -> int:
    return (frames - 1) * FRAME_STEP + FRAME_LENGTH
