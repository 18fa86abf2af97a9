"""Mending what can be mended. A part is rewritten whole or not at all, and only files of ours are removed."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.dataset.output import Output, read_part
from pipeline.dataset.tables.merge import conform
from pipeline.dataset.tables.rehome import rehome
from pipeline.dataset.tables.row_index import read_state
from pipeline.dataset.tables.schemas import FAILURES
from pipeline.dataset.verify.files import is_ours, is_temporary
from pipeline.dataset.verify.findings import Edit, Finding
from pipeline.dataset.verify.runs import PROBE
from pipeline.errors import UserError


def mend(output: Output, findings: Iterable[Finding]) -> list[Finding]:
    """Mend what can be mended and return those findings.

    Rows first: a file that they referred to is an orphan for the next round only.
    """
    mended = [f for f in findings if f.mend is not None]
    edits: dict[str, list[Edit]] = defaultdict(list)
    for finding in mended:
        for edit in finding.edits:
            edits[edit.part].append(edit)
    # `tracks` last: should this end half way, the next verify finds rows without a track, not the reverse.
    for part in sorted(edits, key=lambda name: (name.startswith("tracks/"), name)):
        _rewrite(output, part, [edit for edit in edits[part] if not edit.failures])
    for part, some in edits.items():
        _add_failures(output, part, [row for edit in some for row in edit.failures])
    for finding in mended:
        if finding.remove is not None:
            _remove(output, finding.remove)
    _rehome(output, edits)
    return mended


def _rehome(output: Output, edits: Mapping[str, Sequence[Edit]]) -> None:
    """Move what a removed row of `tracks` leaves behind to where another file with its content is.

    A run writes a part anew with what lies in it: it would compute what is left behind a second time.
    """
    folder = "tracks/"
    left = {
        part.removeprefix(folder)
        for part, some in edits.items()
        if part.startswith(folder) and any(e.drop for e in some)
    }
    if not left:
        return
    try:
        state = read_state(output)
    except UserError:
        return  # a part that cannot be read is a finding of its own, and may have been the home of any row
    rehome(output, left, state)


def _add_failures(output: Output, part: str, rows: Sequence[Mapping[str, Any]]) -> None:
    if not rows:
        return
    name = f"failures/{part.partition('/')[2]}"
    table = pa.Table.from_pylist(list(rows), schema=FAILURES)
    if output.fs.exists(output.path(name)):
        table = pa.concat_tables([conform(read_part(pa.BufferReader(output.read(name))), FAILURES), table])
    output.write_table(name, table)


def _rewrite(output: Output, part: str, edits: Sequence[Edit]) -> None:
    if not edits:
        return
    table = read_part(pa.BufferReader(output.read(part)))
    for name in {name for edit in edits for name in edit.null}:
        if name in table.column_names:
            table = _set_null(table, name, {e.row for e in edits if name in e.null})
    forgotten: dict[int, set[str]] = defaultdict(set)
    for edit in edits:
        if edit.forget:
            forgotten[edit.row].add(edit.forget)
    if forgotten:
        table = _forget(table, forgotten)
    dropped = sorted({e.row for e in edits if e.drop})
    if dropped:
        table = table.filter(pa.array(~np.isin(np.arange(table.num_rows), dropped)))
    # A part without rows stays: it keeps its name over the tables, and the table readable.
    output.write_table(part, table)


def _set_null(table: pa.Table, name: str, rows: set[int]) -> pa.Table:
    place = table.schema.get_field_index(name)
    kept = pa.array([None if row in rows else row for row in range(table.num_rows)], type=pa.int64())
    return table.set_column(place, table.schema.field(place), table[name].take(kept))


def _forget(table: pa.Table, forgotten: dict[int, set[str]]) -> pa.Table:
    place = table.schema.get_field_index("extractor_keys")
    field = table.schema.field(place)
    keys = [
        None if own is None else [(name, key) for name, key in own if name not in forgotten.get(row, ())]
        for row, own in enumerate(table["extractor_keys"].to_pylist())
    ]
    return table.set_column(place, field, pa.array(keys, type=field.type))


def _remove(output: Output, relative: str) -> None:
    folders = output.folders()
    table, _, name = relative.partition("/")
    part = (
        table in output.tables and name.startswith("part-") and name.endswith(".parquet") and "/" not in name
    )
    if not (
        part or is_ours(relative, folders) or is_temporary(relative, folders) or PROBE.fullmatch(relative)
    ):
        raise ValueError(f"not one of our names: {relative!r}")
    root = output.path("runs").removesuffix("runs")
    # Not `Output.discard`, whose names never begin with a dot; what is_temporary takes has no "..".
    path = root + relative
    if output.fs.exists(path):
        output.fs.rm(path)
