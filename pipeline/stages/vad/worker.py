"""Voice activity of each recording, in one pass and bounded memory."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.dataset.cache.entry import Entry
from pipeline.engine.batch import Track
from pipeline.engine.late_worker import LateWorker
from pipeline.engine.timing import Cost, StageClock
from pipeline.models.speech.voice_activity.activity import ActivityOptions
from pipeline.models.speech.voice_activity.choose import load_backend
from pipeline.stages.vad.spec import NAME, VIEW


class VadWorker(LateWorker):
    """Fills the ``vad_*`` columns and the table of regions.

    Args:
        backend: its name.
        options: of `ActivityOptions`.
        choice: why it is this backend.
        common: see `pipeline.engine.late_worker.LateWorker`.

    Raises:
        BackendUnavailable: it cannot run here.
    """

    def __init__(self, backend: str, options: Mapping[str, Any], *, choice: str = "", **common: Any) -> None:
        super().__init__(**{"stage": NAME, **common})
        self.backend, self.options, self.choice = backend, ActivityOptions(**options), choice
        self.load_unless_idle()

    def load(self) -> None:
        """Load the network."""
        self.detector = load_backend(self.backend, self.options, self.threads)

    def process(self, tracks: Sequence[Track], clock: StageClock) -> None:
        """Find the regions of each track."""
        self.load_once(clock)
        self.one_by_one(tracks, NAME, self._listen)

    def _listen(self, track: Track) -> None:
        stream = self.detector.stream()
        for block in self.blocks(track, VIEW):
            stream.push(block[0])
        regions = stream.finish()
        duration = track.duration_s or 0.0
        speech = math.fsum(end - start for start, end in regions.tolist())
        track.values.update(
            vad_regions=len(regions),
            vad_speech_s=speech,
            vad_speech_share=min(1.0, speech / duration) if duration else None,
            vad_backend=self.detector.name,
            vad_choice=self.choice,
            vad_model=f"{self.detector.version}:{self.detector.model_id()}",
        )
        track.rows["regions"] = [
            {"region_index": n, "start_s": start, "end_s": end}
            for n, (start, end) in enumerate(regions.tolist())
        ]
        track.costs.append(Cost(NAME, backend=self.detector.name, batch_audio_s=duration))
        self.done(track, NAME, Entry({**track.values, **track.rows}, backend=self.detector.name))
