"""Feature extraction: sources in, tables out, in one pass over each file.

Reads top to bottom: list → prepare the output → see which models are there → plan → run → reconcile → report.
"""

from __future__ import annotations

import dataclasses
import json
import time
import traceback
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import torch
import yaml

from pipeline.dataset.manifest import merge_manifest
from pipeline.dataset.output import Output
from pipeline.dataset.run import RunFolder, environment, new_run_id
from pipeline.dataset.schemas import FAILURES, segments_schema
from pipeline.dataset.sources import SourceItem, list_source
from pipeline.dataset.spaces import require_space
from pipeline.dataset.storage import is_local, one_line, public_uri
from pipeline.engine.graph import Node, build_dataset, busy_seconds, receipts
from pipeline.engine.progress import Progress
from pipeline.engine.reconcile import lost_rows
from pipeline.engine.resources import StageResources, plan_resources
from pipeline.engine.session import Cluster, connect, disconnect, root_cause
from pipeline.engine.stages.sink import SinkStage
from pipeline.report.html import clock, render
from pipeline.report.overview import overview
from pipeline.report.performance import markdown, performance
from pipeline.workflows.availability import Models, find_models
from pipeline.workflows.config import ExtractConfig, redacted
from pipeline.workflows.hardware import resolve_hardware
from pipeline.workflows.stages import build_graph, plan_blocks, stage_names

EXIT_OK, EXIT_FAILED, EXIT_USAGE, EXIT_FAILURES = 0, 1, 2, 3


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


def run(config: ExtractConfig, quiet: bool = False) -> Result:
    """Run the job. Raises `UserError` for what the user can mend before anything was computed."""
    started = time.perf_counter()
    config.check()
    output = Output(config.output.uri, config.output_options())
    items = _list(config, quiet)
    models = find_models(config)
    if models.clap_model is not None and not config.output.overwrite:
        require_space(output, models.clap_model)
    output.check(config.output.overwrite)
    folder = RunFolder(output, new_run_id(), quiet)
    try:
        return _run(config, items, models, output, folder, started)
    finally:
        try:
            disconnect()
        finally:
            folder.close()


def _list(config: ExtractConfig, quiet: bool) -> list[SourceItem]:
    source = config.source
    items: list[SourceItem] = []
    said = time.perf_counter()
    for item in list_source(
        source.uri,
        glob=source.glob,
        manifest=source.manifest,
        storage_options=source.storage_options,
        limit=source.limit,
        exclude=config.output.uri,
    ):
        items.append(item)
        if not quiet and time.perf_counter() - said > 5:
            said = time.perf_counter()
            print(f"listing {source.uri}: {len(items)} files so far", flush=True)
    return items


