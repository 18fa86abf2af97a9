"""Recordings without their noise: a file of each, and a view with a limited part taken away."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from typing import Any

import numpy as np

from pipeline.audio.encode import write_flac24
from pipeline.audio.reader import Spool
from pipeline.audio.resample import StreamResampler
from pipeline.audio.views import View
from pipeline.dataset.output import Output
from pipeline.engine.batch import Track
from pipeline.engine.late_worker import LateWorker
from pipeline.engine.made_views import MadeView
from pipeline.engine.scratch import scratch_folder
from pipeline.engine.timing import Cost, StageClock
from pipeline.engine.uploading import uploaded
from pipeline.models.speech.denoise.choose import load_backend
from pipeline.stages.denoise.spec import DENOISED, FILES, NAME


class DenoiseWorker(LateWorker):
    """Fills the ``denoise_*`` columns, writes the files and makes the view.

    Args:
        backend: its name.
        view: that it hears.
        limit_db: the most that is taken away in the file, dB; None is all that the backend would.
        view_limit_db: the same of the view.
        output: where the files go.
        common: see `pipeline.engine.late_worker.LateWorker`.

    Raises:
        BackendUnavailable: it cannot run here.
        ValueError: there is no ``output``.
    """

    def __init__(
        self,
        backend: str,
        view: View,
        *,
        limit_db: float | None = None,
        view_limit_db: float | None = None,
        output: Output | None = None,
        **common: Any,
    ) -> None:
        if output is None:
            raise ValueError("denoised recordings are to be written and there is no output")
        super().__init__(**{"stage": NAME, **common})
        self.backend, self.view, self.output = backend, view, output
        self.limit_db, self.view_limit_db = limit_db, view_limit_db
        self.load_unless_idle()

    def load(self) -> None:
        """Load the network."""
        self.denoiser = load_backend(self.backend, self.device, self.threads)

    def process(self, tracks: Sequence[Track], clock: StageClock) -> None:
        """Denoise each track."""
        self.load_once(clock)
        self.one_by_one(tracks, NAME, self._work_on, self._take_back)

    def _work_on(self, track: Track) -> None:
        if NAME in track.due:
            self._write(track)
        if track.makes:
            try:
                self._make(track)
            except Exception as error:  # noqa: BLE001  whatever it is, the file that was written stands
                track.fail(NAME, error)

    def _take_back(self, track: Track) -> None:
        for blob in track.blobs:
            self.output.discard(blob.path)
        track.values, track.blobs = {}, []

    def _denoised(self, track: Track, limit_db: float | None) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Block by block what is heard ``[n]`` and what is done by then ``[m]``: both add up to the same length."""
        stream = self.denoiser.stream(limit_db=limit_db)
        for block in self.blocks(track, self.view):
            yield block[0], stream.push(block[0])
        yield np.empty(0, np.float32), stream.finish()

    def _write(self, track: Track) -> None:
        rate, before, after = self.denoiser.sample_rate, 0.0, 0.0
        with ExitStack() as stack:
            spool = Spool(1)
            stack.callback(spool.close)
            for heard, clean in self._denoised(track, self.limit_db):
                before += float(np.square(heard, dtype=np.float64).sum())
                after += float(np.square(clean, dtype=np.float64).sum())
                spool.write(clean[None])
            folder = stack.enter_context(scratch_folder())
            path = folder / f"{self.key_of(track, NAME)}-denoised.flac"
            with path.open("wb") as out:
                gain = write_flac24(spool, spool.peak, rate, out)
            target = FILES.path(track.asset_id, path.name)
            track.blobs.append(uploaded(self.output, target, NAME, [1, spool.samples], path))
        track.values.update(
            denoise_file=track.blobs[-1].path,
            denoise_gain_db=gain,
            denoise_sample_rate=rate,
            denoise_change_db=10.0 * math.log10(after / before) if before and after else None,
            denoise_backend=self.denoiser.name,
            denoise_model=f"{self.denoiser.version}:{self.denoiser.model_id()}",
        )
        track.costs.append(Cost(NAME, backend=self.denoiser.name, batch_audio_s=track.duration_s or 0.0))
        self.done(track, NAME)

    def _make(self, track: Track) -> None:
        made = MadeView(track, DENOISED, 1, DENOISED.sample_rate)
        stream = StreamResampler(self.denoiser.sample_rate, DENOISED.sample_rate, 1)
        for _, clean in self._denoised(track, self.view_limit_db):
            made.write(stream.push(clean[None], last=False))
        made.write(stream.push(np.empty((1, 0), np.float32), last=True))
        made.done()
