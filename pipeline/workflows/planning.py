"""A run before it is run: what there is to do, what a sample of it took, and what all of it will take.

Reads top to bottom: list → compare with the output → headers → machine → sample → estimate → text and ``plan.json``.
Writes no table: of the output only ``runs/plan.json``, for the run that follows to be compared with.
"""

from __future__ import annotations

import dataclasses
import datetime
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.dataset.lock import read_lock
from pipeline.dataset.output import Output
from pipeline.dataset.sampling import CONFIDENCE, Range
from pipeline.dataset.spaces import require_space
from pipeline.dataset.state import State, read_state
from pipeline.dataset.storage import explain, public_uri
from pipeline.engine.resources import StageResources, plan_resources
from pipeline.report.html import clock
from pipeline.workflows.availability import Models, find_models
from pipeline.workflows.config import ExtractConfig
from pipeline.workflows.keys import wanted_keys
from pipeline.workflows.listing import list_items
from pipeline.workflows.plan_file import PATH, fingerprint, save_plan
from pipeline.workflows.planning_advice import advise, command
from pipeline.workflows.planning_cost import UNMODELLED, Estimate, Load, Machine, estimate, per_hour
from pipeline.workflows.planning_look import Look, Picked, look, pick
from pipeline.workflows.planning_machine import Resources, find_resources
from pipeline.workflows.planning_sample import Tried, try_sample
from pipeline.workflows.planning_text import plan_text
from pipeline.workflows.resume import WorkPlan, plan_work
from pipeline.workflows.stages import plan_blocks, stage_names

# Ray on this machine takes so long to start; a cluster that runs already takes less.
RAY_START_S = 5.0
# Cores taken by others while the sample runs; a desktop that idles takes less.
OTHERS_WORTH_SAYING = 0.25
Say = Callable[[str], None]


@dataclass
class Work:
    """What the run would be given.

    Args:
        listed: files of the source.
        there: rows of the output, as the run would see them.
    """

    listed: int
    models: Models
    keys: dict[str, str]
    there: State
    work: WorkPlan


@dataclass
class Findings:
    """All that was found out, for `plan_numbers` to put into one mapping."""

    config: ExtractConfig
    given: Sequence[str]
    work: Work
    seen: Look
    resources: Resources
    pools: dict[str, StageResources]
    blocks: int
    tried: Tried
    too_long: int
    load: Load
    estimate: Estimate | None
    prepared_s: float
    notes: list[str]


def plan(config: ExtractConfig, given: Sequence[str] = (), quiet: bool = False) -> dict[str, Any]:
    """Say what a run with this config would take, on the terminal and in ``runs/plan.json``.

    Args:
        config: of the run.
        given: the overrides as they were typed; without them the command names source and output only.
        quiet: nothing on the terminal.

    Returns:
        what ``plan.json`` holds.

    Raises:
        UserError: what the run would refuse, too.
    """
    started = time.perf_counter()

    def say(text: str) -> None:
        if not quiet:
            print(text, flush=True)

    config.check()
    output = Output(config.output.uri, config.output_options())
    found = _work(config, output, quiet, say)
    prepared = time.perf_counter() - started
    numbers = plan_numbers(_find_out(config, given, found, prepared, say))
    problem = save_plan(output, numbers)
    say(plan_text(numbers))
    if problem:
        say(
            f"{output.uri}/{PATH} could not be written ({problem}): the run's report will have nothing to compare"
        )
    return numbers


def _work(config: ExtractConfig, output: Output, quiet: bool, say: Say) -> Work:
    """What is to do, as the run itself finds it."""
    items = list_items(config, quiet)
    models = find_models(config)
    try:
        if models.clap_model is not None and not config.output.overwrite:
            require_space(output, models.clap_model)
        state = State.nothing() if config.output.overwrite else read_state(output)
        held = read_lock(output)
    except (OSError, ValueError) as error:
        raise explain(f"output.uri={output.uri}", error) from None
    if held is not None:
        say(
            f"run {held.get('run_id')} holds the output's lock: what it has not finished yet counts as not done"
        )
    keys = wanted_keys(config, models)
    work = plan_work(items, state, keys, (), config.source.compare == "listing")
    return Work(len(items), models, keys, state, work)


