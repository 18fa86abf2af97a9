"""Tags of music: patches of all tracks of a block share batches."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import torch

from pipeline.dataset.cache.entry import Entry
from pipeline.engine.batch import Track
from pipeline.engine.timing import Cost, StageClock
from pipeline.engine.worker import Worker
from pipeline.models.tags.names import NAMES, NETWORKS, THRESHOLD
from pipeline.models.tags.tagger import BATCH_PATCHES, Tagger, TrackCost, TrackTags, padding_fraction
from pipeline.models.window_pool import Call
from pipeline.stages.tags.spec import NAME, VIEW, tags_key, tags_product


class TagsWorker(Worker):
    """Fills the ``tags_*`` columns and the ``tag_segments`` of a track.

    Several tables may be worked on at once, each in a thread of its own: their patches share batches.

    Args:
        threshold, segments, amp: as in the config.
        batch_items: patches in a batch; 0 takes `BATCH_PATCHES`.
        common: see `pipeline.engine.worker.Worker`.
    """

    def __init__(
        self,
        *,
        threshold: float = THRESHOLD,
        segments: bool = False,
        amp: str | bool = "auto",
        batch_items: int = 0,
        **common: Any,
    ) -> None:
        super().__init__(**{"stage": NAME, "products": (tags_product(segments=segments),), **common})
        self.threshold, self.segments = threshold, segments
        self.tagger = Tagger(
            self.device, amp, batch_items=batch_items or BATCH_PATCHES, keep_patches=segments
        )
        self.settle_key(NAME, lambda: tags_key(self.tagger.model_id, threshold, segments, amp))
        self.tagger.warm_up()
        self.standing = [*self.standing, *self.tagger.fallbacks]

    def process(self, tracks: Sequence[Track], clock: StageClock) -> None:
        """Tag the patches of all ``tracks``, with those of other calls."""
        call = Call()
        with ExitStack() as stack:
            heard, readers = self.readers(tracks, VIEW, stack)
            results, costs = self.tagger.tag_tracks(readers, call)
        clock.exclude(call.elsewhere_s)
        for track in tracks:
            if track.failures:  # not heard
                track.costs.append(Cost(NAME, device=self.device))
        for track, result, cost in zip(heard, results, costs, strict=True):
            track.costs.append(self._cost(cost))
            self._store(track, result)

    def usage(self) -> dict[str, Any]:
        """Where the seconds of this process went, on a GPU."""
        return self.tagger.pool.spent() if self.device == "cuda" else {}

    def _cost(self, spent: TrackCost) -> Cost:
        cost = Cost(NAME, spent.compute_s, self.device, self.tagger.backend, shared_s=spent.shared_s)
        if spent.batch is not None:
            cost.batch_items = spent.batch.items
            cost.batch_audio_s = spent.batch.audio_s
            cost.padding_fraction = padding_fraction(spent.batch)
        if self.device == "cuda":
            cost.gpu_peak_bytes = torch.cuda.max_memory_allocated()
        return cost

    def _store(self, track: Track, result: TrackTags) -> None:
        track.fallbacks.extend([*self.standing, *result.fallbacks])
        if isinstance(result.error, OSError):  # a disk that is away is tried again by the next run
            track.fail(NAME, result.error)
            return
        if result.error is not None:
            self.fail(track, NAME, result.error)
            return
        tags = {f"tags_{network}": result.tags(network) for network in NETWORKS}
        track.values |= tags
        track.values |= {
            "tags_top": top_tags({n: tags[f"tags_{n}"] for n in NETWORKS}, self.threshold),
            "tags_embedding": result.embedding(),
            "tags_patches": result.heard,
            "tags_segments": len(result.patches),
            "tags_model": self.tagger.model_id,
        }
        if self.segments:
            track.rows["tag_segments"] = [
                {
                    "patch_index": index,
                    "start_s": patch.start_s,
                    "end_s": patch.end_s,
                    "tags_mtt": patch.mtt,
                    "tags_msd": patch.msd,
                    "tags_embedding": patch.embedding,
                }
                for index, patch in enumerate(result.patches)
            ]
        # After such a step it may be another device's result.
        whole = not result.fallbacks and not track.failures
        entry = Entry({**track.values, **track.rows}, backend=self.tagger.backend)
        self.done(track, NAME, entry if whole else None)


def top_tags(probabilities: dict[str, Any], threshold: float) -> list[str] | None:
    """The tags that are at least so probable in either network, the most probable first, each once.

    Args:
        probabilities: network → ``[50]``, or None where there are none.

    Returns:
        names; None where there are no probabilities.
    """
    best: dict[str, float] = {}
    for network, values in probabilities.items():
        if values is None:
            return None
        for name, value in zip(NAMES[network], values, strict=True):
            best[name] = max(best.get(name, 0.0), float(value))
    return sorted((name for name, value in best.items() if value >= threshold), key=lambda name: -best[name])
