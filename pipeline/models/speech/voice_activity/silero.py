"""Silero's voice activity detector (Silero Team 2021), in the form that takes many frames in one call.

A driver of its own around the published network: 512 samples a frame, each with the 64 before it, and a state that goes
from one call to the next. Frame for frame the probabilities are those of the silero-vad package.
"""

from __future__ import annotations

import numpy as np

from pipeline.errors import UserError
from pipeline.models import weights
from pipeline.models.speech.base import BackendUnavailable
from pipeline.models.speech.onnx_session import onnx_session
from pipeline.models.speech.voice_activity.activity import (
    SAMPLE_RATE,
    ActivityOptions,
    FrameGrid,
    Recording,
    Regions,
    SampleQueue,
)

WEIGHTS = "silero-vad"
FRAME = 512
_CONTEXT = 64
_STATE = (1, 1, 128)
# 16.4 s. As many in every call, so that how a recording is cut changes nothing.
_BLOCK_FRAMES = 512


class Silero:
    """Voice activity by Silero's network.

    Args:
        session: of onnxruntime.
        options: what makes frames a region.
        weights_hash: sha256 of the weights, hex.
    """

    name = "silero"
    version = "1"
    sample_rate = SAMPLE_RATE
    threshold = 0.5
    grid = FrameGrid(FRAME / SAMPLE_RATE)

    def __init__(self, session, options: ActivityOptions | None = None, weights_hash: str = "") -> None:
        self.session = session
        self.options = options or ActivityOptions()
        self.weights_hash = weights_hash

    @classmethod
    def load(cls, options: ActivityOptions | None = None, *, threads: int = 1) -> Silero:
        """Build it with its weights from the store. Raises `BackendUnavailable` where it cannot run."""
        path = weights.find(WEIGHTS)
        if path is None:
            raise BackendUnavailable(weights.missing(WEIGHTS))
        try:
            return cls(onnx_session(path, threads), options, weights.weights_hash(path))
        except UserError as error:
            raise BackendUnavailable(str(error)) from error

    def model_id(self) -> str:
        """Name and weights hash."""
        return f"{WEIGHTS}:{self.weights_hash[:12]}"

    def frames(self) -> SileroFrames:
        """Begin a recording, for its probabilities."""
        return SileroFrames(self.session)

    def stream(self) -> Recording:
        """Begin a recording."""
        return Recording(self.frames(), Regions(self.options, self.threshold, self.grid))


class SileroFrames:
    """Probabilities of one recording, 32 ms apart."""

    def __init__(self, session) -> None:
        self._session = session
        self._queue = SampleQueue()
        self._context = np.zeros(_CONTEXT, np.float32)
        self._hidden = np.zeros(_STATE, np.float32)
        self._cell = np.zeros(_STATE, np.float32)

    def push(self, samples: np.ndarray) -> np.ndarray:
        """Take the next samples and give the frames that are done, float32."""
        self._queue.append(samples)
        done = []
        while len(self._queue) >= _BLOCK_FRAMES * FRAME:
            block = self._queue.first(_BLOCK_FRAMES * FRAME)
            done.append(self._run(block.reshape(-1, FRAME)))
            self._queue.drop(_BLOCK_FRAMES * FRAME)
        return np.concatenate(done) if done else np.zeros(0, np.float32)

    def finish(self) -> np.ndarray:
        """The frames that are still missing; the last one is filled up with zeros."""
        rest = self._queue.first(len(self._queue))
        if not len(rest):
            return np.zeros(0, np.float32)
        return self._run(np.pad(rest, (0, -len(rest) % FRAME)).reshape(-1, FRAME))

    def _run(self, frames: np.ndarray) -> np.ndarray:
        ends = frames[:, -_CONTEXT:]
        contexts = np.concatenate([self._context[None], ends[:-1]])
        inputs = {"input": np.concatenate([contexts, frames], axis=1), "h": self._hidden, "c": self._cell}
        values, self._hidden, self._cell = self._session.run(["speech_probs", "hn", "cn"], inputs)
        self._context = ends[-1].copy()
        return values.reshape(-1)
