"""Feature extraction: sources in, tables out, in one pass over each file.

Reads top to bottom: list → prepare the output → see which models are there → plan → run → reconcile → report.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Collection, Sequence
from contextlib import ExitStack, suppress
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
from pipeline.dataset.run import RunFolder, environment, interrupted_runs, mark_interrupted, new_run_id
from pipeline.dataset.schemas import FAILURES, segments_schema
from pipeline.dataset.sources import SourceItem
from pipeline.dataset.spaces import require_space
from pipeline.dataset.state import State, read_state, same_columns
from pipeline.dataset.storage import is_local, one_line, public_uri
from pipeline.engine.graph import Node
from pipeline.engine.progress import Progress
from pipeline.engine.resources import StageResources, plan_resources
from pipeline.engine.session import Cluster, connect, disconnect
from pipeline.report.html import write_report
from pipeline.report.live import progress_text
from pipeline.report.performance import markdown, performance
from pipeline.report.words import clock
from pipeline.workflows.availability import Models, find_models
from pipeline.workflows.caching import tidy
from pipeline.workflows.config import ExtractConfig, redacted
from pipeline.workflows.golden_job import settle_golden
from pipeline.workflows.hardware import resolve_hardware
from pipeline.workflows.keys import wanted_keys
from pipeline.workflows.listing import list_items
from pipeline.workflows.passes import Passes, TooManyFailures, count_rows
from pipeline.workflows.plan_file import adopt_plan
from pipeline.workflows.planning import plan
from pipeline.workflows.resume import plan_work
from pipeline.workflows.showing import shown
from pipeline.workflows.stages import build_graph, plan_blocks, run_schema, stage_names
from pipeline.workflows.stopping import EXIT_STOPPED, Stopped, stoppable

# The workers of a driver that was killed end a moment after it; what they still write is to be read.
LAST_WRITES_S = 2.0
EXIT_OK, EXIT_FAILED, EXIT_USAGE, EXIT_FAILURES = 0, 1, 2, 3
# What ``status.json`` says of a run; any other exit code is "failed".
ENDED = {EXIT_OK: "done", EXIT_FAILURES: "done", EXIT_STOPPED: "stopped"}


@dataclass(frozen=True)
class Result:
    """How a run ended.

    Args:
        exit_code: as in the jobs' ``--help``.
        run_id: name of the run folder.
        output: root of the tables.
        report: location of ``report.html``; empty where the run did not get that far.
        performance: what ``performance.json`` holds.
    """

    exit_code: int
    run_id: str
    output: str
    report: str = ""
    performance: dict[str, Any] | None = None


def run(
    config: ExtractConfig, quiet: bool = False, retry: Collection[str] = (), given: Sequence[str] = ()
) -> Result:
    """Run the job: compute what the output lacks. With ``dry_run`` only say what that would take.

    Args:
        retry: uris whose recorded failures are tried again.
        given: the overrides as they were typed, for the command that a dry run gives back.

    Raises:
        UserError: what the user can mend before anything was computed.
    """
    started = time.perf_counter()
    config.check()
    if config.dry_run:
        plan(config, given, quiet)
        return Result(EXIT_OK, "", config.output.uri)
    output = Output(config.output.uri, config.output_options())
    items = list_items(config, quiet)
    models = find_models(config)
    if models.clap_model is not None and not config.output.overwrite:
        require_space(output, models.clap_model)
    output.check()
    lock, taken = OutputLock(output, new_run_id()), []
    lock.acquire(taken.append)
    with ExitStack() as stack:
        stack.callback(lock.release)
        folder = RunFolder(output, lock.owner, quiet)
        stack.callback(folder.close)
        stack.callback(disconnect)
        for text in taken:
            folder.log("lock", text, level="warning")
        if taken:
            time.sleep(LAST_WRITES_S)
        ended = "failed"
        try:
            result = _run(config, items, models, output, folder, lock, started, retry)
            ended = ENDED.get(result.exit_code, "failed")
            return result
        except KeyboardInterrupt:
            ended = "stopped"
            raise
        finally:
            with suppress(Exception):  # where nothing can be written, this cannot be either
                folder.mark(ended)


def _run(
    config: ExtractConfig,
    items: list[SourceItem],
    models: Models,
    output: Output,
    folder: RunFolder,
    lock: OutputLock,
    started: float,
    retry: Collection[str],
) -> Result:
    folder.log(
        "start",
        f"run {folder.run_id}: {len(items)} files from "
        f"{public_uri(config.source.uri or config.source.manifest)}",
        files=len(items),
        hardware=config.hardware.name,
    )
    for warning in models.warnings:
        folder.log("fallback", warning, level="warning")
    keys = wanted_keys(config, models)
    state = State.nothing() if config.output.overwrite else _what_is_there(output, folder)
    work = plan_work(items, state, keys, retry, config.source.compare == "listing")
    if work.done:
        text = f"{work.done} of {len(items)} files are done already, {len(work.files)} are not"
        folder.log("resume", text, done=work.done, todo=len(work.files))
    if not work.files:
        folder.write("config.yaml", yaml.safe_dump(redacted(config), sort_keys=False, allow_unicode=True))
        folder.log("done", f"nothing to do: all {len(items)} files are done")
        return Result(EXIT_OK, folder.run_id, output.uri)
    adopt_plan(config, keys, len(work.files), folder)
    golden = settle_golden(config, models, output, folder)
    cluster = connect(
        config.ray.address, config.ray.num_cpus, config.ray.object_store_memory, config.perf.threads
    )
    devices = {
        "ray": vars(cluster),
        # The driver of a cluster commonly has no card, and its workers have.
        "gpu": torch.cuda.get_device_name()
        if torch.cuda.is_available()
        else ", ".join(cluster.accelerators) or None,
    }
    env = environment(devices)
    hardware, reasons = resolve_hardware(config.hardware, stage_names(config, models))
    for reason in reasons:
        folder.log("device", reason)
    config = dataclasses.replace(config, hardware=hardware)
    folder.write("config.yaml", yaml.safe_dump(redacted(config), sort_keys=False, allow_unicode=True))
    folder.write_json("environment.json", env)
    blocks = plan_blocks(work.files, hardware, cluster.cpus)
    schema = ordered_schema(run_schema(config, models), state.schema)

    def nodes(ledger: Any) -> list[Node]:
        return build_graph(config, models, output, folder.run_id, schema, ledger, keys, golden)

    resources = plan_resources(
        [n.name for n in nodes(None)],
        cluster.cpus,
        cluster.gpus,
        hardware.gpu_shares,
        hardware.actors,
        len(blocks),
        config.perf.threads,
        cluster.node_cpus,
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
    startup = time.perf_counter() - started
    passes = Passes(
        output, folder, lock, nodes, lambda files: plan_blocks(files, hardware, cluster.cpus), resources, cluster,
        schema, keys, progress, hardware.gpu_memory_fraction, config.max_strikes, config.max_failure_rate,
        {(f.stage, f.wanted, f.used) for f in models.fallbacks},
    )  # fmt: skip
    with stoppable(), shown(progress, folder):
        error = passes.run(work.files, work.owners)
    try:
        if error is None:
            _even_out(output, state, schema)
        result = _finish(config, models, output, folder, progress, env, startup, passes.busy, items, error)
    except Exception as again:
        if error is None:
            raise
        folder.log("failed", f"nor could the rest be written: {one_line(again)}", level="error")
        return Result(EXIT_FAILED, folder.run_id, output.uri)
    return result


def _what_is_there(output: Output, folder: RunFolder) -> State:
    """The rows of earlier runs, with the traces of an interrupted one cleared away."""
    for run_id in interrupted_runs(output):
        if run_id == folder.run_id:
            continue
        mark_interrupted(output, run_id, folder.run_id)
        merge_manifest(output, run_id, {"run_id": run_id, "interrupted": True}, 0)
        folder.log("resume", f"run {run_id} was interrupted: what it committed stays, this run goes on")
    removed = output.tidy()
    if removed:
        folder.log(
            "resume", f"{len(removed)} parts that were never committed are removed", parts=removed[:20]
        )
    return read_state(output)


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
    config: ExtractConfig,
    models: Models,
    output: Output,
    folder: RunFolder,
    progress: Progress,
    env: dict[str, Any],
    startup: float,
    busy: dict[str, float],
    items: Sequence[SourceItem],
    error: BaseException | None,
) -> Result:
    output.fill_empty({"segments": segments_schema(models.clap_model), "failures": FAILURES})
    cache = tidy(config, lambda text: folder.log("fallback", text, level="warning"))
    numbers = performance(folder.run_id, progress, progress.elapsed(), startup, busy, cache)
    folder.write_json("performance.json", numbers)
    folder.write("PERFORMANCE_METRICS.md", markdown(numbers, env))
    header = {
        "run_id": folder.run_id,
        "aggregate_strategy": config.clap.aggregate,
        "fallbacks": numbers["fallbacks"],
    }
    merge_manifest(output, folder.run_id, header, len(progress.committed))
    report = write_report(folder, numbers, env)
    # Of all that was asked for: a run that goes on where another one stopped has fewer files of its own.
    rate = progress.failed() / max(1, len(items))
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
    files, rows = count_rows(output, [i.uri for i in items])
    if not files == rows == len({i.uri for i in items}):
        code = EXIT_FAILED
        text = f"{rows} rows in tracks for {files} of {len(items)} files; python jobs/verify.py says more"
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
