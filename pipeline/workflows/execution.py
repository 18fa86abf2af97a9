"""The part of a run that computes: connect → pack → run → reconcile → report."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import KW_ONLY, dataclass
from typing import Any

import pyarrow as pa
import yaml

from pipeline.dataset.run_folder import RunFolder, environment
from pipeline.dataset.sources.manifest_columns import add_columns, with_columns
from pipeline.dataset.storage import is_local, one_line
from pipeline.dataset.tables.run_manifest import merge_manifest
from pipeline.dataset.tables.schemas import FAILURES, table_schema
from pipeline.engine.driver import INLINE, Cluster, Driver, has_card
from pipeline.engine.groups import JOINED
from pipeline.engine.node import Node
from pipeline.engine.packing import PlannedFile, estimated_seconds
from pipeline.engine.progress import Progress
from pipeline.engine.resources import Workload
from pipeline.engine.starting import ahead
from pipeline.engine.within import BOARD
from pipeline.report.formatting import clock, plural
from pipeline.report.live import progress_text
from pipeline.report.money import cost, money
from pipeline.report.performance import copies_text, group, markdown, performance
from pipeline.workflows.aftercare import even_out, look_back, tend_shared
from pipeline.workflows.attempts import Attempts, Layout, TooManyFailures
from pipeline.workflows.caching import tidy
from pipeline.workflows.columns import settle_columns
from pipeline.workflows.context import Run
from pipeline.workflows.drivers import GOLDEN
from pipeline.workflows.ending import Standing, doubts_text, next_text, rows_of, tell, written_text
from pipeline.workflows.golden_job import settle_golden
from pipeline.workflows.gone import settle_gone
from pipeline.workflows.hardware import resolve_hardware
from pipeline.workflows.outcome import EXIT_FAILED, EXIT_FAILURES, Result, verdict
from pipeline.workflows.plan_file import adopt_plan
from pipeline.workflows.run_config import redacted
from pipeline.workflows.stages import (
    Pools,
    build_graph,
    idle_stages,
    plan_blocks,
    plan_pools,
    run_schema,
    stage_weights,
)
from pipeline.workflows.stopping import EXIT_STOPPED, Stopped, stoppable
from pipeline.workflows.terminal import shown


@dataclass
class RunOutcome:
    """What became of a run's work.

    Args:
        progress: counts.
        driver, cluster: of the workers, and what they had to run on.
        environment: for ``environment.json``.
        startup_s: from the beginning of the command to that of the work.
        report_writer: see `pipeline.report.html.write_report`.
        error: what ended the work early.
    """

    progress: Progress
    driver: Driver
    cluster: Cluster
    environment: dict[str, Any]
    startup_s: float
    _: KW_ONLY
    report_writer: Future[Callable[..., str]]
    error: BaseException | None = None


def execute(run: Run) -> Result:
    """Compute what there is to do, and write the run's record. The driver is closed in the end."""
    try:
        return _execute(run)
    finally:
        run.drivers.close()


def _execute(run: Run) -> Result:
    config, models, output, folder, work = run.config, run.models, run.output, run.folder, run.work
    adopt_plan(config, run.keys, len(work.files), folder)
    driver = run.drivers.settle([f.item for f in work.files], models)
    folder.log("driver", _driver_text(run), inline=run.drivers.choice.inline)
    if cut := run.drivers.cut():
        folder.log("driver", cut, level="warning")
    # What draws it takes a second to import; one process leaves a core for that while it loads its packages.
    report = ahead(_report_writer, "report") if run.drivers.choice.inline else None
    waits_for = driver.waits_for()
    if waits_for:
        folder.log("waiting", f"{waits_for}; meanwhile the golden vectors of this machine are computed")
    own_card = ahead(_own_card, "own card") if has_card() else None
    golden = settle_golden(config, models, output, folder, lambda *given: driver.call(GOLDEN, *given))
    run.reached("golden")
    cluster = driver.cluster()
    run.reached("ray")
    # The driver of a cluster commonly has no card, and its workers have.
    gpu = (own_card and own_card.result()) or ", ".join(cluster.accelerators) or None
    env = environment({"ray": vars(cluster), "gpu": gpu})
    hardware, reasons = resolve_hardware(config.hardware, models.pipeline(config).stages, driver.cards())
    audio_s = sum(estimated_seconds(f.item) for f in work.files)
    run.drivers.on_cards(hardware.gpu_shares)
    config, more = models.settle(dataclasses.replace(config, hardware=hardware), audio_s)
    for reason in (*reasons, *more):
        folder.log("device", reason)
    run.config = config
    folder.write("config.yaml", yaml.safe_dump(redacted(config), sort_keys=False, allow_unicode=True))
    folder.write_json("environment.json", env)

    def cut(files: Sequence[PlannedFile]) -> list[pa.Table]:
        return add_columns(plan_blocks(files, hardware, cluster.cpus), run.columns)

    blocks = cut(work.files)
    everywhere = cluster.nodes > 1
    contents = dataclasses.replace(
        models.pipeline(config, output, everywhere=everywhere).contents, job=run.job.name
    )
    if not config.output.overwrite:
        output.expect(contents)
        contents = output.contents
    schema = with_columns(run_schema(config, models, everywhere), run.state.schema, run.columns, contents)

    idle = idle_stages(models.pipeline(config), work.files)

    def nodes(ledger: Any) -> list[Node]:
        return build_graph(
            config,
            models,
            output,
            folder.run_id,
            schema,
            ledger=ledger,
            cached=True,
            golden=golden,
            idle=idle,
        )

    pools = plan_pools(config, models, cluster, len(blocks), Workload(audio_s, len(work.files)))
    _log_plan(run, cluster, blocks, pools)
    if config.output.overwrite:
        output.clear()  # only now: whatever could be refused has been
    output.declare(contents)
    sizes = [f.item.size_bytes for f in work.files]
    progress = Progress(
        files=len(work.files),
        bytes=sum(sizes) if all(sizes) else 0,
        report=lambda fields: _say_progress(folder, fields),
        parts=BOARD.parts,
        weights=stage_weights(config, models, idle),
    )
    folder.log("waiting", "starting the workers: they load their packages and models")
    startup = time.time() - run.moments["shell"]
    attempts = Attempts(run, driver, Layout(nodes, cut, schema, pools.resources, pools.groups), progress)
    # What draws it takes a second to import, and there is nothing else to do while the workers start.
    report = report or ahead(_report_writer, "report")
    outcome = RunOutcome(progress, driver, cluster, env, startup, report_writer=report)
    with stoppable(), shown(progress, folder):
        outcome.error = attempts.run(work.files, work.owners)
    run.reached("passed")
    try:
        if outcome.error is None:
            _tend(run, schema)
        return _finish(run, outcome)
    except Exception as again:
        if outcome.error is None:
            raise
        folder.log("failed", f"nor could the rest be written: {one_line(again)}", level="error")
        return Result(EXIT_FAILED, folder.run_id, output.uri)


