"""CLAP embeddings: windows of all tracks of a block share batches."""

from __future__ import annotations

import time
from contextlib import ExitStack
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from pipeline.dataset.cache.entry import DamagedEntry, Entry
from pipeline.dataset.tables.schemas import CLAP, CLAP_SIMILARITY
from pipeline.engine.batch import Track, add_stage, tracks_of
from pipeline.engine.keys import clap_key
from pipeline.engine.process import note_extra, start_torch
from pipeline.engine.results import Results
from pipeline.engine.source_file import Fetcher
from pipeline.engine.timing import Cost, StageClock
from pipeline.models.clap.embed import ClapEmbedder, EmbedReport, TrackWindows
from pipeline.models.clap.text import TextQueries
from pipeline.models.clap.tower import CLIP_SECONDS, SAMPLE_RATE

NAME = "clap"
CLIPS = 16
"""In a batch, where nothing else is asked for."""
SEGMENT = pa.struct(
    [
        ("segment_index", pa.int32()),
        ("start_s", pa.float64()),
        ("end_s", pa.float64()),
        ("clap_embedding", pa.list_(pa.float32())),
        ("rms_dbfs", pa.float32()),
    ]
)
FIELDS = (
    *CLAP,
    CLAP_SIMILARITY,
    pa.field("segments", pa.list_(SEGMENT)),
    pa.field(f"key@{NAME}", pa.string()),
)
_NAMES = tuple(f.name for f in FIELDS if not f.name.startswith("key@"))


class ClapStage:
    """Fills the ``clap_*`` columns and the ``segments`` of a track.

    Several tables may be worked on at once, each in a thread of its own: their windows share batches.

    Args:
        checkpoint: as `pipeline.models.clap.checkpoint.read_checkpoint` takes it.
        window_seconds, hop_seconds, amp: as in the config.
        max_batch_audio_seconds: as in the config; 0 takes ``batch_items`` on a GPU, or else 160.
        batch_items: clips of 10 s in a batch on a GPU.
        compile: whether the network is compiled, on a GPU.
        aggregate: ``mean``, ``weighted`` or ``robust``.
        device: ``cpu`` or ``cuda``.
        threads, seed: of torch in this process.
        queries: texts to compare each track with.
        storage_options: of the source, for the tracks that are too long to travel.
        drop: names of the columns nobody reads after this stage.
        results: the result cache.
    """

    def __init__(
        self,
        checkpoint: str,
        window_seconds: float = 10.0,
        hop_seconds: float = 5.0,
        aggregate: str = "mean",
        max_batch_audio_seconds: float = 0.0,
        batch_items: int = 0,
        compile: bool = False,
        amp: str | bool = "auto",
        device: str = "cpu",
        threads: int = 1,
        seed: int = 0,
        queries: TextQueries | None = None,
        storage_options: dict[str, Any] | None = None,
        drop: frozenset[str] = frozenset(),
        results: Results | None = None,
    ) -> None:
        self.device, moved = start_torch(NAME, device, threads, seed)
        clips = batch_items if self.device == "cuda" and batch_items else CLIPS
        max_batch_audio_seconds = max_batch_audio_seconds or clips * CLIP_SECONDS
        self.embedder = ClapEmbedder(
            checkpoint, self.device, amp, max_batch_audio_seconds, window_seconds, hop_seconds, compile
        )
        self.aggregate = aggregate
        self.queries = queries
        self.fetcher = Fetcher(storage_options)
        self.drop = drop | {f"cached@{NAME}"}
        self.results = results
        # What another device computed than the key says would differ in its last bits.
        self.keeps = results is not None and self.device == device
        self.key = clap_key(self.embedder.info.sha256, window_seconds, hop_seconds, aggregate, amp, queries)
        self.embedder.warm_up()
        self.fallbacks = [*moved, *self.embedder.fallbacks]

    def __call__(self, table: pa.Table) -> pa.Table:
        """The table with CLAP's columns; rows without audio get nulls."""
        clock = StageClock()
        tracks = tracks_of(table)
        with ExitStack() as stack:
            wanted = [t for t in tracks if t.can_have(NAME) and t.wants(NAME)]
            computed = [t for t in wanted if not self._recalled(t)]
            heard, readers = self.fetcher.readers(computed, NAME, "clap", SAMPLE_RATE, stack)
            results, report = self.embedder.embed_tracks(readers)
        clock.exclude(report.elsewhere_s)
        for track in computed:
            if track.failures:  # not heard
                track.costs.append(Cost(NAME, device=self.device))
        for number, (track, result) in enumerate(zip(heard, results, strict=True)):
            self._store(track, result, self._cost(report, number))
            track.fallbacks.extend(result.fallbacks)
            # After such a step it may be another device's result.
            if self.keeps and not result.fallbacks and not track.failures:
                values = {name: track.values[name] for name in _NAMES if name in track.values}
                self.results.put(track, NAME, Entry(values, backend=self.embedder.backend))
        if self.results is not None:
            self.results.settle(tracks)
        if self.device == "cuda":
            note_extra(self.embedder.pool.spent())
        return add_stage(table, tracks, NAME, FIELDS, clock, drop=self.drop.__contains__)

    def _recalled(self, track: Track) -> bool:
        """Fill in what the cache has of a track; false where it has nothing."""
        if NAME not in track.cached:
            return False
        started = time.perf_counter()
        cost = Cost(NAME, device=self.device, batch_audio_s=track.duration_s or 0.0, cache_hit=True)
        track.costs.append(cost)
        try:
            entry = self.results.take(track, NAME)
        except DamagedEntry as error:
            track.fail(NAME, error)
        else:
            cost.backend = entry.backend
            track.fallbacks.extend(self.fallbacks)
            track.values.update({name: entry.values[name] for name in _NAMES if name in entry.values})
            track.values[f"key@{NAME}"] = self.key
        cost.compute_s = time.perf_counter() - started
        return True

    def _cost(self, report: EmbedReport, number: int) -> Cost:
        spent = report.tracks[number]
        cost = Cost(NAME, spent.compute_s, self.device, self.embedder.backend, shared_s=spent.shared_s)
        if spent.batch is not None:
            cost.batch_items = spent.batch.items
            cost.batch_audio_s = spent.batch.audio_s
            cost.padding_fraction = spent.batch.padding_fraction
        if self.device == "cuda":
            cost.gpu_peak_bytes = torch.cuda.max_memory_allocated()
        return cost

    def _store(self, track: Track, result: TrackWindows, cost: Cost) -> None:
        track.costs.append(cost)
        track.fallbacks.extend(self.fallbacks)
        if result.error is not None:
            track.fail(NAME, result.error, key=self.key)
            return
        embedding = _as_float32(result.aggregate(self.aggregate))
        if embedding is not None and self.queries is not None:
            track.values["clap_similarity"] = self.queries.similarity(embedding)
        track.values.update(
            clap_embedding=embedding,
            clap_windows=sum(w.embedding is not None for w in result.windows),
            clap_aggregate=self.aggregate,
            clap_model=self.embedder.model_id,
            segments=[
                {
                    "segment_index": index,
                    "start_s": w.start_s,
                    "end_s": w.end_s,
                    "clap_embedding": w.embedding,
                    "rms_dbfs": w.rms_dbfs if w.embedding is not None else None,
                }
                for index, w in enumerate(result.windows)
            ],
        )
        track.values[f"key@{NAME}"] = self.key


def _as_float32(vector: np.ndarray | None) -> np.ndarray | None:
    return None if vector is None else vector.astype(np.float32)
