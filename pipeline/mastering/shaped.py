"""What comes out of equaliser and compressor: kept for the limiter and measured, by a thread beside if there is one.

The song goes through the equaliser piece by piece. All that comes behind it is done with the same pieces in the same
order wherever it is done, so that a second thread changes no bit.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any

import numpy as np

from pipeline.audio.reader import ArrayReader, AudioReader, Spool
from pipeline.dsp.threads import settle_threads
from pipeline.mastering.gain import LoudnessProfile
from pipeline.mastering.processor import Processor, through

# Bytes of a song that may be held: 6 minutes of stereo at 44.1 kHz.
_IN_MEMORY = 128 << 20
# Pieces that may wait for the thread beside.
_AHEAD = 2


class Shaped:
    """A song behind equaliser and compressor: in memory where it is small, which costs less than a file.

    Args:
        channels: of the song.
        samples: of the song, per channel.
        folder: where a temporary file lies; None is the system's.
    """

    def __init__(self, channels: int, samples: int, folder: str | None) -> None:
        small = 4 * channels * samples <= _IN_MEMORY
        self._held = np.empty((channels, samples), np.float32) if small else None
        self._spool = None if small else Spool(channels, folder)
        self.reader: AudioReader = ArrayReader(self._held) if self._spool is None else self._spool
        self._at = 0

    def write(self, block: np.ndarray) -> None:
        """The next samples, float32 ``[channels, n]``."""
        if self._spool is not None:
            self._spool.write(block)
            return
        self._held[:, self._at : self._at + block.shape[1]] = block
        self._at += block.shape[1]

    def close(self) -> None:
        """Give the file back, where there is one."""
        if self._spool is not None:
            self._spool.close()


class Behind:
    """All that is done with a piece behind the equaliser.

    Args:
        processors: that it still goes through.
        kept: has what comes out; None keeps nothing.
        profile: measures it.
    """

    def __init__(
        self, processors: Sequence[Processor], kept: Shaped | None, profile: LoudnessProfile
    ) -> None:
        self._processors, self._kept, self._profile = list(processors), kept, profile

    def push(self, piece: np.ndarray) -> None:
        """The next samples, float32 ``[channels, n]``."""
        self._take(through(self._processors, piece))

    def finish(self) -> None:
        """What is left; the profile is finished, too."""
        for place, processor in enumerate(self._processors):
            self._take(through(self._processors[place + 1 :], processor.finish()))
        self._profile.finish()

    def _take(self, block: np.ndarray) -> None:
        self._profile.push(block)
        if self._kept is not None:
            self._kept.write(block)


def thread_beside() -> ThreadPoolExecutor:
    """A thread for `InOrder`, whose results have the last bits that the caller's would have."""
    return ThreadPoolExecutor(1, "beside", initializer=settle_threads)


class InOrder(AbstractContextManager):
    """Calls that are made one after the other; leaving the context waits for the last one.

    Args:
        beside: a thread of it makes them while the caller goes on, two calls ahead at most; None makes them here.
    """

    def __init__(self, beside: Executor | None) -> None:
        self._beside = beside
        self._waiting: deque[Future[Any]] = deque()

    def do(self, function: Callable[..., object], *arguments: object) -> None:
        """Make a call. Raises what an earlier one has raised."""
        if self._beside is None:
            function(*arguments)
            return
        while len(self._waiting) >= _AHEAD:
            self._waiting.popleft().result()
        self._waiting.append(self._beside.submit(function, *arguments))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        first = error  # what was raised here comes first
        while self._waiting:
            future = self._waiting.popleft()
            if first is not None:
                future.cancel()
            try:
                future.result()
            except BaseException as raised:  # noqa: BLE001  it is raised once nothing runs any more
                first = raised if first is None else first
        if first is not error:
            raise first
