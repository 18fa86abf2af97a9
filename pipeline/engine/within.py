"""How far a stage is within one file: told by its worker, shown while a run goes on, and counted in its ETA.

A file of ten hours is one step of a run's progress otherwise. Where a worker works, `listen` says who hears what it
tells; without that, telling costs nothing. Nor do files that are done within a moment: each is told of once it has been
in a stage for a second, and then at most once a second. Where the run is, `BOARD` has the newest of each.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import KW_ONLY, dataclass

import numpy as np

from pipeline.audio.reader import AudioReader
from pipeline.audio.validate import printable_line
from pipeline.dataset.sources.addresses import file_name
from pipeline.engine.batch import Track

EVERY_S = 1.0
STALE_S = 120.0
"""What was not heard of for so long is not shown any more: its worker has died."""


@dataclass(frozen=True)
class Part:
    """One file within one stage.

    Args:
        index: of the file in the run.
        stage: that works on it.
        share: of that stage's work on it that is done, 0 to 1.
        name: of the file.
        text: what is being done, in words.
        size_bytes: of the file; None where that is unknown.
    """

    index: int
    stage: str
    share: float
    _: KW_ONLY
    name: str = ""
    text: str = ""
    size_bytes: int | None = None

    @property
    def line(self) -> str:
        """``song.flac: rendering 43 %, -14.2 LUFS so far``."""
        return printable_line(f"{self.name[-80:]}: {self.text}")


class Board:
    """The newest part of each file that is in work. Any thread may note and ask.

    Args:
        clock: seconds, which grow.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._lock = clock, threading.Lock()
        self._parts: dict[int, tuple[float, Part]] = {}

    def note(self, part: Part) -> None:
        """Take the place of what was known of that file."""
        with self._lock:
            self._parts[part.index] = self._clock(), part

    def parts(self) -> list[Part]:
        """All that were heard of lately, by the number of their file."""
        with self._lock:
            known = sorted(self._parts.items())
        now = self._clock()
        return [part for _, (at, part) in known if now - at <= STALE_S]

    def forget(self, indexes: Iterable[int]) -> None:
        """These files are no longer in work."""
        with self._lock:
            for index in indexes:
                self._parts.pop(index, None)

    def take(self, parts: Iterable[Part]) -> None:
        """Have these, and nothing else."""
        now = self._clock()
        with self._lock:
            self._parts = {part.index: (now, part) for part in parts}


BOARD = Board()
"""Of the run that this process leads."""


class _Telling:
    """Of this process: who listens, and when each file in a stage was last told of."""

    listener: Callable[[Part], object] | None = None
    lock = threading.Lock()
    last: dict[tuple[str, int], list[float]] = {}  # noqa: RUF012  of the process; each is [when, how often]


def listen(listener: Callable[[Part], object] | None) -> None:
    """Have ``listener`` hear what is told in this process from now on; None ends that. It may be called by any thread,
    and what it raises is nobody's trouble."""
    with _Telling.lock:
        _Telling.listener = listener
        _Telling.last.clear()


def listened() -> bool:
    """Whether anybody would hear."""
    return _Telling.listener is not None


def tell(stage: str, track: Track, share: float, text: Callable[[], str] | None = None) -> None:
    """A stage got on with a file: who listens hears of it, where that is due.

    Args:
        share: of the work that is done, 0 to 1.
        text: gives what is being done, in words; None says how much of the stage's work is done.
    """
    if _Telling.listener is None:
        return
    now = time.monotonic()
    with _Telling.lock:
        seen = _Telling.last.setdefault((stage, track.index), [now, 0])
        if now - seen[0] < EVERY_S:
            return
        seen[0], seen[1] = now, seen[1] + 1
    _say(stage, track, share, text)


def leave(stage: str, tracks: Iterable[Track]) -> None:
    """Files have left a stage: of those that were told of, it is done."""
    if _Telling.listener is None:
        return
    with _Telling.lock:
        told = [track for track in tracks if _Telling.last.pop((stage, track.index), [0.0, 0])[1]]
    for track in told:
        _say(stage, track, 1.0, lambda: f"{stage} done")


def _say(stage: str, track: Track, share: float, text: Callable[[], str] | None) -> None:
    with suppress(Exception):  # the job is not to pay for being watched
        words = text() if text is not None else f"{stage} {100 * share:.0f} %"
        name = file_name(track.uri)
        _Telling.listener(Part(track.index, stage, share, name=name, text=words, size_bytes=track.size_bytes))


class CountedReader:
    """A reader that says how far into the track each read goes.

    Args:
        reader: of the track.
        told: is called with the share of the track, 0 to 1.
    """

    def __init__(self, reader: AudioReader, told: Callable[[float], object]) -> None:
        self._reader, self._told = reader, told

    @property
    def channels(self) -> int:
        """See `AudioReader`."""
        return self._reader.channels

    @property
    def samples(self) -> int:
        """See `AudioReader`."""
        return self._reader.samples

    def read(self, start: int, stop: int) -> np.ndarray:
        """See `AudioReader`. What lies before ``start`` is done with."""
        self._told(start / max(1, self._reader.samples))
        return self._reader.read(start, stop)
