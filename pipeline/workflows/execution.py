"""The part of a run that computes: connect → pack → run → reconcile → report."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
import yaml

from pipeline.dataset.lock import OutputLock
from pipeline.dataset.manifest import merge_manifest
from pipeline.dataset.merge import conform, ordered_schema
from pipeline.dataset.output import Output
from pipeline.dataset.run import RunFolder, environment
from pipeline.dataset.schemas import FAILURES, segments_schema
from pipeline.dataset.sources import SourceItem
from pipeline.dataset.state import State, same_columns
from pipeline.dataset.storage import is_local, one_line
from pipeline.engine.graph import Node
from pipeline.engine.plan import estimated_seconds
from pipeline.engine.progress import Progress
from pipeline.engine.resources import StageResources, plan_resources
from pipeline.engine.session import Cluster
from pipeline.report.live import progress_text
from pipeline.report.performance import markdown, performance
from pipeline.report.words import clock
from pipeline.workflows.ahead import RayAhead, ahead
from pipeline.workflows.availability import Models, stage_weights
from pipeline.workflows.caching import tidy
from pipeline.workflows.config import ExtractConfig, redacted
from pipeline.workflows.golden_job import settle_golden
from pipeline.workflows.hardware import resolve_hardware, settle_compile
from pipeline.workflows.outcome import EXIT_FAILED, EXIT_FAILURES, EXIT_OK, Result
from pipeline.workflows.passes import Passes, TooManyFailures, count_rows
from pipeline.workflows.plan_file import adopt_plan
from pipeline.workflows.resume import WorkPlan
from pipeline.workflows.showing import shown
from pipeline.workflows.stages import build_graph, plan_blocks, run_schema, stage_names
from pipeline.workflows.stopping import EXIT_STOPPED, Stopped, stoppable


@dataclass(frozen=True)
class Task:
    """A run that has found something to do.

    Args:
        items: all that was asked for.
        started: `time.perf_counter` when the run began.
        keys: extractor → key that is wanted.
        state: what the output held.
        work: what it lacks.
        ray: begun already.
        moments: when the job got where, Unix time; it is added to.
    """

    config: ExtractConfig
    items: list[SourceItem]
    models: Models
    output: Output
    folder: RunFolder
    lock: OutputLock
    started: float
    keys: dict[str, str]
    state: State
    work: WorkPlan
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
    blocks = plan_blocks(work.files, hardware, cluster.cpus)
    schema = ordered_schema(run_schema(config, models), task.state.schema)

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
    startup = time.perf_counter() - task.started
    passes = Passes(
        output, folder, task.lock, nodes, lambda files: plan_blocks(files, hardware, cluster.cpus), resources, cluster,
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
            _even_out(output, task.state, schema)
        task = dataclasses.replace(task, config=config)  # with the hardware that was found
        return _finish(task, progress, env, startup, passes.busy, error, report)
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


def _even_out(output: Output, state: State, schema: pa.Schema) -> None:
    """Give the parts that this run had no reason to write the columns of the others: readers take one for all."""
    if state.schema is None or (same_columns(state.schema, schema) and not state.uneven):
        return
    for part in output.parts("tracks"):
        with output.fs.open(output.path(part), "rb") as handle:
            file = pq.ParquetFile(handle)
            if same_columns(file.schema_arrow, schema):
                continue
            table = file.read()
        output.write_table(part, conform(table, schema))


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
        f"Ray {cluster.address}: {cluster.nodes} node(s), {cluster.cpus:g} CPUs, {cluster.gpus:g} GPUs; "
        f"hardware={config.hardware.name}, {config.perf.threads} thread(s) per actor",
        **vars(cluster),
    )
    if cluster.nodes > 1 and is_local(config.output.uri):
        text = f"output.uri={config.output.uri} is a local path and the cluster has {cluster.nodes} nodes: "
        folder.log("plan", text + "it must be a folder that all of them share", level="warning")
    pools = ", ".join(f"{n.name}×{resources[n.name].actors}" for n in nodes)
    folder.log(
        "plan",
        f"{len(blocks)} blocks through {pools}",
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
    env: dict[str, Any],
    startup: float,
    busy: dict[str, float],
    error: BaseException | None,
    writer: Future[Callable[..., str]],
) -> Result:
    config, output, folder = task.config, task.output, task.folder
    output.fill_empty({"segments": segments_schema(task.models.clap_model), "failures": FAILURES})
    cache = tidy(config, lambda text: folder.log("fallback", text, level="warning"))
    numbers = performance(folder.run_id, progress, progress.elapsed(), startup, busy, cache, task.moments)
    folder.write_json("performance.json", numbers)
    folder.write("PERFORMANCE_METRICS.md", markdown(numbers, env))
    header = {
        "run_id": folder.run_id,
        "aggregate_strategy": config.clap.aggregate,
        "fallbacks": numbers["fallbacks"],
    }
    merge_manifest(output, folder.run_id, header, len(progress.committed))
    report = writer.result()(folder, numbers, env)
    # Of all that was asked for: a run that goes on where another one stopped has fewer files of its own.
    rate = progress.failed() / max(1, len(task.items))
    folder.log("done", summary_text(progress, numbers), **progress.fields())
    for (stage, error_class), count in progress.failures.most_common(10):
        folder.log("failures", f"{count} × {error_class} in {stage}", level="warning", count=count)
    folder.log("report", f"report: {report or 'none'}")
    if isinstance(error, Stopped):
        return Result(EXIT_STOPPED, folder.run_id, output.uri, report, numbers)
    if isinstance(error, TooManyFailures):
        return Result(EXIT_FAILURES, folder.run_id, output.uri, report, numbers)
    if error is not None:
        return Result(EXIT_FAILED, folder.run_id, output.uri, report, numbers)
    code = EXIT_OK
    files, rows = count_rows(output, [i.uri for i in task.items])
    if not files == rows == len({i.uri for i in task.items}):
        code = EXIT_FAILED
        text = (
            f"{rows} rows in tracks for {files} of {len(task.items)} files; python jobs/verify.py says more"
        )
        folder.log("row_count", text, level="error")
    if code == EXIT_OK and rate > config.max_failure_rate:
        code = EXIT_FAILURES
        folder.log(
            "failure_rate",
            f"{rate:.1%} of the files failed, more than max_failure_rate={config.max_failure_rate:g}",
            level="error",
        )
    return Result(code, folder.run_id, output.uri, report, numbers)


def summary_text(progress: Progress, numbers: dict[str, Any]) -> str:
    """The last line of a run."""
    status = progress.status
    return (
        f"{progress.files} files ({status['ok']} ok, {status['partial']} partial, {status['failed']} failed), "
        f"{clock(numbers['audio_s'])} of audio in {clock(numbers['wall_s'])}: "
        f"{numbers['real_time_factor'] or 0:.1f}× real time"
    )
