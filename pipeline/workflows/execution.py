"""The part of a run that computes: connect → pack → run → reconcile → report."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import torch
import yaml

from pipeline.dataset.lock import OutputLock
from pipeline.dataset.output import Output
from pipeline.dataset.run_folder import RunFolder, environment
from pipeline.dataset.sources.listing import SourceItem
from pipeline.dataset.sources.manifest_columns import add_columns, with_columns
from pipeline.dataset.storage import is_local, one_line
from pipeline.dataset.tables.row_index import State
from pipeline.dataset.tables.run_manifest import merge_manifest
from pipeline.dataset.tables.schemas import FAILURES, segments_schema
from pipeline.engine.node import Node
from pipeline.engine.packing import PlannedFile, estimated_seconds
from pipeline.engine.progress import Progress
from pipeline.engine.resources import StageResources, plan_resources
from pipeline.engine.session import Cluster
from pipeline.models.separation.names import STEMS
from pipeline.report.formatting import clock, plural
from pipeline.report.live import progress_text
from pipeline.report.money import cost, money
from pipeline.report.performance import copies_text, markdown, performance
from pipeline.workflows.aftercare import even_out, tend_shared
from pipeline.workflows.ahead import RayAhead, ahead
from pipeline.workflows.attempts import Passes, TooManyFailures
from pipeline.workflows.availability import Models, stage_weights
from pipeline.workflows.caching import tidy
from pipeline.workflows.columns import settle_columns
from pipeline.workflows.config import ExtractConfig, redacted
from pipeline.workflows.ending import Standing, doubts_text, next_text, rows_of, tell, written_text
from pipeline.workflows.golden_job import settle_golden
from pipeline.workflows.gone import settle_gone
from pipeline.workflows.hardware import resolve_hardware, settle_compile
from pipeline.workflows.outcome import EXIT_FAILED, EXIT_FAILURES, Result, verdict
from pipeline.workflows.plan_file import adopt_plan
from pipeline.workflows.resume import WorkPlan
from pipeline.workflows.stages import build_graph, plan_blocks, run_schema, stage_names
from pipeline.workflows.stopping import EXIT_STOPPED, Stopped, stoppable
from pipeline.workflows.terminal import shown


@dataclass(frozen=True)
class Task:
    """A run that has found something to do.

    Args:
        items: all that was asked for.
        asked_for: how many files a rate of failures is of: of a retry all that have a row.
        columns: what a manifest says of each, see `pipeline.dataset.sources.manifest_columns`; None without one.
        keys: extractor → key that is wanted.
        state: what the output held.
        work: what it lacks.
        gone: files that have a row and are there no longer.
        ray: begun already.
        moments: when the job got where, Unix time, ``shell`` first; it is added to.
    """

    config: ExtractConfig
    items: list[SourceItem]
    asked_for: int
    columns: pa.Table | None
    models: Models
    output: Output
    folder: RunFolder
    lock: OutputLock
    keys: dict[str, str]
    state: State
    work: WorkPlan
    gone: list[str]
    ray: RayAhead
    moments: dict[str, float]


def execute(task: Task) -> Result:
    """Compute what there is to do, and write the run's record. Ray is left in the end."""
    try:
        return _execute(task)
    finally:
        task.ray.close()


