"""Beats of music: the networks hear the tracks of a block together."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import numpy as np

from pipeline.audio.reader import AudioReader
from pipeline.dataset.cache.entry import Entry
from pipeline.engine.batch import Track
from pipeline.engine.timing import Cost, StageClock
from pipeline.engine.worker import Worker
from pipeline.models.beats.heard import Heard
from pipeline.models.beats.names import BeatOptions
from pipeline.models.beats.network import load_ensemble
from pipeline.models.beats.rhythm import Beats
from pipeline.models.beats.tracker import BeatTracker
from pipeline.stages.beats.spec import NAME, VIEW, beats_key, beats_product

HEARING = 0.8
"""Share of the work that is not decoding."""


class BeatsWorker(Worker):
    """Fills the ``beats_*`` columns of a track.

    Args:
        options: meters and tempi that are considered.
        common: see `pipeline.engine.worker.Worker`.

    Raises:
        UserError: the weights are missing or damaged.
    """

    says_how_far = True

    def __init__(self, options: BeatOptions | None = None, **common: Any) -> None:
        super().__init__(**{"stage": NAME, "products": (beats_product(),), **common})
        options = options or BeatOptions()
        ensemble = load_ensemble(self.device)
        self.model_id = ensemble.model_id
        self.tracker = BeatTracker(ensemble, options)
        self.settle_key(NAME, lambda: beats_key(ensemble.model_id, options))
        self.tracker.warm_up()

    def process(self, tracks: Sequence[Track], clock: StageClock) -> None:
        """Find the beats of all ``tracks``."""
        with ExitStack() as stack:
            there, readers = self.readers(tracks, VIEW, stack)
            try:
                heard = self.tracker.hear(readers, lambda n, share: self._progress(there[n], share))
            except Exception:  # noqa: BLE001  each alone: one's trouble must not cost its neighbours
                self.one_by_one(there, NAME, self._alone(dict(zip(map(id, there), readers, strict=True))))
                return
            found = dict(zip(map(id, there), zip(readers, heard, strict=True), strict=True))
            self.one_by_one(there, NAME, lambda track: self._decode(track, *found.pop(id(track))))
        for track in there:
            cost = Cost(
                NAME, 0.0, self.device, self.tracker.backend, min(len(there), self.tracker.batch_tracks)
            )
            cost.batch_audio_s = track.duration_s or 0.0
            track.costs.append(cost)

    def _alone(self, readers: dict[int, AudioReader]) -> Any:
        def find(track: Track) -> None:
            reader = readers[id(track)]
            [heard] = self.tracker.hear([reader], lambda _, share: self._progress(track, share))
            self._decode(track, reader, heard)

        return find

    def _progress(self, track: Track, share: float) -> None:
        self.progress(track, HEARING * share)

    def _decode(self, track: Track, reader: AudioReader, heard: Heard) -> None:
        self._store(track, self.tracker.beats(reader, heard))

    def _store(self, track: Track, beats: Beats) -> None:
        track.fallbacks.extend(self.standing)
        there = beats.bpm is not None
        track.values |= {
            "beats_bpm": beats.bpm,
            "beats_bpm_confidence": beats.bpm_confidence,
            "beats_s": _listed(beats.beats) if there else None,
            "downbeats_s": _listed(beats.downbeats) if there else None,
            "beats_meter": beats.meter,
            "beats_stability": beats.stability,
            "beats_second_bpm": beats.second_bpm,
            "beats_second_odds": beats.second_odds,
            "beats_strength": beats.strength,
            "beats_model": self.model_id,
        }
        self.done(track, NAME, Entry(dict(track.values), backend=self.tracker.backend))


def _listed(times: np.ndarray) -> list[float]:
    return [float(time) for time in times]
