"""What every job does in order: sources in, tables out, in one pass over each file.

Reads top to bottom: list → prepare the output → see which models are there → plan → run → reconcile → report.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field

import yaml

from pipeline.counting import plural
from pipeline.dataset.lock import OutputLock
from pipeline.dataset.output import Output
from pipeline.dataset.run_folder import RunFolder, mark_interrupted, new_run_id, say, unfinished_runs
from pipeline.dataset.sources.coverage import covers
from pipeline.dataset.sources.known_names import known_names
from pipeline.dataset.sources.listing import Listing, SourceItem
from pipeline.dataset.sources.manifest_columns import manifest_columns, with_columns
from pipeline.dataset.sources.named_items import named_items
from pipeline.dataset.storage import public_uri
from pipeline.dataset.tables.embedding_space import require_spaces
from pipeline.dataset.tables.halves import require_tracks
from pipeline.dataset.tables.row_index import State, read_state
from pipeline.dataset.tables.run_manifest import merge_manifest
from pipeline.errors import UserError
from pipeline.workflows.aftercare import look_back, tend_shared
from pipeline.workflows.columns import settle_columns
from pipeline.workflows.context import Run
from pipeline.workflows.copies import write_copies
from pipeline.workflows.drivers import Drivers
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
from pipeline.workflows.job import Job
from pipeline.workflows.listing import list_items
from pipeline.workflows.outcome import ENDED, EXIT_OK, Result, verdict
from pipeline.workflows.recognise import recognised
from pipeline.workflows.resume import plan_work
from pipeline.workflows.run_config import RunConfig, SourceConfig, redacted
from pipeline.workflows.wanted_keys import wanted_keys

# The workers of a driver that was killed end a moment after it; what they still write is to be read.
LAST_WRITES_S = 2.0


@dataclass(frozen=True)
class Asked:
    """How a run was asked for.

    Args:
        quiet: nothing goes to the terminal.
        retry: uris whose recorded failures are tried again; the source is not listed, and no other file is looked at.
        given: the overrides as they were typed, for the command that a dry run gives back.
        moments: when the job got where before this call, Unix time, for ``performance.json``; ``shell`` is when the
            command began, without it this call is taken for that.
    """

    quiet: bool = False
    retry: Sequence[str] = ()
    given: Sequence[str] = ()
    moments: Mapping[str, float] = field(default_factory=dict)


def run_job(job: Job, config: RunConfig, asked: Asked | None = None) -> Result:
    """Run a job: compute what the output lacks. With ``dry_run`` only say what that would take.

    Raises:
        UserError: what the user can mend before anything was computed.
    """
    asked = asked or Asked()
    quiet, retry = asked.quiet, asked.retry
    moments = dict(asked.moments)
    moments.setdefault("shell", time.time())
    config.check()
    if config.dry_run:
        from pipeline.workflows.plan import plan  # it runs the stages, and so imports all of them

        plan(job, config, asked.given, quiet, moments["shell"])
        return Result(EXIT_OK, "", config.output.uri)
    output = Output(config.output.uri, config.output_options())
    listing = Listing()
    items = named_items(retry, config.source.storage_options) if retry else list_items(config, quiet, listing)
    job.check(config)
    drivers = Drivers(config, job)
    with ExitStack() as stack:
        stack.callback(drivers.close)
        if items and _is_empty(config, output):
            drivers.begin_early(items)  # there is something to do, and packages load while weights are read
        seeks = job.seeks(config)
        if seeks:
            say(seeks, quiet)
        models = drivers.find()
        moments["models"] = time.time()
        output.check()
        if not config.output.overwrite:
            _require_job(output, job)
            require_spaces(output, models.pipeline(config).contents)
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
            result = _run(
                Run(
                    job,
                    config,
                    output,
                    folder,
                    lock,
                    models=models,
                    drivers=drivers,
                    moments=moments,
                    listing=listing,
                    items=items,
                    retry=retry,
                )
            )
            ended = ENDED.get(result.exit_code, "failed")
            return result
        except KeyboardInterrupt:
            ended = "stopped"
            raise
        finally:
            with suppress(Exception):  # where nothing can be written, this cannot be either
                folder.mark(ended)


def _require_job(output: Output, job: Job) -> None:
    """Refuse an output of another job. Raises `UserError`."""
    there = output.contents.job if output.parts("tracks") else job.name
    if there not in ("", job.name):
        raise UserError(
            f"{output.uri} holds what the job {there} wrote, and this is {job.name}",
            "one output holds one job: their rows are of different things",
            "another output.uri, or output.overwrite=true to replace it",
        )


def _is_empty(config: RunConfig, output: Output) -> bool:
    """Whether nothing of the output counts. What is wrong with it is said later, by what needs it."""
    if config.output.overwrite:
        return True
    with suppress(Exception):
        return not output.parts("tracks")
    return False


def _run(run: Run) -> Result:
    config, output, folder = run.config, run.output, run.folder
    folder.log(
        "start",
        f"run {folder.run_id}: {plural(len(run.items), 'file')} from "
        f"{public_uri(config.source.uri or config.source.manifest)}",
        files=len(run.items),
        hardware=config.hardware.name,
    )
    for warning in run.models.warnings:
        folder.log("fallback", warning, level="warning")
    run.keys = wanted_keys(config, run.models)
    run.state = State.nothing() if config.output.overwrite else _what_is_there(run)
    run.items = known_names(run.items, run.state.rows["uri"], run.listing)
    run.columns, notes = manifest_columns(run.listing, run.items, run.state.schema)
    for note in (*run.listing.notes(), *notes):
        folder.log("source", note)
    run.work = plan_work(run.items, run.state, run.keys, run.retry, config.source.compare == "listing")
    run.gone = [] if run.retry else _gone(config.source, run.items, run.state)
    run.asked_for = run.state.rows.num_rows if run.retry else len(run.items)
    back = revive(output, run.items, run.state)
    if back:
        folder.log("resume", f"{plural(back, 'file')} of those that were gone are back")
    run.unsettled.add(run.work)
    run.unsettled.record(folder)
    known, work = _take_over(run), run.work
    if work.done:
        text = f"{work.done} of {plural(len(run.items), 'file')} done already, {len(work.files)} to do"
        folder.log("resume", text, done=work.done, todo=len(work.files))
    if not work.files:
        tend_shared(output, work, run.run_id, run.unsettled)
        settle_gone(output, run.gone, run.state, config.source.gone, folder)
        if run.columns is not None and run.state.schema is not None:
            schema = with_columns(run.state.schema, run.state.schema, run.columns, output.contents)
            settle_columns(output, run.columns, schema, folder)
        look_back(run)
        folder.write("config.yaml", yaml.safe_dump(redacted(config), sort_keys=False, allow_unicode=True))
        return _nothing_to_do(run, known)
    run.drivers.settle([f.item for f in work.files], run.models)
    # Only now: what computes takes seconds to import, and there may be nothing to do.
    from pipeline.workflows.execution import execute

    return execute(run)


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


def _take_over(run: Run) -> int:
    """Give files of a known content their rows without a driver, where they are all that is new; how many."""
    if run.state.schema is None or run.state.uneven:
        return 0
    source, work = run.config.source, run.work
    found = recognised(work.files, run.state, source.storage_options, source.choice())
    if not found:
        return 0
    written, _ = write_copies(run.output, found, run.state.schema, run.run_id, run.keys)
    if not written:
        return 0
    there = {copy.file.index for copy, _ in written}
    work.files = [f for f in work.files if f.index not in there]
    work.failed += sum(original.status == "failed" for _, original in written)
    text = f"{plural(len(written), 'file')} with a content that is known already, not computed again"
    run.folder.log("copies", text, files=len(written))
    return len(written)


def _nothing_to_do(run: Run, known: int) -> Result:
    """What is recorded as failed is neither done nor silent: it counts as in the run that found it."""
    config, items, work, output, folder = run.config, run.items, run.work, run.output, run.folder
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
    standing = Standing.of(rows_of(output), [i.uri for i in items], run.keys)
    following = next_text(output.uri, standing, newest_report(output))
    tell(folder, written_text(output.uri, {"tracks": known}), doubts_text(standing), following)
    return Result(code, folder.run_id, output.uri)


def _what_is_there(run: Run) -> State:
    """The rows of earlier runs, with the traces of an interrupted one cleared away."""
    output, folder = run.output, run.folder
    unfinished = {id: status for id, status in unfinished_runs(output).items() if id != folder.run_id}
    run.unsettled.take_over(unfinished, folder)
    for run_id in (id for id, status in unfinished.items() if status == "running"):
        mark_interrupted(output, run_id, folder.run_id)
        merge_manifest(output, run_id, {"run_id": run_id, "interrupted": True}, 0)
        folder.log("resume", f"run {run_id} was interrupted: what it committed stays, this run goes on")
    require_tracks(output)
    removed = output.tidy()
    if removed:
        folder.log("resume", f"{plural(len(removed), 'part')} removed, never committed", parts=removed[:20])
    return read_state(output)