def _driver_text(run: Run) -> str:
    choice = run.drivers.choice
    which = f"in {choice.place}, without Ray" if choice.inline else "with Ray"
    other = "ray.address=local for Ray" if choice.inline else f"ray.address={INLINE} for one process"
    named = run.config.ray.address or any(run.config.hardware.gpu_shares.values())
    return f"{which}, because {choice.why}" if named else f"{which}: {choice.why} ({other})"


def _tend(run: Run, schema: pa.Schema) -> None:
    """What is done once all rows are there."""
    even_out(run.output, run.state, schema)
    if run.columns is not None:
        settle_columns(run.output, run.columns, schema, run.folder)
    tend_shared(run.output, run.work, run.run_id, run.unsettled)
    settle_gone(run.output, run.gone, run.state, run.config.source.gone, run.folder)
    look_back(run)


def _own_card() -> str | None:
    """The name of this machine's card, as its driver has it; None without one. Asking wakes CUDA up: a second."""
    import torch

    return torch.cuda.get_device_name() if torch.cuda.is_available() else None


def _report_writer() -> Callable[..., str]:
    from pipeline.report.html import write_report

    return write_report


def _say_progress(folder: RunFolder, fields: dict[str, Any]) -> None:
    folder.log("progress", progress_text(fields), show=False, **fields)  # the view shows it
    folder.sync(at_most_every_s=30)


def _log_plan(run: Run, cluster: Cluster, blocks: Sequence[pa.Table], pools: Pools) -> None:
    """Say what the work is laid out on."""
    folder, config, models = run.folder, run.config, run.models
    inline = cluster.address == INLINE
    place = run.drivers.choice.place if inline else f"Ray {cluster.address}"
    folder.log(
        "device",
        f"{place}: {plural(cluster.nodes, 'node')}, {plural(cluster.cpus, 'CPU')}, "
        f"{plural(cluster.gpus, 'GPU')}; hardware={config.hardware.name}, "
        f"{plural(config.perf.threads, 'thread')} per {'process' if inline else 'actor'}",
        **vars(cluster),
    )
    if cluster.note:
        folder.log("fallback", cluster.note, level="warning")
    if cluster.nodes > 1 and is_local(config.output.uri):
        text = f"output.uri={config.output.uri} is a local path and the cluster has {cluster.nodes} nodes: "
        folder.log("plan", text + "it must be a folder that all of them share", level="warning")
    if pools.why and not inline:
        together = ", ".join(name for name in pools.resources if JOINED in name)
        folder.log("plan", f"stages share processes ({together}): {pools.why}", groups=pools.groups)
    counts = [f"{name}×{pool.actors}" for name, pool in pools.resources.items()]
    stages = ", ".join(pools.by_stage if inline else counts)
    folder.log(
        "plan",
        f"{plural(len(blocks), 'block')} through {stages}",
        blocks=len(blocks),
        resources={} if inline else {name: vars(pool) for name, pool in pools.resources.items()},
    )
    folder.log("parameters", models.about(config), products=run.keys)