def _execute(task: Task) -> Result:
    config, models, output, folder, work = task.config, task.models, task.output, task.folder, task.work
    adopt_plan(config, task.keys, len(work.files), folder)
    waits_for = task.ray.waits_for()
    if waits_for:
        folder.log("waiting", f"{waits_for}; meanwhile the golden vectors of this machine are computed")
    own_card = ahead(_own_card, "own card")
    golden = settle_golden(config, models, output, folder)
    task.moments["golden"] = time.time()
    cluster = task.ray.cluster()
    task.moments["ray"] = time.time()
    # The driver of a cluster commonly has no card, and its workers have.
    gpu = own_card.result() or ", ".join(cluster.accelerators) or None
    env = environment({"ray": vars(cluster), "gpu": gpu})
    hardware, reasons = resolve_hardware(config.hardware, stage_names(config, models), task.ray.cards())
    audio_s = sum(estimated_seconds(f.item) for f in work.files)
    share = hardware.gpu_shares.get("clap", 0) if models.clap_checkpoint else 0
    clap, compiling = settle_compile(config.clap, share, audio_s)
    for reason in (*reasons, *compiling):
        folder.log("device", reason)
    config = dataclasses.replace(config, hardware=hardware, clap=clap)
    folder.write("config.yaml", yaml.safe_dump(redacted(config), sort_keys=False, allow_unicode=True))
    folder.write_json("environment.json", env)

    def cut(files: Sequence[PlannedFile]) -> list[pa.Table]:
        return add_columns(plan_blocks(files, hardware, cluster.cpus), task.columns)

    blocks = cut(work.files)
    # Other machines may have backends that this one lacks, and so stems.
    wanted = run_schema(config, models, STEMS if cluster.nodes > 1 else None)
    schema = with_columns(wanted, task.state.schema, task.columns)

    def nodes(ledger: Any) -> list[Node]:
        return build_graph(config, models, output, folder.run_id, schema, ledger, task.keys, golden)

    resources = plan_resources(
        [n.name for n in nodes(None)],
        cluster.cpus,
        cluster.gpus,
        hardware.gpu_shares,
        hardware.actors,
        len(blocks),
        config.perf.threads,
        cluster.node_cpus,
        audio_s,
        stage_weights(models),
    )
    _log_plan(folder, cluster, nodes(None), resources, blocks, config, models)
    if config.output.overwrite:
        output.clear()  # only now: whatever could be refused has been
    sizes = [f.item.size_bytes for f in work.files]
    progress = Progress(
        files=len(work.files),
        bytes=sum(sizes) if all(sizes) else 0,
        report=lambda fields: _say_progress(folder, fields),
    )
    folder.log("waiting", "starting the actors: they load their packages and models")
    startup = time.time() - task.moments["shell"]
    passes = Passes(
        output, folder, task.lock, nodes, cut, resources, cluster,
        schema, task.keys, progress, hardware.gpu_memory_fraction, config.max_strikes, config.max_failure_rate,
        {(f.stage, f.wanted, f.used) for f in models.fallbacks},
    )  # fmt: skip
    # What draws it takes a second to import, and there is nothing else to do while the workers start.
    report = ahead(_report_writer, "report")
    with stoppable(), shown(progress, folder):
        error = passes.run(work.files, work.owners)
    task.moments["passed"] = time.time()
    try:
        if error is None:
            even_out(output, task.state, schema)
            if task.columns is not None:
                settle_columns(output, task.columns, schema, folder)
            tend_shared(output, work, folder.run_id, config.extractors())
            settle_gone(output, task.gone, task.state, config.source.gone, folder)
        task = dataclasses.replace(task, config=config)  # with the hardware that was found
        return _finish(task, progress, cluster, env, startup, passes.busy, error, report)
    except Exception as again:
        if error is None:
            raise
        folder.log("failed", f"nor could the rest be written: {one_line(again)}", level="error")
        return Result(EXIT_FAILED, folder.run_id, output.uri)


def _own_card() -> str | None:
    """The name of this machine's card, as its driver has it; None without one. Asking wakes CUDA up: a second."""
    return torch.cuda.get_device_name() if torch.cuda.is_available() else None


def _report_writer() -> Callable[..., str]:
    from pipeline.report.html import write_report

    return write_report


def _say_progress(folder: RunFolder, fields: dict[str, Any]) -> None:
    folder.log("progress", progress_text(fields), show=False, **fields)  # the view shows it
    folder.sync(at_most_every_s=30)


def _log_plan(
    folder: RunFolder,
    cluster: Cluster,
    nodes: Sequence[Node],
    resources: dict[str, StageResources],
    blocks: Sequence[pa.Table],
    config: ExtractConfig,
    models: Models,
) -> None:
    folder.log(
        "device",
        f"Ray {cluster.address}: {plural(cluster.nodes, 'node')}, {plural(cluster.cpus, 'CPU')}, "
        f"{plural(cluster.gpus, 'GPU')}; "
        f"hardware={config.hardware.name}, {plural(config.perf.threads, 'thread')} per actor",
        **vars(cluster),
    )
    if cluster.note:
        folder.log("fallback", cluster.note, level="warning")
    if cluster.nodes > 1 and is_local(config.output.uri):
        text = f"output.uri={config.output.uri} is a local path and the cluster has {cluster.nodes} nodes: "
        folder.log("plan", text + "it must be a folder that all of them share", level="warning")
    pools = ", ".join(f"{n.name}×{resources[n.name].actors}" for n in nodes)
    folder.log(
        "plan",
        f"{plural(len(blocks), 'block')} through {pools}",
        blocks=len(blocks),
        resources={name: vars(r) for name, r in resources.items()},
    )
    folder.log(
        "parameters",
        f"features {', '.join(config.features.enabled) or 'none'} at {config.features.sample_rate} Hz; "
        f"CLAP {models.clap_model or 'off'}; separation "
        f"{models.separation or 'off'}",
        features=config.features.enabled,
        clap=models.clap_model,
        separation=config.separation.backends if config.separation.enabled else None,
    )


