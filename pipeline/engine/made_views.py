"""Views that a stage has made of tracks too long to travel: temporary files, handed from worker to worker in a process.

A maker and the stages that read its views share a process (`pipeline.engine.declare.Pipeline.groups`), so nothing of a
long track crosses from one process to another, and of ten hours only the file is there.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

import numpy as np

from pipeline.audio.reader import AudioReader, Spool
from pipeline.audio.views import View
from pipeline.engine.batch import Track

_lock = threading.Lock()
_spools: dict[tuple[int, View], Spool] = {}


def put_spooled(index: int, view: View, spool: Spool) -> None:
    """Keep the samples of a view of the file with this number, until `forget_spooled`."""
    with _lock:
        before = _spools.pop((index, view), None)
        _spools[index, view] = spool
    if before is not None:
        before.close()


def take_spooled(index: int, view: View) -> AudioReader | None:
    """The samples that were kept; None where there are none."""
    with _lock:
        return _spools.get((index, view))


def forget_spooled(wanted: Callable[[int, View], bool]) -> None:
    """Close and remove the files of those views that ``wanted`` is true of."""
    with _lock:
        gone = [key for key in _spools if wanted(*key)]
        spools = [_spools.pop(key) for key in gone]
    for spool in spools:
        spool.close()


class MadeView:
    """A view that a stage is making of a track: written block by block, and handed on by `done`.

    What fits travels with the track; of one that is too long to travel it lies in a temporary file.

    Args:
        channels: of the blocks.
        sample_rate: Hz.
    """

    def __init__(self, track: Track, view: View, channels: int, sample_rate: int) -> None:
        self._track, self._view, self._rate = track, view, sample_rate
        self._channels = channels
        self._spool = Spool(channels) if track.long else None
        self._blocks: list[np.ndarray] = []

    def write(self, block: np.ndarray) -> int:
        """Append float ``[channels, n]``; returns n."""
        if self._spool is not None:
            self._spool.write(block)
        else:
            self._blocks.append(np.array(block, np.float32))
        return block.shape[1]

    def done(self) -> None:
        """Give it to the stages that read it."""
        if self._spool is not None:
            put_spooled(self._track.index, self._view, self._spool)
            return
        audio = np.concatenate(self._blocks, axis=1) if self._blocks else np.empty((self._channels, 0))
        self._track.make(self._view.name, audio, self._rate)
