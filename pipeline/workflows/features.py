"""Feature extraction: sources in, tables out, in one pass over each file.

Reads top to bottom: list → prepare the output → see which models are there → plan → run → reconcile → report.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence
from contextlib import ExitStack, suppress

import yaml

from pipeline.counting import plural
from pipeline.dataset.lock import OutputLock
from pipeline.dataset.output import Output
from pipeline.dataset.run_folder import RunFolder, interrupted_runs, mark_interrupted, new_run_id, say
from pipeline.dataset.sources.coverage import covers
from pipeline.dataset.sources.known_names import known_names
from pipeline.dataset.sources.listing import Listing, SourceItem
from pipeline.dataset.sources.manifest_columns import manifest_columns, with_columns
from pipeline.dataset.sources.named_items import named_items
from pipeline.dataset.storage import public_uri
from pipeline.dataset.tables.embedding_space import require_space
from pipeline.dataset.tables.halves import require_tracks
from pipeline.dataset.tables.row_index import State, read_state
from pipeline.dataset.tables.run_manifest import merge_manifest
from pipeline.workflows.ahead import RayAhead
from pipeline.workflows.availability import Models, check_paths, find_models
from pipeline.workflows.columns import settle_columns
from pipeline.workflows.config import ExtractConfig, SourceConfig, redacted
from pipeline.workflows.copies import write_copies
from pipeline.workflows.ending import (
    Standing,
    doubts_text,
    newest_report,
    next_text,
    rows_of,
    tell,
    written_text,
)
from pipeline.workflows.gone import KEEP, gone_uris, revive, settle_gone
from pipeline.workflows.keys import wanted_keys
from pipeline.workflows.listing import list_items
from pipeline.workflows.outcome import ENDED, EXIT_OK, Result, verdict
from pipeline.workflows.recognise import recognised
from pipeline.workflows.resume import WorkPlan, plan_work

# The workers of a driver that was killed end a moment after it; what they still write is to be read.
LAST_WRITES_S = 2.0


def run(
    config: ExtractConfig,
    quiet: bool = False,
    retry: Sequence[str] = (),
    given: Sequence[str] = (),
    moments: Mapping[str, float] | None = None,
) -> Result:
    """Run the job: compute what the output lacks. With ``dry_run`` only say what that would take.

    Args:
        retry: uris whose recorded failures are tried again; the source is not listed, and no other file is looked at.
        given: the overrides as they were typed, for the command that a dry run gives back.
        moments: when the job got where before this call, Unix time, for ``performance.json``; ``shell`` is when the
            command began, without it this call is taken for that.

    Raises:
        UserError: what the user can mend before anything was computed.
    """
    moments = dict(moments or {})
    moments.setdefault("shell", time.time())
    config.check()
    if config.dry_run:
        from pipeline.workflows.plan import plan  # it runs the stages, and so imports all of them

        plan(config, given, quiet, moments["shell"])
        return Result(EXIT_OK, "", config.output.uri)
    output = Output(config.output.uri, config.output_options())
    listing = Listing()
    items = named_items(retry, config.source.storage_options) if retry else list_items(config, quiet, listing)
    check_paths(config)
    ray = ray_of(config)
    with ExitStack() as stack:
        stack.callback(ray.close)
        if items and _is_empty(config, output):
            ray.begin()  # there is something to do, and Ray starts while weights are read
        if config.clap.enabled or config.separation.enabled:
            say("looking for the models and loading what names them", quiet)
        models = find_models(config)
        moments["models"] = time.time()
        if models.clap_model is not None and not config.output.overwrite:
            require_space(output, models.clap_model)
        output.check()
        lock, taken = OutputLock(output, new_run_id()), []

        def told(text: str) -> None:
            taken.append(text)
            say(text, quiet)  # at once: the run has no folder yet, and this may take half a minute

        lock.acquire(told)
        stack.callback(lock.release)
        folder = RunFolder(output, lock.owner, quiet)
        stack.callback(folder.close)
        for text in taken:
            folder.log("lock", text, level="warning", show=False)
        if taken:
            time.sleep(LAST_WRITES_S)
        ended = "failed"
        try:
            result = _run(config, items, listing, models, output, folder, lock, retry, ray, moments)
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
    listing: Listing,
    models: Models,
    output: Output,
    folder: RunFolder,
    lock: OutputLock,
    retry: Collection[str],
    ray: RayAhead,
    moments: dict[str, float],
) -> Result:
    folder.log(
        "start",
        f"run {folder.run_id}: {plural(len(items), 'file')} from "
        f"{public_uri(config.source.uri or config.source.manifest)}",
        files=len(items),
        hardware=config.hardware.name,
    )
    for warning in models.warnings:
        folder.log("fallback", warning, level="warning")
    keys = wanted_keys(config, models)
    state = State.nothing() if config.output.overwrite else _what_is_there(output, folder)
    items = known_names(items, state.rows["uri"], listing)
    columns, notes = manifest_columns(listing, items, state.schema)
    for note in (*listing.notes(), *notes):
        folder.log("source", note)
    work = plan_work(items, state, keys, retry, config.source.compare == "listing")
    gone = [] if retry else _gone(config.source, items, state)
    asked_for = state.rows.num_rows if retry else len(items)
    back = revive(output, items, state)
    if back:
        folder.log("resume", f"{plural(back, 'file')} of those that were gone are back")
    known = _take_over(config, work, state, output, folder, keys)
    if work.done:
        text = f"{work.done} of {plural(len(items), 'file')} done already, {len(work.files)} to do"
        folder.log("resume", text, done=work.done, todo=len(work.files))
    if not work.files:
        settle_gone(output, gone, state, config.source.gone, folder)
        if columns is not None and state.schema is not None:
            settle_columns(output, columns, with_columns(state.schema, state.schema, columns), folder)
        folder.write("config.yaml", yaml.safe_dump(redacted(config), sort_keys=False, allow_unicode=True))
        return _nothing_to_do(config, items, work, known, output, folder)
    ray.begin()
    # Only now: Ray, its Data and what the report draws with take seconds to import, and there may be nothing to do.
    from pipeline.workflows.execution import Task, execute

    return execute(
        Task(
            config,
            items,
            asked_for,
            columns,
            models,
            output,
            folder,
            lock,
            keys,
            state,
            work,
            gone,
            ray,
            moments,
        )
    )


def _gone(source: SourceConfig, items: list[SourceItem], state: State) -> list[str]:
    """The files that have a row and are there no longer, as far as the source was looked at."""
    if source.gone == KEEP or not state.rows.num_rows:
        return []
    looked_at = covers(
        items,
        source.uri,
        glob=source.glob,
        manifest=source.manifest,
        storage_options=source.storage_options,
        limit=source.limit,
    )
    return gone_uris(items, state, looked_at)


def _take_over(
    config: ExtractConfig,
    work: WorkPlan,
    state: State,
    output: Output,
    folder: RunFolder,
    keys: dict[str, str],
) -> int:
    """Give files of a known content their rows without Ray, where they are all that is new; how many."""
    if state.schema is None or state.uneven:
        return 0
    source = config.source
    found = recognised(work.files, state, source.storage_options, source.choice())
    written, _ = write_copies(output, found, state.schema, folder.run_id, keys) if found else ([], [])
    if not written:
        return 0
    there = {copy.file.index for copy, _ in written}
    work.files = [f for f in work.files if f.index not in there]
    work.failed += sum(original.status == "failed" for _, original in written)
    text = f"{plural(len(written), 'file')} with a content that is known already, not computed again"
    folder.log("copies", text, files=len(written))
    return len(written)


def _nothing_to_do(
    config: ExtractConfig,
    items: list[SourceItem],
    work: WorkPlan,
    known: int,
    output: Output,
    folder: RunFolder,
) -> Result:
    """What is recorded as failed is neither done nor silent: it counts as in the run that found it."""
    rest = "" if known else "nothing to do: "
    if not work.failed:
        text = f"{rest}all {plural(len(items), 'file')} done" if len(items) > 1 else f"{rest}the file is done"
    else:
        text = (
            f"{rest}{len(items) - work.failed} of {plural(len(items), 'file')} done, {work.failed} failed before: "
            f"python jobs/failures.py output.uri={output.uri} says why, and with retry=true tries again"
        )
    folder.log("done", text, failed=work.failed)
    code = verdict(work.failed, len(items), config.max_failure_rate, folder)
    standing = Standing.of(rows_of(output), [i.uri for i in items], config.features.enabled)
    following = next_text(output.uri, standing, newest_report(output))
    tell(folder, written_text(output.uri, {"tracks": known}), doubts_text(standing), following)
    return Result(code, folder.run_id, output.uri)


def _what_is_there(output: Output, folder: RunFolder) -> State:
    """The rows of earlier runs, with the traces of an interrupted one cleared away."""
    for run_id in interrupted_runs(output):
        if run_id == folder.run_id:
            continue
        mark_interrupted(output, run_id, folder.run_id)
        merge_manifest(output, run_id, {"run_id": run_id, "interrupted": True}, 0)
        folder.log("resume", f"run {run_id} was interrupted: what it committed stays, this run goes on")
    require_tracks(output)
    removed = output.tidy()
    if removed:
        folder.log("resume", f"{plural(len(removed), 'part')} removed, never committed", parts=removed[:20])
    return read_state(output)