def _run(
    config: ExtractConfig,
    items: list[SourceItem],
    models: Models,
    output: Output,
    folder: RunFolder,
    started: float,
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
    cluster = connect(
        config.ray.address, config.ray.num_cpus, config.ray.object_store_memory, config.perf.threads
    )
    devices = {
        "ray": vars(cluster),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }
    env = environment(devices)
    hardware, reasons = resolve_hardware(config.hardware, stage_names(config, models))
    for reason in reasons:
        folder.log("device", reason)
    config = dataclasses.replace(config, hardware=hardware)
    folder.write("config.yaml", yaml.safe_dump(redacted(config), sort_keys=False, allow_unicode=True))
    folder.write_json("environment.json", env)
    blocks = plan_blocks(items, hardware, cluster.cpus)
    nodes = build_graph(config, models, output, folder.run_id)
    resources = plan_resources(
        [n.name for n in nodes],
        cluster.cpus,
        cluster.gpus,
        hardware.gpu_shares,
        hardware.actors,
        len(blocks),
        config.perf.threads,
    )
    _log_plan(folder, cluster, nodes, resources, blocks, config, models)
    if config.output.overwrite:
        output.clear()  # only now: whatever could be refused has been
    progress = Progress(
        files=len(items),
        bytes=sum(i.size_bytes or 0 for i in items) if all(i.size_bytes for i in items) else 0,
        report=lambda fields: _say_progress(folder, fields),
    )
    startup = time.perf_counter() - started
    said = {(f.stage, f.wanted, f.used) for f in models.fallbacks}
    fraction = hardware.gpu_memory_fraction
    busy, error = _execute(blocks, nodes, resources, cluster, progress, folder, said, fraction)
    try:
        _reconcile(blocks, nodes, progress, folder)
        result = _finish(config, models, output, folder, progress, env, startup, busy)
    except Exception as again:
        if error is None:
            raise
        folder.log("failed", f"nor could the rest be written: {one_line(again)}", level="error")
        return Result(EXIT_FAILED, folder.run_id, output.uri)
    return result if error is None else dataclasses.replace(result, exit_code=EXIT_FAILED)


def _say_progress(folder: RunFolder, fields: dict[str, Any]) -> None:
    folder.log("progress", progress_text(fields), **fields)
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


def _execute(
    blocks: Sequence[pa.Table],
    nodes: Sequence[Node],
    resources: dict[str, StageResources],
    cluster: Cluster,
    progress: Progress,
    folder: RunFolder,
    said: set[tuple[str, str, str]],
    gpu_memory_fraction: float,
) -> tuple[dict[str, float], BaseException | None]:
    """Run the graph, naming each kind of fallback once; those in ``said`` are known already.

    Returns:
        the actors' busy seconds by Ray's clock, and the error that ended the run, if any.
    """
    try:
        dataset = build_dataset(blocks, nodes, resources, cluster.environment, gpu_memory_fraction)
        for receipt in receipts(dataset):
            progress.add(receipt)
            for stage, wanted, used, reason, _ in receipt["fallbacks"]:
                if (stage, wanted, used) not in said and len(said) < 20:
                    said.add((stage, wanted, used))
                    folder.log("fallback", f"{stage}: {used} instead of {wanted} ({reason})", level="warning")
    except Exception as error:  # noqa: BLE001  whatever Ray raises, the user gets one line and the log has the rest
        folder.log(
            "failed",
            f"the job failed after {len(progress.committed)} of {progress.files} files were committed: "
            f"{root_cause(error)}",
            level="error",
            traceback="".join(traceback.format_exception(error)),
        )
        return {}, error
    return busy_seconds(dataset, nodes), None


def _reconcile(
    blocks: Iterable[pa.Table], nodes: Sequence[Node], progress: Progress, folder: RunFolder
) -> None:
    lost = lost_rows(blocks, progress.committed)
    if lost is None:
        return
    folder.log(
        "lost", f"{lost.num_rows} files were lost with their workers; recorded as failures", level="warning"
    )
    receipt = SinkStage(**nodes[-1].arguments)(lost)["receipt"][0].as_py()
    progress.add(json.loads(receipt))


def _finish(
    config: ExtractConfig,
    models: Models,
    output: Output,
    folder: RunFolder,
    progress: Progress,
    env: dict[str, Any],
    startup: float,
    busy: dict[str, float],
) -> Result:
    output.fill_empty({"segments": segments_schema(models.clap_model), "failures": FAILURES})
    numbers = performance(folder.run_id, progress, progress.elapsed(), startup, busy)
    folder.write_json("performance.json", numbers)
    folder.write("PERFORMANCE_METRICS.md", markdown(numbers, env))
    header = {
        "run_id": folder.run_id,
        "aggregate_strategy": config.clap.aggregate,
        "fallbacks": numbers["fallbacks"],
    }
    merge_manifest(output, folder.run_id, header, len(progress.committed))
    found = overview(output)
    report = folder.write("report.html", render(numbers, env, found, output.uri))
    rate = progress.failed() / max(1, progress.files)
    folder.log("done", summary_text(progress, numbers), **progress.fields())
    for (stage, error_class), count in progress.failures.most_common(10):
        folder.log("failures", f"{count} × {error_class} in {stage}", level="warning", count=count)
    folder.log("report", f"report: {report}")
    code = EXIT_OK
    rows = found.rows["tracks"]
    if rows != progress.files:
        code = EXIT_FAILED
        folder.log("row_count", f"{rows} rows in tracks for {progress.files} files", level="error")
    if code == EXIT_OK and rate > config.max_failure_rate:
        code = EXIT_FAILURES
        folder.log(
            "failure_rate",
            f"{rate:.1%} of the files failed, more than max_failure_rate={config.max_failure_rate:g}",
            level="error",
        )
    return Result(code, folder.run_id, output.uri, report, numbers)


def progress_text(fields: dict[str, Any]) -> str:
    """A progress line for the terminal."""
    return (
        f"{fields['files_done']}/{fields['files']} files, {fields['audio_hours']:.2f} h of audio, "
        f"{fields['real_time_factor'] or 0:.1f}× real time, {fields['failed']} failed, "
        f"ETA {clock(fields['eta_s'])}"
    )


def summary_text(progress: Progress, numbers: dict[str, Any]) -> str:
    """The last line of a run."""
    status = progress.status
    return (
        f"{progress.files} files ({status['ok']} ok, {status['partial']} partial, {status['failed']} failed), "
        f"{clock(numbers['audio_s'])} of audio in {clock(numbers['wall_s'])}: "
        f"{numbers['real_time_factor'] or 0:.1f}× real time"
    )
