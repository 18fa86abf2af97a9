"""Voice activity by segmentation-3.0: somebody speaks where the network does not say that nobody does.

Windows of 10 s every 5 s; where two overlap, the one whose middle is nearer counts more. A recording's last window ends
where the recording does.
"""

from __future__ import annotations

import numpy as np

from pipeline.models.speech.segmentation_network import (
    FRAME_STEP,
    FRAMES,
    RECEPTIVE_FIELD,
    SAMPLE_RATE,
    WINDOW,
    SegmentationNetwork,
)
from pipeline.models.speech.voice_activity.activity import (
    ActivityOptions,
    FrameGrid,
    Recording,
    Regions,
    SampleQueue,
)

_HOP_FRAMES = 296
_HOP = _HOP_FRAMES * FRAME_STEP
# As many windows in every call, so that how a recording is cut changes nothing.
_GROUP = 4
_WEIGHT = np.hamming(FRAMES).astype(np.float32)


class Segmentation:
    """Voice activity by pyannote's segmentation-3.0.

    Args:
        network: with its weights.
        options: what makes frames a region.
    """

    name = "seg3"
    version = "1"
    sample_rate = SAMPLE_RATE
    threshold = 0.5
    # A frame stands for the step around the middle of what it sees.
    grid = FrameGrid(FRAME_STEP / SAMPLE_RATE, (RECEPTIVE_FIELD - FRAME_STEP) / 2 / SAMPLE_RATE)

    def __init__(self, network: SegmentationNetwork, options: ActivityOptions | None = None) -> None:
        self.network = network
        self.options = options or ActivityOptions()

    @classmethod
    def load(cls, options: ActivityOptions | None = None, *, threads: int = 1) -> Segmentation:
        """Build it with its weights from the store. Raises `BackendUnavailable` where it cannot run."""
        return cls(SegmentationNetwork.load(threads), options)

    def model_id(self) -> str:
        """Name and weights hash."""
        return self.network.model_id()

    def frames(self) -> SegmentationFrames:
        """Begin a recording, for its probabilities."""
        return SegmentationFrames(self.network)

    def stream(self) -> Recording:
        """Begin a recording."""
        return Recording(self.frames(), Regions(self.options, self.threshold, self.grid))


class SegmentationFrames:
    """Probabilities of one recording, 16.875 ms apart."""

    def __init__(self, network: SegmentationNetwork) -> None:
        self._network = network
        # From the first window on that was not computed; after the first group also the hop before it.
        self._queue = SampleQueue()
        self._behind = 0
        self._next = 0
        # Weighted sums of the frames that a later window still adds to.
        self._sum = np.zeros(FRAMES, np.float32)
        self._weights = np.zeros(FRAMES, np.float32)

    def push(self, samples: np.ndarray) -> np.ndarray:
        """Take the next samples and give the frames that are done, float32."""
        self._queue.append(samples)
        done = []
        group = (_GROUP - 1) * _HOP + WINDOW
        while len(self._queue) >= self._behind + group:
            held = self._queue.first(self._behind + group)
            starts = [self._behind + index * _HOP for index in range(_GROUP)]
            done.extend(self._add(held, starts))
            self._queue.drop(starts[-1])
            self._behind = _HOP
        return np.concatenate(done) if done else np.zeros(0, np.float32)

    def finish(self) -> np.ndarray:
        """The frames that are still missing."""
        held = self._queue.first(len(self._queue))
        fresh = len(held) - self._behind
        if self._next == 0 and not len(held):
            return np.zeros(0, np.float32)
        starts = [self._behind + index * _HOP for index in range(max(0, (fresh - WINDOW) // _HOP + 1))]
        done = self._add(held, starts)
        begun = starts[-1] if starts else 0
        samples_seen = begun + WINDOW if starts or self._next else 0
        if len(held) > samples_seen:
            # On the grid of frames, with less than a frame of zeros after the end.
            first = max(0, -(-(len(held) - WINDOW) // FRAME_STEP) * FRAME_STEP)
            padded = np.pad(held, (0, max(0, first + WINDOW - len(held))))
            probabilities = self._speech(padded[None, first : first + WINDOW])[0]
            self._accumulate(probabilities, (first - begun) // FRAME_STEP)
        frames = self._sum / np.maximum(self._weights, 1e-9)
        # No frames that begin behind the end.
        count = -(-max(0, len(held) - begun - (RECEPTIVE_FIELD - FRAME_STEP) // 2) // FRAME_STEP)
        return np.concatenate([*done, frames[: max(1, count)]])

    def _add(self, held: np.ndarray, starts: list[int]) -> list[np.ndarray]:
        """Compute windows, and give the frames that lie before each of them."""
        if not starts:
            return []
        windows = np.stack([held[start : start + WINDOW] for start in starts])
        done = []
        for probabilities in self._speech(windows):
            if self._next:
                done.append(self._sum[:_HOP_FRAMES] / self._weights[:_HOP_FRAMES])
                self._sum = np.pad(self._sum[_HOP_FRAMES:FRAMES], (0, _HOP_FRAMES))
                self._weights = np.pad(self._weights[_HOP_FRAMES:FRAMES], (0, _HOP_FRAMES))
            self._accumulate(probabilities, 0)
            self._next += 1
        return done

    def _accumulate(self, probabilities: np.ndarray, frame: int) -> None:
        """Add a window that begins ``frame`` frames after the first that is not given yet."""
        missing = max(0, frame + FRAMES - len(self._sum))
        self._sum = np.pad(self._sum, (0, missing))
        self._weights = np.pad(self._weights, (0, missing))
        self._sum[frame : frame + FRAMES] += _WEIGHT * probabilities
        self._weights[frame : frame + FRAMES] += _WEIGHT

    def _speech(self, windows: np.ndarray) -> np.ndarray:
        return 1.0 - self._network.powerset_probabilities(windows)[..., 0]
