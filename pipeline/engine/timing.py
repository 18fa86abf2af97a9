"""Where the seconds went: one clock per batch, whose shares add up to what was really spent."""

from __future__ import annotations

import os
import socket
import time
from dataclasses import dataclass, field

import pyarrow as pa

# What a stage writes into its `timings@<stage>` column; the sink adds asset_id and makes `timings` rows.
TIMING = pa.struct(
    [
        ("stage", pa.string()),
        ("device", pa.string()),
        ("backend", pa.string()),
        ("compute_s", pa.float64()),
        ("wait_s", pa.float64()),
        ("batch_items", pa.int32()),
        ("batch_audio_s", pa.float64()),
        ("padding_fraction", pa.float64()),
        ("gpu_peak_bytes", pa.int64()),
        ("cache_hit", pa.bool_()),
        ("node", pa.string()),
        ("pid", pa.int64()),
    ]
)

NODE = socket.gethostname()


@dataclass
class Cost:
    """What one asset cost in one stage, before shared time is handed out.

    ``compute_s`` is the time spent on this asset alone, and its share of batches that others have run: ``shared_s``.
    """

    stage: str
    compute_s: float = 0.0
    device: str = "cpu"
    backend: str = ""
    batch_items: int = 1
    batch_audio_s: float = 0.0
    padding_fraction: float = 0.0
    gpu_peak_bytes: int | None = None
    wait_s: float = 0.0
    cache_hit: bool = False
    shared_s: float = 0.0

    def struct(self) -> dict:
        """As a `TIMING` value."""
        return {
            "stage": self.stage,
            "device": self.device,
            "backend": self.backend,
            "compute_s": self.compute_s,
            "wait_s": self.wait_s,
            "batch_items": self.batch_items,
            "batch_audio_s": self.batch_audio_s,
            "padding_fraction": self.padding_fraction,
            "gpu_peak_bytes": self.gpu_peak_bytes,
            "cache_hit": self.cache_hit,
            "node": NODE,
            "pid": os.getpid(),
        }


@dataclass
class StageClock:
    """Measures one batch in one stage.

    Time spent on an asset alone goes to that asset; whatever else the batch took (table building, shared
    network passes) is split by audio seconds, so that the sum over assets is the time of the whole batch.
    """

    started: float = field(default_factory=time.perf_counter)
    wall_started: float = field(default_factory=time.time)
    excluded_s: float = 0.0

    def exclude(self, seconds: float) -> None:
        """Leave out what went into the work of other batches, or into waiting for them: theirs have it."""
        self.excluded_s += seconds

    def share_rest(self, costs: list[list[Cost]], audio_seconds: list[float]) -> None:
        """Hand out what the batch took beyond the costs already measured, in place.

        Args:
            costs: per asset, its costs in this stage (several for a stage of several extractors).
            audio_seconds: per asset, the weight of its share; equal shares where all are 0.
        """
        measured = sum(cost.compute_s - cost.shared_s for asset in costs for cost in asset)
        rest = max(0.0, time.perf_counter() - self.started - self.excluded_s - measured)
        weights = [s if asset else 0.0 for s, asset in zip(audio_seconds, costs, strict=True)]
        if sum(weights) <= 0:
            weights = [1.0 if asset else 0.0 for asset in costs]
        total = sum(weights)
        if total <= 0:
            return
        for weight, asset in zip(weights, costs, strict=True):
            for cost in asset:
                cost.compute_s += rest * weight / total / len(asset)
