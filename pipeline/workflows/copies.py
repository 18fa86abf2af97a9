"""Files with the content of another one: they get its row, once that is there."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.dataset.merge import conform
from pipeline.dataset.output import Output, read_part
from pipeline.dataset.schemas import TIMINGS
from pipeline.dataset.state import read_state
from pipeline.engine.plan import PlannedFile, part_name
from pipeline.workflows.resume import missing_keys

ROWS_PER_PART = 256


@dataclass(frozen=True)
class Copy:
    """A file, the content it turned out to have, its size, and what reading it cost."""

    file: PlannedFile
    asset_id: str
    size_bytes: int
    timings: tuple[dict[str, Any], ...] = ()


def write_copies(
    output: Output, copies: Sequence[Copy], schema: pa.Schema, run_id: str, keys: Mapping[str, str]
) -> tuple[list[tuple[Copy, str]], list[PlannedFile]]:
    """Write the rows of ``copies``.

    Returns:
        those that were written, each with its status, and the files of which no complete row of the same content
        is there: they have to be computed.
    """
    rows = _source_rows(output, {c.asset_id for c in copies}, schema, keys)
    known = [c for c in copies if c.asset_id in rows]
    left = [c.file for c in copies if c.asset_id not in rows]
    new = [c for c in known if c.file.part is None]
    for start in range(0, len(new), ROWS_PER_PART):
        some = new[start : start + ROWS_PER_PART]
        name = part_name(some[0].file.index, [c.file.item.uri for c in some])
        _write_timings(output, name, some)
        output.write_table(f"tracks/{name}", _table(some, rows, run_id, schema))
    by_part: dict[str, list[Copy]] = {}
    for copy in known:
        if copy.file.part is not None:
            by_part.setdefault(copy.file.part, []).append(copy)
    for name, some in by_part.items():
        _replace(output, name, some, _table(some, rows, run_id, schema))
    return [(c, rows[c.asset_id]["status"][0].as_py()) for c in known], left


def _source_rows(
    output: Output, assets: Iterable[str], schema: pa.Schema, keys: Mapping[str, str]
) -> dict[str, pa.Table]:
    """Asset → a row with everything that is wanted."""
    state = read_state(output)
    complete = [missing_keys(have, failed, keys) == () for have, failed in state.keysets]
    wanted = pc.is_in(state.rows["asset_id"], value_set=pa.array(sorted(assets), pa.string()))
    found: dict[str, pa.Table] = {}
    by_part: dict[int, set[str]] = {}
    for asset, part, keyset in zip(
        *(state.rows.filter(wanted)[c].to_pylist() for c in ("asset_id", "part", "keyset")), strict=True
    ):
        if complete[keyset]:
            by_part.setdefault(part, set()).add(asset)
    for part, here in by_part.items():
        with output.fs.open(output.path(f"tracks/{state.parts[part]}"), "rb") as handle:
            table = conform(read_part(handle), schema)
        for number, asset in enumerate(table["asset_id"].to_pylist()):
            if asset in here and asset not in found:
                found[asset] = table.slice(number, 1)
    return found


def _table(copies: Sequence[Copy], rows: Mapping[str, pa.Table], run_id: str, schema: pa.Schema) -> pa.Table:
    """The rows of ``copies``: those of their contents, under their own names."""
    table = pa.concat_tables([rows[c.asset_id] for c in copies])
    own = {
        "uri": [c.file.item.uri for c in copies],
        "size_bytes": [c.size_bytes for c in copies],
        "source_version": [c.file.item.version for c in copies],
        "run_id": [run_id] * len(copies),
    }
    for name, values in own.items():
        position = schema.get_field_index(name)
        table = table.set_column(
            position, schema.field(position), pa.array(values, schema.field(position).type)
        )
    return table


def _replace(output: Output, name: str, copies: Sequence[Copy], rows: pa.Table) -> None:
    with output.fs.open(output.path(f"tracks/{name}"), "rb") as handle:
        old = conform(read_part(handle), rows.schema)
    mine = pa.array([c.file.item.uri for c in copies], pa.string())
    stay = old.filter(pc.invert(pc.is_in(old["uri"], value_set=mine)))
    output.write_table(f"tracks/{name}", pa.concat_tables([stay, rows]))


def _write_timings(output: Output, name: str, copies: Sequence[Copy]) -> None:
    rows = [{"asset_id": c.asset_id, **t} for c in copies for t in c.timings]
    if rows:
        output.write_table(f"timings/{name}", pa.Table.from_pylist(rows, schema=TIMINGS))
