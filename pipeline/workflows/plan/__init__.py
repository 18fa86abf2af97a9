"""A run before it is run: what there is to do, what a sample of it took, and what all of it will take.

Reads top to bottom: list → compare with the output → headers → machine → sample → estimate → text and ``plan.json``.
Writes no table: of the output only ``runs/plan.json``, for the run that follows to be compared with.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from typing import Any

import pyarrow as pa

from pipeline.counting import plural
from pipeline.dataset.lock import read_lock
from pipeline.dataset.output import Output
from pipeline.dataset.sources.known_names import known_names
from pipeline.dataset.storage import explain
from pipeline.dataset.tables.embedding_space import require_spaces
from pipeline.dataset.tables.row_index import State, read_state
from pipeline.engine.cpu_contention import slowdown
from pipeline.engine.driver import Cluster
from pipeline.engine.groups import name_of
from pipeline.engine.packing import estimated_seconds
from pipeline.engine.resources import StageResources, Workload
from pipeline.report.formatting import clock
from pipeline.workflows.job import Job
from pipeline.workflows.listing import list_items
from pipeline.workflows.plan.cost import Load, Machine, estimate
from pipeline.workflows.plan.header_survey import Look, Picked, look, pick
from pipeline.workflows.plan.machine import Resources, find_resources
from pipeline.workflows.plan.numbers import PlanFindings, Work, plan_numbers
from pipeline.workflows.plan.plan_text import plan_text
from pipeline.workflows.plan.trial import Tried, try_sample
from pipeline.workflows.plan_file import PATH, save_plan
from pipeline.workflows.resume import plan_work
from pipeline.workflows.run_config import RunConfig
from pipeline.workflows.stages import plan_blocks, plan_pools
from pipeline.workflows.wanted_keys import wanted_keys

# A block of more audio than this hardly is: `hardware.max_track_bytes` keeps longer tracks from travelling.
TRAVELS_S = 2400.0
# Cores taken by others while the sample runs; a desktop that idles takes less.
OTHERS_WORTH_SAYING = 0.25
Say = Callable[[str], None]


def plan(
    job: Job,
    config: RunConfig,
    given: Sequence[str] = (),
    quiet: bool = False,
    began: float | None = None,
) -> dict[str, Any]:
    """Say what a run with this config would take, on the terminal and in ``runs/plan.json``.

    Args:
        job: which.
        config: of the run.
        given: the overrides as they were typed; without them the command names source and output only.
        quiet: nothing on the terminal.
        began: when the command began, Unix time: the run will need as long to come so far. None takes this call.

    Returns:
        what ``plan.json`` holds.

    Raises:
        UserError: what the run would refuse, too.
    """
    began = time.time() if began is None else began

    def say(text: str) -> None:
        if not quiet:
            print(text, flush=True)

    config.check()
    output = Output(config.output.uri, config.output_options())
    found = _work(job, config, output, quiet, say)
    prepared = time.time() - began
    numbers = plan_numbers(_find_out(config, given, found, prepared, say))
    problem = save_plan(output, numbers)
    say(plan_text(numbers))
    if problem:
        say(
            f"{output.uri}/{PATH} could not be written ({problem}): the run's report will have nothing to compare"
        )
    return numbers


def _work(job: Job, config: RunConfig, output: Output, quiet: bool, say: Say) -> Work:
    """What is to do, as the run itself finds it."""
    items = list_items(config, quiet)
    seeks = job.seeks(config)
    if seeks:
        say(seeks)
    models = job.find(config)
    try:
        if not config.output.overwrite:
            require_spaces(output, models.pipeline(config).contents)
        state = State.nothing() if config.output.overwrite else read_state(output)
        held = read_lock(output)
    except (OSError, ValueError) as error:
        raise explain(f"output.uri={output.uri}", error) from None
    if held is not None:
        say(
            f"run {held.get('run_id')} holds the output's lock: what it has not finished yet counts as not done"
        )
    keys = wanted_keys(config, models)
    items = known_names(items, state.rows["uri"])
    work = plan_work(items, state, keys, (), config.source.compare == "listing")
    return Work(len(items), models, keys, work, job.script)


def _find_out(config: RunConfig, given: Sequence[str], work: Work, prepared: float, say: Say) -> PlanFindings:
    files = work.work.files
    seen = look(files, config.source.storage_options, config.plan, _every_5_s(say))
    pipeline = work.models.pipeline(config)
    resources = find_resources(config, pipeline.stages)
    config = dataclasses.replace(config, hardware=resources.hardware)
    packed = plan_blocks(files, config.hardware, resources.cpus)
    blocks = len(packed)
    place = Cluster(
        resources.address, resources.cpus, resources.gpus, resources.nodes, node_cpus=resources.node_cpus
    )
    to_do = Workload(sum(estimated_seconds(f.item) for f in files), len(files))
    shared = plan_pools(config, work.models, place, blocks, to_do)
    pools = shared.by_stage
    picked = pick(seen, config.plan)
    if picked.files or picked.broken:
        audio = sum(seen.seconds(i) or 0.0 for i in picked.files)
        number = plural(len(picked.files) + len(picked.broken), "file")
        say(f"running {number}, {audio / 60:.1f} min, through the stages")
    tried = try_sample(config, work.models, work.keys, seen, picked, cpus=resources.cpus, say=say)
    durations = seen.durations()
    load = Load(
        files=len(files) * (1 - seen.unreadable.expected),
        audio_s=seen.audio_s,
        longest_s=float(durations[-1]) if len(durations) else 0.0,
        blocks=blocks,
        largest_block_s=_largest_block(packed, seen),
    )
    measured = tried.costs if any(s.files for s in tried.costs.values()) else None
    machine = _machine(resources, pools, tried)
    estimated = estimate(measured, load, machine, config.plan.seed) if measured else None
    notes = _notes(config, work, resources, tried, picked)
    if shared.why:
        together = ", ".join(name_of(group) for group in shared.groups if len(group) > 1)
        notes.append(f"stages share processes ({together}): {shared.why}")
    return PlanFindings(
        config,
        given,
        work,
        seen,
        resources,
        machine=machine,
        tried=tried,
        too_long=picked.too_long,
        load=load,
        estimate=estimated,
        prepared_s=prepared,
        notes=notes,
    )


def _machine(resources: Resources, pools: dict[str, StageResources], tried: Tried) -> Machine:
    """What the run has, and, where it is this machine, what it shares."""
    if resources.address != "local" or not tried.stages:
        return Machine(resources.cpus, resources.gpus, pools)
    others = tried.others_cpus if tried.others_cpus > OTHERS_WORTH_SAYING else 0.0
    return Machine(resources.cpus, resources.gpus, pools, slowdown(int(resources.cpus)), others)


def _largest_block(packed: Sequence[pa.Table], seen: Look) -> float:
    """Seconds of audio in the block that has most of it; of what is too long to travel only what does."""
    known = {f.index: seen.seconds(place) for place, f in enumerate(seen.files)}
    columns = ("index", "estimated_s")
    audio = (
        sum(
            e if known[i] is None else known[i]
            for i, e in zip(*(block[c].to_pylist() for c in columns), strict=True)
        )
        for block in packed
    )
    return min(TRAVELS_S, max(audio, default=0.0))


def _every_5_s(say: Say) -> Callable[[int, int], None]:
    last = time.perf_counter()

    def said(done: int, of: int) -> None:
        nonlocal last
        if time.perf_counter() - last > 5:
            last = time.perf_counter()
            say(f"reading headers: {done} of {of}")

    return said


def _notes(config: RunConfig, work: Work, resources: Resources, tried: Tried, picked: Picked) -> list[str]:
    """What a reader of the figures must know."""
    notes = list(work.models.warnings)
    shared = sum(f.shared for f in work.work.files)
    if shared:
        notes.append(
            f"{plural(shared, 'file')} of the size of another: copies are computed once, and this plan counts them all"
        )
    if picked.too_long:
        notes.append(
            f"{plural(picked.too_long, 'file')} longer than {clock(picked.longest_s)}, not in the sample: the cost "
            "is extrapolated (plan.max_minutes)"
        )
    for stage in tried.stages:
        if stage.left:
            notes.append(
                f"{stage.stage} had no time for {plural(stage.left, 'block')} of the sample (plan.stage_seconds)"
            )
        if config.hardware.gpu_shares.get(stage.stage) and "cuda" not in stage.devices:
            cost = tried.costs.get(stage.stage)
            rated = f"; its time is what {cost.rated_on} takes" if cost and cost.rated_on else ""
            notes.append(
                f"{stage.stage} is to run on a GPU and was measured on the CPU: there is none here{rated}"
            )
    if tried.others_cpus > OTHERS_WORTH_SAYING:
        notes.append(
            f"other processes used {tried.others_cpus:.1f} cores of this machine while the sample ran: the upper end "
            "of the range takes them to go on"
        )
    if resources.address != "local":
        notes.append("the sample was measured on this machine, the run's nodes may be faster or slower")
    if tried.stages and "://" in config.output.uri:
        notes.append("writing was measured on a local disk: an object store adds its latency")
    return notes
