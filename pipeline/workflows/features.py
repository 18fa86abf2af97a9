"""Feature extraction: sources in, tables out, in one pass over each file.

Reads top to bottom: list → prepare the output → see which models are there → plan → run → reconcile → report.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence
from contextlib import ExitStack, suppress

import yaml

from pipeline.dataset.lock import OutputLock
from pipeline.dataset.manifest import merge_manifest
from pipeline.dataset.output import Output
from pipeline.dataset.run import RunFolder, interrupted_runs, mark_interrupted, new_run_id
from pipeline.dataset.sources import SourceItem
from pipeline.dataset.spaces import require_space
from pipeline.dataset.state import State, read_state
from pipeline.dataset.storage import public_uri
from pipeline.workflows.ahead import RayAhead
from pipeline.workflows.availability import Models, check_paths, find_models
from pipeline.workflows.config import ExtractConfig, redacted
from pipeline.workflows.keys import wanted_keys
from pipeline.workflows.listing import list_items
from pipeline.workflows.outcome import ENDED, EXIT_OK, Result
from pipeline.workflows.resume import plan_work

# The workers of a driver that was killed end a moment after it; what they still write is to be read.
LAST_WRITES_S = 2.0


def run(
    config: ExtractConfig,
    quiet: bool = False,
    retry: Collection[str] = (),
    given: Sequence[str] = (),
    moments: Mapping[str, float] | None = None,
) -> Result:
    """Run the job: compute what the output lacks. With ``dry_run`` only say what that would take.

    Args:
        retry: uris whose recorded failures are tried again.
        given: the overrides as they were typed, for the command that a dry run gives back.
        moments: when the job got where before this call, Unix time, for ``performance.json``.

    Raises:
        UserError: what the user can mend before anything was computed.
    """
    started = time.perf_counter()
    config.check()
    if config.dry_run:
        from pipeline.workflows.planning import plan  # it runs the stages, and so imports all of them

        plan(config, given, quiet)
        return Result(EXIT_OK, "", config.output.uri)
    output = Output(config.output.uri, config.output_options())
    items = list_items(config, quiet)
    check_paths(config)
    moments = dict(moments or {})
    ray = ray_of(config)
    with ExitStack() as stack:
        stack.callback(ray.close)
        if items and _is_empty(config, output):
            ray.begin()  # there is something to do, and Ray starts while weights are read
        models = find_models(config)
        moments["models"] = time.time()
        if models.clap_model is not None and not config.output.overwrite:
            require_space(output, models.clap_model)
        output.check()
        lock, taken = OutputLock(output, new_run_id()), []
        lock.acquire(taken.append)
        stack.callback(lock.release)
        folder = RunFolder(output, lock.owner, quiet)
        stack.callback(folder.close)
        for text in taken:
            folder.log("lock", text, level="warning")
        if taken:
            time.sleep(LAST_WRITES_S)
        ended = "failed"
        try:
            result = _run(config, items, models, output, folder, lock, started, retry, ray, moments)
            ended = ENDED.get(result.exit_code, "failed")
            return result
        except KeyboardInterrupt:
            ended = "stopped"
            raise
        finally:
            with suppress(Exception):  # where nothing can be written, this cannot be either
                folder.mark(ended)


def ray_of(config: ExtractConfig) -> RayAhead:
    """The Ray that the config names, not begun yet."""
    own = config.ray
    arguments = {
        "address": own.address,
        "num_cpus": own.num_cpus,
        "object_store_memory": own.object_store_memory,
        "threads": config.perf.threads,
    }
    return RayAhead(arguments, ask_cards=config.hardware.name == "auto")


def _is_empty(config: ExtractConfig, output: Output) -> bool:
    """Whether nothing of the output counts. What is wrong with it is said later, by what needs it."""
    if config.output.overwrite:
        return True
    with suppress(Exception):
        return not output.parts("tracks")
    return False


def _run(
    config: ExtractConfig,
    items: list[SourceItem],
    models: Models,
    output: Output,
    folder: RunFolder,
    lock: OutputLock,
    started: float,
    retry: Collection[str],
    ray: RayAhead,
    moments: dict[str, float],
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
    ray.begin()
    # Only now: Ray, its Data and what the report draws with take seconds to import, and there may be nothing to do.
    from pipeline.workflows.execution import Task, execute

    return execute(
        Task(config, items, models, output, folder, lock, started, keys, state, work, ray, moments)
    )


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
