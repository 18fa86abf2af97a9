"""Verify an output and say what was found: a table for the terminal, JSON for programs."""

from __future__ import annotations

import datetime
import json
from pathlib import Path

from pipeline.counting import plural
from pipeline.dataset.output import Output
from pipeline.dataset.storage import explain, is_local
from pipeline.dataset.verify import Report, verify
from pipeline.errors import UserError

EXAMPLES = 3


def run(
    output: Output,
    repair: bool = False,
    report: str | None = None,
    quiet: bool = False,
    *,
    prune: bool = False,
    deep: bool = False,
) -> Report:
    """Verify ``output``, print the summary, and write the report where it is wanted.

    Args:
        repair: mend what can be mended; writes ``runs/verify-<time>.json``.
        report: local file for the report, with or without repair.
        quiet: print nothing.
        deep: read arrays and stems, too.
        prune: repair, and remove the rows of files that are there no longer.

    Raises:
        UserError: see `pipeline.dataset.verify.verify`; or ``report`` cannot be written.
    """
    say = (lambda line: None) if quiet else (lambda line: print(line, flush=True))
    if is_local(output.uri) and not Path(output.uri).is_dir():
        raise UserError(f"output.uri={output.uri} does not exist: type the output.uri of a run")
    try:
        found = verify(output, repair, say, prune=prune, deep=deep)
    except UserError:
        raise
    except OSError as error:
        raise explain(f"output.uri={output.uri}", error) from None
    text = json.dumps(found.as_json(), indent=2) + "\n"
    say(summary(found, repair or prune))
    if repair or prune:
        now = datetime.datetime.now(datetime.timezone.utc)
        name = f"runs/verify-{now:%Y%m%dT%H%M%S}.json"
        output.write(name, text.encode())
        say(f"report: {output.uri}/{name}")
    if report is not None:
        try:
            Path(report).write_text(text, encoding="utf-8")
        except OSError as error:
            raise UserError(f"report={report} cannot be written ({error.strerror})") from None
        say(f"report: {report}")
    return found


def summary(report: Report, repair: bool = False) -> str:
    """The counts as an aligned table, with the first findings that remain."""
    if not report.found:
        return f"{plural(report.tracks, 'track')}: clean"
    left = report.remaining
    kinds = sorted({*report.found, *report.mended, *left.counts}, key=lambda k: (-report.found[k], k))
    head = ("problem", "found", "mended", "left", "repair=true can mend")
    rows = [head]
    for kind in kinds:
        can = "" if not left.counts[kind] else f"{left.mendable[kind]} of {left.counts[kind]}"
        rows.append((kind, *(str(c[kind]) for c in (report.found, report.mended, left.counts)), can))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [f"{plural(report.tracks, 'track')}, {plural(report.found.total(), 'problem')}", ""]
    for row in rows:
        cells = [row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:4], widths[1:4], strict=True))]
        lines.append("  ".join([*cells, row[4]]).rstrip())
    for kind in kinds:
        examples = [f for f in left.kept if f.kind == kind][:EXAMPLES]
        lines += ["", f"{kind}:"] if examples else []
        for f in examples:
            what = f"repair: {f.mend}" if f.mend is not None else f"not mendable: {f.advice}"
            lines += [f"  {f.where}: {f.message}", f"    {what}"]
    if repair and not left.total:
        lines += ["", "all of it mended"]
    elif not repair and any(left.mendable.values()):
        lines += ["", "type repair=true to mend what can be mended, while no job writes there"]
    return "\n".join(lines)
