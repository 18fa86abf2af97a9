"""Failures of an output for a terminal, and what to run again."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.counting import plural
from pipeline.dataset.output import Output
from pipeline.dataset.storage import explain, is_local
from pipeline.dataset.tables.failures import RetryRequest, Summary, retry_request, summarise
from pipeline.errors import UserError


def show(output: Output, where: str | None = None, limit: int = 3) -> str:
    """The failures that meet ``where`` as text. Raises `UserError`, see `summarise`."""
    if is_local(output.uri) and not Path(output.uri).is_dir():
        raise UserError(f"output.uri={output.uri} does not exist: type the output.uri of a run")
    try:
        return text(summarise(output, where, limit), where)
    except OSError as error:
        raise explain(f"output.uri={output.uri}", error) from None


def text(found: Summary, where: str | None = None) -> str:
    """``found`` as an aligned table with examples below each class."""
    lines = [
        f"{plural(found.tracks, 'file')}: {found.files_failed} failed ({_share(found.files_failed, found.tracks)}), "
        f"{found.files_partial} partial ({_share(found.files_partial, found.tracks)})"
    ]
    if not found.rows:
        return "\n".join([*lines, "no failures" + (f" where {where}" if where else "")])
    lines += [
        f"{plural(found.rows, 'failure')}{f' where {where}' if where else ''}, {found.worker_died} killed their worker",
        "",
    ]
    rows = [("failures", "of files", "died", "stage", "error class")]
    classes = sorted(found.classes.items(), key=lambda item: (-item[1].rows, item[0]))
    for (stage, error_class), c in classes:
        rows.append((str(c.rows), _share(c.rows, found.tracks), str(c.worker_died), stage, error_class))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    table = [
        "  ".join(
            [*(c.rjust(w) for c, w in zip(row[:3], widths[:3], strict=True)), row[3].ljust(widths[3]), row[4]]
        )
        for row in rows
    ]
    lines.append(table[0])
    for line, (_, c) in zip(table[1:], classes, strict=True):
        lines.append(line)
        for uri, message in c.examples:
            lines += [f"{'':10}{_plain(uri)}", f"{'':12}{_plain(message)}"]
    return "\n".join(lines)


def _share(part: int, whole: int) -> str:
    return f"{part / whole:.1%}" if whole else "–"


def _plain(value: str) -> str:
    """On one line and without the escape codes that a file name may carry to the terminal."""
    return "".join(c if c.isprintable() else "�" for c in value)


def retry(output: Output, where: str | None = None, source_options: Mapping[str, Any] | None = None) -> int:
    """Run the files whose failures meet ``where`` again, with the newest run's config; return the exit code.

    Raises:
        UserError: nothing to go by, or secrets of that config have to be typed again.
    """
    request = retry_request(output, where)
    if not request.uris:
        print("nothing to run again")
        return 0
    print(f"{plural(len(request.uris), 'file')} to run again, with the config of run {request.run_id}")
    _require_options(request, output, dict(source_options or {}))
    return _rerun(request, output, dict(source_options or {}))


def _require_options(request: RetryRequest, output: Output, source_options: dict[str, Any]) -> None:
    """Refuse a retry whose secrets are not typed."""
    groups = {key.split(".storage_options.")[0] for key in request.redacted}
    given = {"source": source_options, "output": output.options}
    for group in sorted(groups):
        if not given.get(group):
            raise UserError(
                f"the config of run {request.run_id} keeps no secrets: type {group}.storage_options={{…}} again"
            )


def _rerun(request: RetryRequest, output: Output, source_options: dict[str, Any]) -> int:
    """The job of the output once more: what is done stays, these files are tried again."""
    # Here: showing failures needs neither torch nor the models.
    from pipeline.workflows.known_jobs import job_of
    from pipeline.workflows.run import Asked, run_job

    job = job_of(output)
    config = job.config(request.config)
    config.output.uri, config.output.overwrite = output.uri, False
    config.source.storage_options = source_options
    config.output.storage_options = dict(output.options)
    return run_job(job, config, Asked(retry=request.uris)).exit_code
