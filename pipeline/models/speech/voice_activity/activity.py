"""From probabilities of speech, frame by frame, to regions: the same way for every backend."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from pipeline.models.speech.samples import mono_samples

SAMPLE_RATE = 16_000
"""Rate that every backend works at, Hz."""

# A longer piece is taken in parts, so that no backend holds copies of hours.
_PART = 30 * SAMPLE_RATE
# A region goes on until the probability is this far below where one begins, as in Silero's own driver.
_HYSTERESIS = 0.15
_LOWEST = 0.01


@dataclass(frozen=True)
class ActivityOptions:
    """What makes frames a region.

    Args:
        threshold: probability from which on a frame is speech, within 0..1; None is the backend's own.
        min_speech_s: a shorter region is none, s.
        min_silence_s: a shorter gap is none, s.
        pad_s: what is added at both ends of a region, s.

    Raises:
        ValueError: a value is out of its range.
    """

    threshold: float | None = None
    min_speech_s: float = 0.25
    min_silence_s: float = 0.2
    pad_s: float = 0.03

    def __post_init__(self) -> None:
        if self.threshold is not None and not 0 < self.threshold < 1:
            raise ValueError(f"threshold must be between 0 and 1, not {self.threshold}")
        for name in ("min_speech_s", "min_silence_s", "pad_s"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ValueError(f"{name} must be 0 or more, not {getattr(self, name)}")


class Frames(Protocol):
    """Probabilities of speech of one recording, as a backend computes them."""

    def push(self, samples: np.ndarray) -> np.ndarray:
        """Take the next samples, float32 ``[n]``, and give the frames that are done, float32 ``[m]``."""
        ...

    def finish(self) -> np.ndarray:
        """The frames that are still missing."""
        ...


@dataclass(frozen=True)
class FrameGrid:
    """What the frames of a backend stand for: frame i for ``frame_s`` seconds from ``first_s + i * frame_s`` on."""

    frame_s: float
    first_s: float = 0.0


class Regions:
    """Collects regions from probabilities.

    A region begins with a frame at or above the threshold and goes on until one lies 0.15 below it. Then short gaps are
    closed, short regions dropped and the others padded.

    Args:
        options: as they are.
        threshold: where ``options`` have none.
        grid: of the frames.
    """

    def __init__(self, options: ActivityOptions, threshold: float, grid: FrameGrid) -> None:
        self.options = options
        self.grid = grid
        self._begin = threshold if options.threshold is None else options.threshold
        self._end = max(self._begin - _HYSTERESIS, _LOWEST)
        self._frames = 0
        self._speech = False
        # First frame, and the one after the last; the last region is open while `_speech` holds.
        self._found: list[list[int]] = []

    def push(self, probabilities: np.ndarray) -> None:
        """Take the next frames."""
        count = len(probabilities)
        if not count:
            return
        # 1 begins, 0 ends, -1 leaves it as it was.
        says = np.where(probabilities >= self._begin, 1, np.where(probabilities < self._end, 0, -1))
        last = np.maximum.accumulate(np.where(says >= 0, np.arange(count), -1))
        speech = np.where(last < 0, self._speech, says[np.maximum(last, 0)] == 1)
        changes = np.flatnonzero(np.diff(speech, prepend=self._speech))
        for index in changes:
            if speech[index]:
                self._open(self._frames + int(index))
            else:
                self._found[-1][1] = self._frames + int(index)
        self._frames += count
        self._speech = bool(speech[-1])

    def _open(self, frame: int) -> None:
        gap = self.options.min_silence_s
        if self._found and (frame - self._found[-1][1]) * self.grid.frame_s < gap - 1e-9:
            return  # the last region goes on
        # Without this a noisy day would keep each crackle until its end.
        if self._found and self._is_short(*self._found[-1]):
            self._found.pop()
        self._found.append([frame, frame])

    def _is_short(self, first: int, end: int) -> bool:
        return (end - first) * self.grid.frame_s < self.options.min_speech_s - 1e-9

    def finish(self, duration_s: float) -> np.ndarray:
        """The regions, float64 ``[regions, 2]``, seconds within 0 and ``duration_s``."""
        if self._speech:
            self._found[-1][1] = self._frames
        kept = np.array([pair for pair in self._found if not self._is_short(*pair)], np.float64).reshape(
            -1, 2
        )
        seconds = kept * self.grid.frame_s + self.grid.first_s
        seconds += (-self.options.pad_s, self.options.pad_s)
        seconds = np.clip(seconds, 0.0, duration_s)
        return _without_overlap(seconds[seconds[:, 1] > seconds[:, 0]])


def _without_overlap(seconds: np.ndarray) -> np.ndarray:
    """Join regions that padding made touch."""
    if len(seconds) < 2:
        return seconds
    apart = seconds[1:, 0] > seconds[:-1, 1]
    starts = seconds[np.concatenate([[True], apart]), 0]
    ends = seconds[np.concatenate([apart, [True]]), 1]
    return np.stack([starts, ends], axis=1)


class Recording:
    """An `ActivityStream` (`pipeline.models.speech.base`) of a backend's frames.

    Args:
        frames: of this recording.
        regions: that they become.
    """

    def __init__(self, frames: Frames, regions: Regions) -> None:
        self._frames = frames
        self._regions = regions
        self._samples = 0
        self._finished = False

    def push(self, samples: np.ndarray) -> None:
        """Take the next samples, float32 ``[n]``. Raises `ValueError` for what is no mono recording."""
        if self._finished:
            raise ValueError("this recording is finished")
        samples = mono_samples(samples)
        self._samples += len(samples)
        for first in range(0, len(samples), _PART):
            self._regions.push(self._frames.push(samples[first : first + _PART]))

    def finish(self) -> np.ndarray:
        """The regions of speech, float64 ``[regions, 2]``, in seconds."""
        if self._finished:
            raise ValueError("this recording is finished")
        self._finished = True
        self._regions.push(self._frames.finish())
        return self._regions.finish(self._samples / SAMPLE_RATE)


class SampleQueue:
    """Samples that wait until a backend has enough of them; pieces of any size are cheap."""

    def __init__(self) -> None:
        self._pieces: list[np.ndarray] = []
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def append(self, samples: np.ndarray) -> None:
        """Add samples at the end; they are copied, since the caller may go on to use its array."""
        if len(samples):
            self._pieces.append(samples.copy())
            self._count += len(samples)

    def first(self, count: int) -> np.ndarray:
        """The first samples, at most ``count``; they stay."""
        if len(self._pieces) > 1:
            self._pieces = [np.concatenate(self._pieces)]
        return self._pieces[0][:count] if self._pieces else np.zeros(0, np.float32)

    def drop(self, count: int) -> None:
        """Take the first ``count`` samples away."""
        rest = self.first(self._count)[count:]
        # A copy, or else the view would keep all of it.
        self._pieces = [rest.copy()] if len(rest) else []
        self._count = len(rest)
