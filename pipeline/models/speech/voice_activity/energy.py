"""Voice activity without a network: where it is louder than the noise, which is followed through the recording.

The noise is the tenth percentile of the level within five seconds before and after. It takes anything loud for speech;
it is there for clean recordings and for machines without weights.
"""

from __future__ import annotations

import numpy as np

from pipeline.models.speech.voice_activity.activity import (
    SAMPLE_RATE,
    ActivityOptions,
    FrameGrid,
    Recording,
    Regions,
    SampleQueue,
)

_FRAME = 320
# The noise is estimated once for so many frames, 0.5 s, from as many such blocks before and after.
_BLOCK = 25
_REACH = 10
_PERCENTILE = 10
# What is quieter than this is no speech even in digital silence, dBFS.
_QUIETEST_DB = -70.0
# So far above the noise a frame is as likely speech as not, and how fast that changes, dB.
_EVEN_DB = 9.0
_SLOPE_DB = 2.0


class Energy:
    """Voice activity by level.

    Args:
        options: what makes frames a region.
    """

    name = "energy"
    version = "1"
    sample_rate = SAMPLE_RATE
    threshold = 0.5
    grid = FrameGrid(_FRAME / SAMPLE_RATE)

    def __init__(self, options: ActivityOptions | None = None) -> None:
        self.options = options or ActivityOptions()

    @classmethod
    def load(cls, options: ActivityOptions | None = None, *, threads: int = 1) -> Energy:
        """Build it; it needs nothing."""
        return cls(options)

    def model_id(self) -> str:
        """Its name: it has no weights."""
        return self.name

    def frames(self) -> EnergyFrames:
        """Begin a recording, for its probabilities."""
        return EnergyFrames()

    def stream(self) -> Recording:
        """Begin a recording."""
        return Recording(self.frames(), Regions(self.options, self.threshold, self.grid))


class EnergyFrames:
    """Probabilities of one recording, 20 ms apart."""

    def __init__(self) -> None:
        self._queue = SampleQueue()
        # Levels of the blocks that are held, dB, and how many of them were given.
        self._blocks: list[np.ndarray] = []
        self._given = 0

    def push(self, samples: np.ndarray) -> np.ndarray:
        """Take the next samples and give the frames that are done, float32."""
        self._queue.append(samples)
        ready = len(self._queue) // (_BLOCK * _FRAME)
        if ready:
            levels = _levels(self._queue.first(ready * _BLOCK * _FRAME))
            self._queue.drop(ready * _BLOCK * _FRAME)
            self._blocks.extend(levels.reshape(ready, _BLOCK))
        return self._give(len(self._blocks) - _REACH)

    def finish(self) -> np.ndarray:
        """The frames that are still missing; the last one is filled up with zeros."""
        rest = self._queue.first(len(self._queue))
        if len(rest):
            self._blocks.append(_levels(rest))
        return self._give(len(self._blocks))

    def _give(self, end: int) -> np.ndarray:
        """Probabilities of the blocks before ``end`` that were not given."""
        done = []
        for index in range(self._given, end):
            around = np.concatenate(self._blocks[max(0, index - _REACH) : index + _REACH + 1])
            noise = max(float(np.percentile(around, _PERCENTILE)), _QUIETEST_DB)
            done.append(1 / (1 + np.exp((_EVEN_DB - (self._blocks[index] - noise)) / _SLOPE_DB)))
        self._given = max(self._given, end)
        old = max(0, self._given - _REACH)
        del self._blocks[:old]
        self._given -= old
        return np.concatenate(done).astype(np.float32) if done else np.zeros(0, np.float32)


def _levels(samples: np.ndarray) -> np.ndarray:
    """Level of each frame, dBFS; that of the last one is of what there is of it."""
    frames = -(-len(samples) // _FRAME)
    padded = np.pad(samples.astype(np.float64), (0, frames * _FRAME - len(samples))).reshape(frames, _FRAME)
    counts = np.full(frames, float(_FRAME))
    counts[-1] = len(samples) - (frames - 1) * _FRAME
    return 10 * np.log10((padded**2).sum(axis=1) / counts + 1e-12)
