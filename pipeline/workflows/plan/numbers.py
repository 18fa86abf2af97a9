"""What a dry run found out, as ``plan.json`` holds it."""

from __future__ import annotations

import dataclasses
import datetime
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any

import numpy as np

from pipeline.dataset.sources.sampling import CONFIDENCE, Range
from pipeline.dataset.storage import public_uri
from pipeline.report.money import cost
from pipeline.workflows.job import Found
from pipeline.workflows.plan.advice import advise, command
from pipeline.workflows.plan.cost import UNMODELLED, Estimate, Load, Machine, fit, memory_bytes, per_hour
from pipeline.workflows.plan.header_survey import Look
from pipeline.workflows.plan.machine import Resources
from pipeline.workflows.plan.trial import Tried
from pipeline.workflows.plan_file import fingerprint
from pipeline.workflows.resume import WorkPlan
from pipeline.workflows.run_config import RunConfig

# Ray on this machine takes so long to start; a cluster that runs already takes less.
RAY_START_S = 5.0
# After the last receipt: the tables are closed, the map and the report drawn, see `benchmarks/starting.py`.
WRITE_UP_S = 3.0


@dataclass
class Work:
    """What the run would be given.

    Args:
        listed: files of the source.
        models: that were found.
        keys: extractor → key.
        work: what is left to do.
        script: of the job, in ``jobs/``.
    """

    listed: int
    models: Found
    keys: dict[str, str]
    work: WorkPlan
    script: str = "extract_features.py"


@dataclass
class PlanFindings:
    """All that was found out, for `plan_numbers` to put into one mapping.

    Args:
        config: with its hardware worked out.
        given: the overrides as they were typed.
        machine: what the run has.
        too_long: files that the sample passed over for their length.
        estimate: None where no sample was run.
        prepared_s: that imports, listing, models and the comparison took; the run does the same before its first
            block.
    """

    config: RunConfig
    given: Sequence[str]
    work: Work
    seen: Look
    resources: Resources
    _: KW_ONLY
    machine: Machine
    tried: Tried
    too_long: int
    load: Load
    estimate: Estimate | None
    prepared_s: float
    notes: list[str]


def plan_numbers(f: PlanFindings) -> dict[str, Any]:
    """What ``plan.json`` holds: only JSON types, no NaN."""
    config, seen, tried, load = f.config, f.seen, f.tried, f.load
    files = len(f.work.work.files)
    heard, memory = 1 - tried.lost, _memory(f)
    numbers: dict[str, Any] = {
        "schema_version": "plan_v1",
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "fingerprint": fingerprint(config, f.work.keys, files),
        "source": public_uri(config.source.uri or config.source.manifest),
        "output": public_uri(config.output.uri),
        "files": files,
        "listed": f.work.listed,
        "done": f.work.work.done,
        "work": _kinds(f.work),
        "bytes": sum(s or 0 for s in seen.sizes),
        "headers": {"read": len(seen.headers), "unreadable": len(seen.broken)},
        "audio_hours": load.audio_s.expected * heard / 3600,
        "audio_hours_range": _hours(load.audio_s, heard),
        "durations_s": _durations(seen),
        "formats": seen.formats,
        "sample": {"files": tried.files, "audio_s": tried.audio_s, "too_long": f.too_long},
        "failures_expected": _rate(tried.failed, tried.files),
        "partial_expected": _rate(tried.partial, tried.files),
        "problems": tried.problems,
        "fallbacks": [
            {"stage": s, "wanted": w, "used": u, "files": n} for (s, w, u), n in tried.fallbacks.most_common()
        ],
        "output_bytes": _output_bytes(f),
        "blocks": f.load.blocks,
        "stages": {name: _stage(f, name) for name in f.machine.pools},
        "peak_rss_bytes": memory,
        "vram_bytes": {s.stage: s.vram_bytes for s in tried.stages if s.vram_bytes},
        "hardware": _hardware(f),
        "cache": tried.cache,
        "notes": f.notes,
    }
    numbers |= _times(f)
    numbers["cost"] = _cost(f, numbers)
    overrides, hints = advise(
        config, f.resources, f.machine, tried, load, estimated=f.estimate, memory=memory
    )
    if f.estimate is not None:
        hints += f.work.models.hints(config, f.estimate.alone_s)
    told, secret = command(config, f.given, overrides, f.work.script)
    if secret:
        hints.append("put the storage options in again: secrets are not repeated here")
    return numbers | {"overrides": overrides, "hints": hints, "command": told}