def _find_out(config: ExtractConfig, given: Sequence[str], work: Work, prepared: float, say: Say) -> Findings:
    files = work.work.files
    seen = look(files, config.source.storage_options, config.plan, _every_5_s(say))
    stages = stage_names(config, work.models)
    resources = find_resources(config, stages)
    config = dataclasses.replace(config, hardware=resources.hardware)
    blocks = len(plan_blocks(files, config.hardware, resources.cpus))
    pools = plan_resources(
        [*stages, "write"],
        resources.cpus,
        resources.gpus,
        config.hardware.gpu_shares,
        config.hardware.actors,
        blocks,
        config.perf.threads,
    )
    picked = pick(seen, config.plan)
    if picked.files or picked.broken:
        audio = sum(seen.seconds(i) or 0.0 for i in picked.files)
        say(
            f"running {len(picked.files) + len(picked.broken)} files, {audio / 60:.1f} min, through the stages"
        )
    tried = try_sample(config, work.models, work.keys, seen, picked, resources.cpus, say)
    durations = seen.durations()
    load = Load(
        files=len(files) * (1 - seen.unreadable.expected),
        audio_s=seen.audio_s,
        longest_s=float(durations[-1]) if len(durations) else 0.0,
        blocks=blocks,
    )
    measured = tried.costs if any(s.files for s in tried.costs.values()) else None
    machine = Machine(resources.cpus, resources.gpus, pools)
    estimated = estimate(measured, load, machine, config.plan.seed) if measured else None
    notes = _notes(config, work, resources, tried, picked)
    return Findings(
        config, given, work, seen, resources, pools, blocks, tried, picked.too_long, load, estimated, prepared, notes
    )  # fmt: skip


def _every_5_s(say: Say) -> Callable[[int, int], None]:
    last = time.perf_counter()

    def said(done: int, of: int) -> None:
        nonlocal last
        if time.perf_counter() - last > 5:
            last = time.perf_counter()
            say(f"reading headers: {done} of {of}")

    return said


def _notes(
    config: ExtractConfig, work: Work, resources: Resources, tried: Tried, picked: Picked
) -> list[str]:
    """What a reader of the figures must know."""
    notes = list(work.models.warnings)
    shared = sum(f.shared for f in work.work.files)
    if shared:
        notes.append(
            f"{shared} files share their size with another: copies are computed once, and this plan counts them all"
        )
    if picked.too_long:
        notes.append(
            f"{picked.too_long} files are longer than {clock(picked.longest_s)} and were not in the sample: their cost "
            "is extrapolated (plan.max_minutes)"
        )
    for stage in tried.stages:
        if stage.left:
            notes.append(
                f"{stage.stage} had no time for {stage.left} blocks of the sample (plan.stage_seconds)"
            )
        if config.hardware.gpu_shares.get(stage.stage) and "cuda" not in stage.devices:
            notes.append(f"{stage.stage} is to run on a GPU and was measured on the CPU: there is none here")
    if tried.others_cpus > OTHERS_WORTH_SAYING:
        notes.append(
            f"other processes used {tried.others_cpus:.1f} cores of this machine while the sample ran: its times "
            "include that"
        )
    if resources.address != "local":
        notes.append("the sample was measured on this machine, the run's nodes may be faster or slower")
    if tried.stages and "://" in config.output.uri:
        notes.append("writing was measured on a local disk: an object store adds its latency")
    return notes


def plan_numbers(f: Findings) -> dict[str, Any]:
    """What ``plan.json`` holds: only JSON types, no NaN."""
    config, seen, tried, load = f.config, f.seen, f.tried, f.load
    files = len(f.work.work.files)
    heard = 1 - tried.lost
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
        "blocks": f.blocks,
        "stages": {name: _stage(f, name) for name in f.pools},
        "peak_rss_bytes": {s.stage: s.peak_rss_bytes for s in tried.stages},
        "vram_bytes": {s.stage: s.vram_bytes for s in tried.stages if s.vram_bytes},
        "hardware": _hardware(f),
        "cache": tried.cache,
        "notes": f.notes,
    }
    numbers |= _times(f)
    overrides, hints = advise(config, f.resources, f.pools, tried, load, f.estimate, f.blocks)
    told, secret = command(config, f.given, overrides)
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


def _output_bytes(f: Findings) -> int | None:
    """Tables by files, arrays and stems by seconds of audio."""
    if not f.tried.written:
        return None
    tables = f.tried.table_bytes / f.tried.written * len(f.work.work.files)
    audio = f.load.audio_s.expected * (1 - f.tried.lost)
    blobs = f.tried.blob_bytes / f.tried.audio_s * audio if f.tried.audio_s else 0.0
    return round(tables + blobs)


def _stage(f: Findings, name: str) -> dict[str, Any]:
    pool, cost = f.pools[name], f.tried.costs.get(name)
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
            "decoder_rss_bytes": measured.decoder_rss_bytes,
            "backends": measured.backends,
            "measured_files": len(measured.files),
        }
    return about


def _hardware(f: Findings) -> dict[str, Any]:
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
        "reasons": list(r.reasons),
    }


def _times(f: Findings) -> dict[str, Any]:
    started = f.prepared_s + (RAY_START_S if f.resources.address == "local" else 1.0)
    if f.estimate is None:
        return {"wall_s": None, "gpu_hours": None, "startup_s": started, "limit": None}
    wall = dataclasses.asdict(f.estimate.wall_s)
    gpus = f.estimate.gpus
    hours: Mapping[str, float] | None = {k: v * gpus / 3600 for k, v in wall.items()} if gpus else None
    told = {"wall_s": wall, "gpu_hours": hours, "startup_s": started, "limit": f.estimate.limit}
    return told | {"range": {"confidence": CONFIDENCE, "unmodelled": list(UNMODELLED)}}