def _finish(run: Run, outcome: RunOutcome) -> Result:
    output, folder, progress, error = run.output, run.folder, outcome.progress, outcome.error
    tables = {name: table_schema(table) for name, table in output.contents.tables.items()}
    output.fill_empty({**tables, "failures": FAILURES})
    cache = tidy(run.config, lambda text: folder.log("fallback", text, level="warning"))
    folder.log("waiting", "writing the report")
    elapsed, startup, busy = progress.elapsed(), outcome.startup_s, outcome.driver.busy()
    numbers = performance(folder.run_id, progress, elapsed, startup, busy, cache=cache, moments=run.moments)
    _write_numbers(run, outcome, numbers)
    header = {
        "run_id": folder.run_id,
        **run.models.header(run.config),
        "fallbacks": numbers["fallbacks"],
    }
    merge_manifest(output, folder.run_id, header, len(progress.committed))
    report = outcome.report_writer.result()(folder, numbers, outcome.environment)
    _write_numbers(run, outcome, numbers)  # with the time that the report took
    folder.log("done", summary_text(progress, numbers), **progress.fields())
    for (stage, error_class), count in progress.failures.most_common(10):
        folder.log("failures", f"{count} × {error_class} in {stage}", level="warning", count=count)
    folder.log("report", f"report: {report or 'none'}", show=False)  # the last line says it
    standing = _standing(run, outcome)
    code = _exit_code(run, standing, error)
    counts = {
        "tracks": len(progress.committed),
        "failures": sum(progress.failures.values()),
        **progress.written,
    }
    broken = error is None and not standing.complete
    tell(
        folder,
        written_text(output.uri, counts, {a.name: a.noun for a in output.contents.artifacts.values()}),
        doubts_text(standing, numbers["fallbacks"]),
        next_text(output.uri, standing, report, error is not None, broken),
    )
    return Result(code, folder.run_id, output.uri, report, numbers)


def _standing(run: Run, outcome: RunOutcome) -> Standing:
    """The rows of what was asked for, or, where a run that ended early cannot read them, what it counted itself."""
    progress = outcome.progress
    try:
        uris = [i.uri for i in run.items]
        return Standing.of(rows_of(run.output), uris, run.keys)
    except Exception:
        if outcome.error is None:
            raise
        done = len(progress.committed)
        return Standing(progress.files, done, done, progress.failed(), progress.status["partial"])


def _exit_code(run: Run, standing: Standing, error: BaseException | None) -> int:
    if error is not None:
        return {Stopped: EXIT_STOPPED, TooManyFailures: EXIT_FAILURES}.get(type(error), EXIT_FAILED)
    if not standing.complete:
        text = f"{plural(standing.rows, 'row')} in tracks for {standing.files} of {plural(standing.asked_for, 'file')}"
        run.folder.log("row_count", f"{text}; python jobs/verify.py says more", level="error")
        return EXIT_FAILED
    # Of all that was asked for: a run that goes on where another one stopped has fewer files of its own.
    return verdict(standing.failed, run.asked_for, run.config.max_failure_rate, run.folder)


def _write_numbers(run: Run, outcome: RunOutcome, numbers: dict[str, Any]) -> None:
    """Write what was measured, and in it how long the user has waited until now, and what that costs."""
    numbers["command_s"] = took = time.time() - run.moments["shell"]
    hours, prices = numbers["audio_s"] / 3600, run.config.plan.prices()
    cpus, gpus = outcome.cluster.cpus, outcome.cluster.gpus
    numbers["cost"] = cost(prices, cpus, gpus, took, hours, stages=numbers["stages"])
    run.folder.write_json("performance.json", numbers)
    run.folder.write("PERFORMANCE_METRICS.md", markdown(numbers, outcome.environment))


def _on(numbers: dict[str, Any]) -> str:
    """What the stages ran on, and how much of their work went on side by side. A run so short that it mostly waited
    for its workers to start says nothing of that."""
    cards = sorted({group(name) for name, s in numbers["stages"].items() if s["device"] != "cpu"})
    where = f"{', '.join(cards)} on the GPU" if cards else "no GPU"
    speedup = numbers["parallel_speedup"] or 0.0
    return where + (f", parallel speed-up {speedup:.1f}×" if speedup >= 1 else "")


def summary_text(progress: Progress, numbers: dict[str, Any]) -> str:
    """What a run did, in one line."""
    status = progress.status
    return (
        f"{plural(progress.files, 'file')} ({status['ok']} ok, {status['partial']} partial, "
        f"{status['failed']} failed), {clock(numbers['audio_s'])} of audio in {clock(numbers['wall_s'])}: "
        f"{numbers['real_time_factor'] or 0:.1f}× real time"
        + (f", and {copies_text(numbers)}" if numbers["copies"] else "")
        + f"; {clock(numbers['command_s'])} since the command began"
        + f"; {_on(numbers)}"
        + (f", at a cost of {money(numbers['cost']['total'])}" if numbers["cost"] else "")
    )