def _kinds(work: Work) -> dict[str, Any]:
    """The files to do, by why."""
    files = work.work.files
    again = [f for f in files if f.part is not None]
    missing: Counter[str] = Counter(name for f in again for name in f.todo or ())
    return {
        "new": len(files) - len(again),
        "all_again": sum(f.todo is None for f in again),
        "to_compare": sum(f.todo == () for f in again),
        "missing": dict(missing.most_common()),
        "maybe_copies": sum(f.shared for f in files),
    }


def _durations(seen: Look) -> dict[str, float] | None:
    found = seen.durations()
    if not len(found):
        return None
    return {"shortest": float(found[0]), "median": float(found[len(found) // 2]), "longest": float(found[-1])}


def _hours(audio_s: Range, heard: float) -> dict[str, float]:
    return {k: v * heard / 3600 for k, v in dataclasses.asdict(audio_s).items()}


def _rate(found: Range, sampled: int) -> dict[str, Any]:
    return {"rate": found.expected, "sampled": sampled, "low": found.low, "high": found.high}


def _output_bytes(f: PlanFindings) -> int | None:
    """Tables by parts and rows, arrays and stems by seconds of audio."""
    if not f.tried.parts:
        return None
    rows, sizes = np.array(f.tried.parts, float).T
    per_part, per_row = fit(rows, sizes)
    tables = per_part * f.load.blocks + per_row * len(f.work.work.files)
    audio = f.load.audio_s.expected * (1 - f.tried.lost)
    blobs = f.tried.blob_bytes / f.tried.audio_s * audio if f.tried.audio_s else 0.0
    return round(tables + blobs)


def _memory(f: PlanFindings) -> dict[str, int]:
    """Stage → peak of an actor, with the largest block of the run."""
    block, largest = f.tried.largest_block_s, f.load.largest_block_s
    return {
        s.stage: memory_bytes(s.ready_rss_bytes, s.peak_rss_bytes, block, largest) for s in f.tried.stages
    }


def _stage(f: PlanFindings, name: str) -> dict[str, Any]:
    pool, cost = f.machine.pools[name], f.tried.costs.get(name)
    measured = next((s for s in f.tried.stages if s.stage == name), None)
    about = {
        "device": "cuda" if pool.num_gpus else "cpu",
        "actors": pool.actors,
        "num_cpus": pool.num_cpus,
        "num_gpus": pool.num_gpus,
    }
    known = f.estimate is not None
    about |= {k: getattr(f.estimate, k)[name] if known else None for k in ("compute_s", "alone_s")}
    if measured is not None and cost is not None:
        about |= {
            "s_per_audio_hour": per_hour(cost),
            "cpu_ratio": cost.cpu_ratio,
            "startup_s": measured.startup_s,
            "measured_rss_bytes": measured.peak_rss_bytes,
            "decoder_rss_bytes": measured.decoder_rss_bytes,
            "backends": measured.backends,
            "measured_files": len(measured.files),
        }
    return about


def _hardware(f: PlanFindings) -> dict[str, Any]:
    r = f.resources
    return {
        "name": r.hardware.name,
        "ray": r.address,
        "nodes": r.nodes,
        "cpus": r.cpus,
        "gpus": r.gpus,
        "gpu": r.gpu,
        "memory_bytes": r.memory_bytes,
        "threads": f.config.perf.threads,
        "crowding": f.machine.crowding,
        "others_cpus": f.tried.others_cpus,
        "reasons": list(r.reasons),
    }


def _times(f: PlanFindings) -> dict[str, Any]:
    started = f.prepared_s + (RAY_START_S if f.resources.address == "local" else 1.0)
    if f.estimate is None:
        return {"wall_s": None, "command_s": None, "gpu_hours": None, "startup_s": started, "limit": None}
    wall = dataclasses.asdict(f.estimate.wall_s)
    gpus = f.estimate.gpus
    hours: Mapping[str, float] | None = {k: v * gpus / 3600 for k, v in wall.items()} if gpus else None
    waited = started + WRITE_UP_S
    around = dataclasses.asdict(Range(waited, waited, waited).times(*UNMODELLED))
    command_s = {k: wall[k] + around[k] for k in wall}
    told = {
        "wall_s": wall,
        "command_s": command_s,
        "gpu_hours": hours,
        "startup_s": started,
        "limit": f.estimate.limit,
    }
    return told | {"range": {"confidence": CONFIDENCE, "unmodelled": list(UNMODELLED)}}


def _cost(f: PlanFindings, numbers: Mapping[str, Any]) -> dict[str, Any] | None:
    """Of the whole command; None where there are no prices, or no time to multiply them by."""
    if numbers["command_s"] is None:
        return None
    r, hours = f.resources, numbers["audio_hours"]
    return cost(f.config.plan.prices(), r.cpus, r.gpus, numbers["command_s"], hours, stages=numbers["stages"])
