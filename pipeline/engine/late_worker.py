"""A worker that loads its networks only where there is something to do, and gives up a file that takes too long.

For stages that load seconds' worth of models: a run in which nothing but clips is stale has no need of those of the
stages before.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any

import numpy as np

from pipeline.audio.reader import PIECE
from pipeline.audio.views import View
from pipeline.engine.batch import Track
from pipeline.engine.hung import HungFiles
from pipeline.engine.passing import may_pass
from pipeline.engine.process import note_started
from pipeline.engine.time_limit import TimeLimit
from pipeline.engine.timing import StageClock
from pipeline.engine.worker import Worker


class LateWorker(Worker):
    """The base of such a worker: it calls `load_unless_idle` when it is made, and `load_once` before it works.

    Args:
        idle: nothing of the stage is planned in this run. It may turn up all the same, in a file that has changed.
        time_limit: seconds of wall time that it may take for a second of audio; 0 is no limit.
        hung: knows the files in which it hung before.
        common: see `pipeline.engine.worker.Worker`.
    """

    def __init__(
        self, *, idle: bool = False, time_limit: float = 0.0, hung: HungFiles | None = None, **common: Any
    ) -> None:
        super().__init__(**common)
        self._idle, self._loaded, self._loading = idle, False, threading.Lock()
        self._limit = TimeLimit(self.stage, time_limit, hung=hung)

    def load(self) -> None:
        """Load what the work needs. Raises what ends the run, such as `BackendUnavailable`."""
        raise NotImplementedError

    def load_unless_idle(self) -> None:
        """Load now, while other stages do the same, where there will be something to do."""
        if not self._idle:
            self._load()

    def load_once(self, clock: StageClock) -> None:
        """Load, where nobody has. It is no file's time."""
        if not self._loaded:
            began = time.perf_counter()
            self._load()
            took = time.perf_counter() - began
            clock.exclude(took)
            note_started(took)

    def _load(self) -> None:
        with self._loading:
            if not self._loaded:
                self.load()
                self._loaded = True

    def timed(self, track: Track) -> AbstractContextManager[None]:
        """Within it the stage is at work on a track, and `in_time` and `blocks` see to it that it ends."""
        return self._limit.of(track.index, track.duration_s or 0.0)

    def in_time(self, track: Track) -> None:
        """Raise `TookTooLong` where a track's time is up. Long steps ask in their midst: what does not ask hangs."""
        self._limit.check(track.index)

    def gets_on(self, track: Track, share: float) -> None:
        """Say how far the stage is with a track, 0 to 1, see `Worker.progress`. Raises `TookTooLong` as `in_time`."""
        self.in_time(track)
        self.progress(track, min(1.0, max(0.0, share)))

    def blocks(self, track: Track, view: View, piece: int = PIECE) -> Iterator[np.ndarray]:
        """See `Worker.blocks`. Raises `TookTooLong`, too."""
        for block in super().blocks(track, view, piece):
            self.in_time(track)
            yield block

    def one_by_one(
        self,
        tracks: Sequence[Track],
        product: str,
        work: Callable[[Track], None],
        undo: Callable[[Track], None] = lambda track: None,
    ) -> None:
        """See `Worker.one_by_one`; what may pass is tried again by the next run, see `may_pass`."""
        for track in tracks:
            try:
                with self.timed(track):
                    work(track)
            except Exception as error:  # noqa: BLE001  whatever it is, it is of this track
                undo(track)
                self.failed(track, product, error)

    def failed(self, track: Track, product: str, error: BaseException) -> None:
        """A product could not be computed of a track: for good, see `fail`, unless the error may pass."""
        if may_pass(error):
            timed = next(p.timed for p in self.products if p.name == product)
            track.fail(timed or self.stage, error)
        else:
            self.fail(track, product, error)