def _finish(
    task: Task,
    progress: Progress,
    cluster: Cluster,
    env: dict[str, Any],
    startup: float,
    busy: dict[str, float],
    error: BaseException | None,
    writer: Future[Callable[..., str]],
) -> Result:
    config, output, folder = task.config, task.output, task.folder
    output.fill_empty({"segments": segments_schema(task.models.clap_model), "failures": FAILURES})
    cache = tidy(config, lambda text: folder.log("fallback", text, level="warning"))
    folder.log("waiting", "writing the report")
    numbers = performance(folder.run_id, progress, progress.elapsed(), startup, busy, cache, task.moments)
    _write_numbers(task, numbers, env, cluster)
    header = {
        "run_id": folder.run_id,
        "aggregate_strategy": config.clap.aggregate,
        "fallbacks": numbers["fallbacks"],
    }
    merge_manifest(output, folder.run_id, header, len(progress.committed))
    report = writer.result()(folder, numbers, env)
    _write_numbers(task, numbers, env, cluster)  # with the time that the report took
    folder.log("done", summary_text(progress, numbers), **progress.fields())
    for (stage, error_class), count in progress.failures.most_common(10):
        folder.log("failures", f"{count} × {error_class} in {stage}", level="warning", count=count)
    folder.log("report", f"report: {report or 'none'}", show=False)  # the last line says it
    standing = _standing(task, progress, error)
    code = _exit_code(task, standing, error)
    counts = {
        "tracks": len(progress.committed),
        "failures": sum(progress.failures.values()),
        **progress.written,
    }
    broken = error is None and not standing.complete
    tell(
        folder,
        written_text(output.uri, counts),
        doubts_text(standing, numbers["fallbacks"]),
        next_text(output.uri, standing, report, error is not None, broken),
    )
    return Result(code, folder.run_id, output.uri, report, numbers)


def _standing(task: Task, progress: Progress, error: BaseException | None) -> Standing:
    """The rows of what was asked for, or, where a run that ended early cannot read them, what it counted itself."""
    try:
        uris = [i.uri for i in task.items]
        return Standing.of(rows_of(task.output), uris, task.config.features.enabled)
    except Exception:
        if error is None:
            raise
        done = len(progress.committed)
        return Standing(progress.files, done, done, progress.failed(), progress.status["partial"])


def _exit_code(task: Task, standing: Standing, error: BaseException | None) -> int:
    if error is not None:
        return {Stopped: EXIT_STOPPED, TooManyFailures: EXIT_FAILURES}.get(type(error), EXIT_FAILED)
    if not standing.complete:
        text = f"{plural(standing.rows, 'row')} in tracks for {standing.files} of {plural(standing.asked_for, 'file')}"
        task.folder.log("row_count", f"{text}; python jobs/verify.py says more", level="error")
        return EXIT_FAILED
    # Of all that was asked for: a run that goes on where another one stopped has fewer files of its own.
    return verdict(standing.failed, task.asked_for, task.config.max_failure_rate, task.folder)


def _write_numbers(task: Task, numbers: dict[str, Any], env: dict[str, Any], cluster: Cluster) -> None:
    """Write what was measured, and in it how long the user has waited until now, and what that costs."""
    numbers["command_s"] = took = time.time() - task.moments["shell"]
    hours, prices = numbers["audio_s"] / 3600, task.config.plan.prices()
    numbers["cost"] = cost(prices, cluster.cpus, cluster.gpus, took, hours, numbers["stages"])
    task.folder.write_json("performance.json", numbers)
    task.folder.write("PERFORMANCE_METRICS.md", markdown(numbers, env))


def summary_text(progress: Progress, numbers: dict[str, Any]) -> str:
    """What a run did, in one line."""
    status = progress.status
    return (
        f"{plural(progress.files, 'file')} ({status['ok']} ok, {status['partial']} partial, "
        f"{status['failed']} failed), {clock(numbers['audio_s'])} of audio in {clock(numbers['wall_s'])}: "
        f"{numbers['real_time_factor'] or 0:.1f}× real time"
        + (f", and {copies_text(numbers)}" if numbers["copies"] else "")
        + f"; {clock(numbers['command_s'])} since the command began"
        + (f", at a cost of {money(numbers['cost']['total'])}" if numbers["cost"] else "")
    )
