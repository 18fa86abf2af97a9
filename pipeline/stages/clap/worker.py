"""CLAP embeddings: windows of all tracks of a block share batches."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import numpy as np
import torch

from pipeline.dataset.cache.entry import Entry
from pipeline.engine.batch import Track
from pipeline.engine.timing import Cost, StageClock
from pipeline.engine.worker import Worker
from pipeline.models.clap.clips import CLIP_SECONDS
from pipeline.models.clap.defaults import BATCH_CLIPS, HOP_SECONDS, WINDOW_SECONDS
from pipeline.models.clap.embed import ClapEmbedder, EmbedReport, TrackWindows
from pipeline.models.clap.text import TextQueries
from pipeline.stages.clap.spec import NAME, VIEW, clap_key, clap_product


class ClapWorker(Worker):
    """Fills the ``clap_*`` columns and the ``segments`` of a track.

    Several tables may be worked on at once, each in a thread of its own: their windows share batches.

    Args:
        checkpoint: as `pipeline.models.clap.checkpoint.read_checkpoint` takes it.
        window_seconds, hop_seconds, aggregate, amp: as in the config.
        max_batch_audio_seconds: as in the config; 0 takes ``batch_items`` on a GPU, or else `BATCH_CLIPS`.
        batch_items: clips of 10 s in a batch on a GPU.
        compile: whether the network is compiled, on a GPU.
        queries: texts to compare each track with.
        common: see `pipeline.engine.worker.Worker`.
    """

    def __init__(
        self,
        checkpoint: str,
        *,
        window_seconds: float = WINDOW_SECONDS,
        hop_seconds: float = HOP_SECONDS,
        aggregate: str = "mean",
        max_batch_audio_seconds: float = 0.0,
        batch_items: int = 0,
        compile: bool = False,
        amp: str | bool = "auto",
        queries: TextQueries | None = None,
        **common: Any,
    ) -> None:
        texts = queries.texts if queries is not None else ()
        super().__init__(**{"stage": NAME, "products": (clap_product(texts=texts),), **common})
        clips = batch_items if self.device == "cuda" and batch_items else BATCH_CLIPS
        max_batch_audio_seconds = max_batch_audio_seconds or clips * CLIP_SECONDS
        self.embedder = ClapEmbedder(
            checkpoint,
            self.device,
            amp,
            max_batch_audio_seconds=max_batch_audio_seconds,
            window_seconds=window_seconds,
            hop_seconds=hop_seconds,
            compile=compile,
        )
        self.aggregate = aggregate
        self.queries = queries
        sha256 = self.embedder.info.sha256
        self.settle_key(
            NAME, lambda: clap_key(sha256, window_seconds, hop_seconds, aggregate, amp, queries=queries)
        )
        self.embedder.warm_up()
        self.standing = [*self.standing, *self.embedder.fallbacks]

    def process(self, tracks: Sequence[Track], clock: StageClock) -> None:
        """Embed the windows of all ``tracks``, with those of other calls."""
        with ExitStack() as stack:
            heard, readers = self.readers(tracks, VIEW, stack)
            results, report = self.embedder.embed_tracks(readers)
        clock.exclude(report.elsewhere_s)
        for track in tracks:
            if track.failures:  # not heard
                track.costs.append(Cost(NAME, device=self.device))
        for number, (track, result) in enumerate(zip(heard, results, strict=True)):
            self._store(track, result, self._cost(report, number))

    def usage(self) -> dict[str, Any]:
        """Where the seconds of this process went, on a GPU."""
        return self.embedder.pool.spent() if self.device == "cuda" else {}

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
        track.fallbacks.extend(self.standing)
        if result.error is not None:
            track.fail(NAME, result.error, key=self.key(NAME))
            track.fallbacks.extend(result.fallbacks)
            return
        embedding = _as_float32(result.aggregate(self.aggregate))
        if embedding is not None and self.queries is not None:
            track.values["clap_similarity"] = self.queries.similarity(embedding)
        track.values.update(
            clap_embedding=embedding,
            clap_windows=sum(w.embedding is not None for w in result.windows),
            clap_aggregate=self.aggregate,
            clap_model=self.embedder.model_id,
        )
        track.rows["segments"] = [
            {
                "segment_index": index,
                "start_s": w.start_s,
                "end_s": w.end_s,
                "clap_embedding": w.embedding,
                "rms_dbfs": w.rms_dbfs if w.embedding is not None else None,
            }
            for index, w in enumerate(result.windows)
        ]
        track.fallbacks.extend(result.fallbacks)
        # After such a step it may be another device's result.
        whole = not result.fallbacks and not track.failures
        self.done(
            track,
            NAME,
            Entry({**track.values, **track.rows}, backend=self.embedder.backend) if whole else None,
        )


def _as_float32(vector: np.ndarray | None) -> np.ndarray | None:
    return None if vector is None else vector.astype(np.float32)
