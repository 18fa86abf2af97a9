"""The same stage on a CPU and on a GPU: from the rows of ``timings``, or from another run of the same output."""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import KW_ONLY, dataclass
from typing import Any

import numpy as np
import pyarrow.compute as pc

from pipeline.dataset.output import Output
from pipeline.dataset.verify.runs import run_ids
from pipeline.report.overview import Overview
from pipeline.report.table_reading import identities, numbers, scan

# Other runs that are looked at, the newest.
_RUNS = 20


@dataclass(frozen=True)
class StageCost:
    """What a stage took on a device.

    Args:
        rows: tracks.
        compute_s: wall time in the stage.
        audio_s: of these tracks.
        source: where it was measured.
    """

    stage: str
    device: str
    rows: int
    compute_s: float
    audio_s: float
    _: KW_ONLY
    source: str

    @property
    def real_time_factor(self) -> float:
        """Seconds of audio per second of compute."""
        return self.audio_s / self.compute_s


@dataclass(frozen=True)
class Comparison:
    """A stage on both devices."""

    stage: str
    cpu: StageCost
    gpu: StageCost


def compare(output: Output, found: Overview, performance: dict[str, Any]) -> list[Comparison]:
    """Stages that were computed on a CPU and on a GPU; results from the cache do not count."""
    runs = [performance, *_other_runs(output, performance["run_id"])]
    if not any(s.get("device") == "cuda" for run in runs for s in run["stages"].values()):
        return []
    costs: dict[str, dict[str, StageCost]] = defaultdict(dict)
    for cost in _costs_of_timings(output, found):
        costs[cost.stage][cost.device] = cost
    for run in runs:
        for name, stage in run["stages"].items():
            cost = _cost_of_run(name, stage, run)
            if cost is not None:
                costs[name].setdefault(cost.device, cost)
    return [
        Comparison(name, of["cpu"], of["cuda"]) for name, of in costs.items() if {"cpu", "cuda"} <= set(of)
    ]


def _other_runs(output: Output, run_id: str) -> list[dict[str, Any]]:
    """``performance.json`` of the newest other runs."""
    others = [run for run in run_ids(output) if run != run_id][-_RUNS:]
    found = []
    for run in reversed(others):
        try:
            numbers = json.loads(output.read(f"runs/{run}/performance.json"))
            if isinstance(numbers["stages"], dict):
                found.append(numbers)
        except (FileNotFoundError, ValueError, TypeError, KeyError):
            continue
    return found


def _cost_of_run(name: str, stage: dict[str, Any], run: dict[str, Any]) -> StageCost | None:
    seconds, factor = stage.get("compute_s"), stage.get("real_time_factor")
    if not seconds or not factor or stage.get("cache_hits") or stage.get("device") not in ("cpu", "cuda"):
        return None
    return StageCost(
        name, stage["device"], stage["rows"], seconds, factor * seconds, source=f"run {run['run_id']}"
    )


def _costs_of_timings(output: Output, found: Overview) -> list[StageCost]:
    """Per stage and device, summed over ``timings``, with the durations that ``tracks`` holds."""
    order = np.argsort(found.ids)
    ids, durations = found.ids[order], found.values["duration_s"][order]
    sums: dict[tuple[str, str], np.ndarray] = defaultdict(lambda: np.zeros(3))
    columns = ["asset_id", "stage", "device", "compute_s", "cache_hit"]
    for rows, _ in scan(output, output.parts("timings"), columns):
        rows = rows.filter(pc.invert(pc.fill_null(rows["cache_hit"], False)))
        if not rows.num_rows or not len(ids):
            continue
        wanted = identities(rows)
        places = np.minimum(np.searchsorted(ids, wanted), len(ids) - 1)
        audio = np.where(ids[places] == wanted, np.nan_to_num(durations[places]), 0.0)
        seconds = np.nan_to_num(numbers(rows, "compute_s"))
        names = pc.binary_join_element_wise(
            rows["stage"].fill_null(""), rows["device"].fill_null(""), "\n"
        ).dictionary_encode()
        codes = names.combine_chunks()
        codes = codes.chunk(0) if hasattr(codes, "chunk") else codes
        for code, name in enumerate(codes.dictionary.to_pylist()):
            these = codes.indices.to_numpy() == code
            stage, _, device = name.partition("\n")
            sums[stage, device] += these.sum(), seconds[these].sum(), audio[these].sum()
    return [
        StageCost(stage, device, int(rows), float(compute), float(audio), source="timings")
        for (stage, device), (rows, compute, audio) in sums.items()
        if compute > 0 and audio > 0
    ]
