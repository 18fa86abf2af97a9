"""What the streams of the backends have in common: frames of a network with a delay, and the limit of reduction."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from pipeline.models.speech.base import DenoiseStream
from pipeline.models.speech.denoise.names import LEAST_DB, MOST_DB

_EMPTY = np.zeros(0, np.float32)


def checked_samples(samples: np.ndarray) -> np.ndarray:
    """Mono samples as float32.

    Raises:
        ValueError: they are not ``[n]``, or hold NaN or infinity.
    """
    samples = np.asarray(samples)
    if samples.ndim != 1 or not np.issubdtype(samples.dtype, np.floating):
        raise ValueError(f"denoising takes float [samples], not {samples.dtype} {list(samples.shape)}")
    if not np.isfinite(samples).all():
        raise ValueError("denoising: the samples hold NaN or infinity")
    return samples.astype(np.float32, copy=False)


def checked_limit(limit_db: float | None) -> float | None:
    """The limit of reduction, dB; None where there is none, which is so from `MOST_DB` on.

    Raises:
        ValueError: it is NaN or below `LEAST_DB`.
    """
    if limit_db is None:
        return None
    if not limit_db >= LEAST_DB:
        raise ValueError(f"limit_db is {limit_db}, but at least {LEAST_DB} dB: less would take nothing away")
    return None if limit_db >= MOST_DB else float(limit_db)


class Ended:
    """A guard against samples after the end of a recording."""

    def __init__(self) -> None:
        self._ended = False

    def check(self, last: bool = False) -> None:
        """Raises `ValueError` where the recording has ended before; ``last`` ends it."""
        if self._ended:
            raise ValueError("denoising: this recording has ended; begin another stream")
        self._ended = last


class FrameStream:
    """A recording that a network takes in consecutive frames; its delay is cut, so that in and out are in step.

    Args:
        process: consecutive samples ``[frames * hop]`` → as many, float32; keeps the network's state.
        hop: samples of a frame.
        delay: samples that the output of ``process`` is late.
        close: called at the end.
    """

    def __init__(
        self,
        process: Callable[[np.ndarray], np.ndarray],
        hop: int,
        delay: int,
        close: Callable[[], object] = lambda: None,
    ) -> None:
        self._process, self._hop, self._close = process, hop, close
        self._late = delay
        self._held = _EMPTY
        self._missing = 0
        self._ended = Ended()

    def push(self, samples: np.ndarray) -> np.ndarray:
        """See `DenoiseStream`. Raises `ValueError` for NaN, infinity, and what is too large to be computed with."""
        self._ended.check()
        samples = checked_samples(samples)
        self._missing += len(samples)
        held = np.concatenate([self._held, samples])
        whole = len(held) // self._hop * self._hop
        self._held = held[whole:].copy()
        return self._done(held[:whole])

    def finish(self) -> np.ndarray:
        """See `DenoiseStream`. Raises `ValueError` for what is too large to be computed with."""
        self._ended.check(last=True)
        try:
            missing = self._missing
            wanted = missing + self._late if missing else 0
            tail = np.zeros(-(-wanted // self._hop) * self._hop, np.float32)
            tail[: len(self._held)] = self._held
            return self._done(tail)[:missing]
        finally:
            self._close()

    def _done(self, samples: np.ndarray) -> np.ndarray:
        """What the network makes of whole frames, without what comes before the first sample."""
        if not len(samples):
            return _EMPTY
        done = self._process(samples)
        if not np.isfinite(done).all():
            raise ValueError("denoising: the samples are too large for float32 arithmetic")
        cut = min(self._late, len(done))
        self._late -= cut
        done = done[cut:]
        self._missing -= len(done)
        return done


class LimitedStream:
    """A recording of which no more than a limit is taken away: mixed with itself, see the package's docstring.

    Args:
        stream: the same at full strength.
        limit_db: see `checked_limit`.
    """

    def __init__(self, stream: DenoiseStream, limit_db: float) -> None:
        self._stream = stream
        self._kept = np.float32(10.0 ** (-limit_db / 20.0))
        self._dry = _EMPTY

    def push(self, samples: np.ndarray) -> np.ndarray:
        """See `DenoiseStream`."""
        # First, for it is what refuses samples.
        done = self._stream.push(samples)
        self._dry = np.concatenate([self._dry, np.asarray(samples, np.float32)])
        return self._mixed(done)

    def finish(self) -> np.ndarray:
        """See `DenoiseStream`."""
        return self._mixed(self._stream.finish())

    def _mixed(self, done: np.ndarray) -> np.ndarray:
        dry, self._dry = self._dry[: len(done)], self._dry[len(done) :]
        return self._kept * dry + (np.float32(1.0) - self._kept) * done


def limited(stream: DenoiseStream, limit_db: float | None) -> DenoiseStream:
    """``stream`` with a limit of reduction, dB; itself where there is none. Raises `ValueError` as `checked_limit`."""
    limit = checked_limit(limit_db)
    return stream if limit is None or math.isinf(limit) else LimitedStream(stream, limit)


def denoised(stream: DenoiseStream, samples: np.ndarray, piece: int = 1 << 18) -> np.ndarray:
    """A whole recording in memory, float32 ``[n]`` → the same length.

    Args:
        stream: a fresh one.
        samples: the recording.
        piece: samples that are handed over at a time; it changes nothing in the result.
    """
    done = [stream.push(samples[start : start + piece]) for start in range(0, len(samples), piece)]
    return np.concatenate([*done, stream.finish()])
