"""Who speaks when in each recording: heard in one pass, and put together once for all of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from pipeline.dataset.cache.entry import Entry
from pipeline.engine.batch import Track
from pipeline.engine.late_worker import LateWorker
from pipeline.engine.timing import Cost, StageClock
from pipeline.models.speech.diarize import load_backend
from pipeline.speech.clustering import SpeakerCounts
from pipeline.speech.segments import overlaps, total_s
from pipeline.stages.diarize.spec import NAME
from pipeline.stages.diarize.turns import turns_of
from pipeline.stages.vad.spec import VIEW


class DiarizeWorker(LateWorker):
    """Fills the ``diarize_*`` columns and the tables of turns and speakers.

    Args:
        backend: its name.
        options: of `SpeakerCounts`.
        source: the folder or the name on the hub of its model; None is its own.
        common: see `pipeline.engine.late_worker.LateWorker`.

    Raises:
        BackendUnavailable: it cannot run here.
    """

    def __init__(
        self, backend: str, options: Mapping[str, Any], source: str | None = None, **common: Any
    ) -> None:
        super().__init__(**{"stage": NAME, **common})
        self.backend, self.source, self.counts = backend, source, SpeakerCounts(**options)
        self.load_unless_idle()

    def load(self) -> None:
        """Load the networks."""
        self.diarizer = load_backend(self.backend, self.device, self.source)

    def process(self, tracks: Sequence[Track], clock: StageClock) -> None:
        """Tell the voices of each track apart."""
        self.load_once(clock)
        self.one_by_one(tracks, NAME, self._diarize)

    def _diarize(self, track: Track) -> None:
        stream = self.diarizer.stream(**asdict(self.counts))
        for block in self.blocks(track, VIEW):
            stream.push(block[0])
        heard = stream.finish()
        self.in_time(track)
        found = turns_of(heard, self.counts)
        turns = found.turns()
        spoken = total_s(turns)
        track.values.update(
            diarize_turns=len(turns),
            diarize_speakers=len(found.names),
            diarize_overlap_share=total_s(overlaps(turns)) / spoken if spoken else None,
            diarize_backend=self.diarizer.name,
            diarize_model=f"{self.diarizer.version}:{self.diarizer.model_id()}",
        )
        track.rows["turns"] = [{"turn_index": number, **vars(turn)} for number, turn in enumerate(turns)]
        track.rows["speakers"] = [
            {"speaker": name, "seconds": seconds, "centroid": centroid if np.any(centroid) else None}
            for name, seconds, centroid in zip(
                found.names, found.seconds.tolist(), found.centroids, strict=True
            )
        ]
        cost = Cost(
            NAME, device=self.device, backend=self.diarizer.name, batch_audio_s=track.duration_s or 0.0
        )
        track.costs.append(cost)
        self.done(track, NAME, Entry({**track.values, **track.rows}, backend=self.diarizer.name))
