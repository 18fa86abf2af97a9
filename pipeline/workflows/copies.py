"""Files with the content of another one: they get its row and its failures, once those are there."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.dataset.output import Output
from pipeline.dataset.tables.failures import status_of
from pipeline.dataset.tables.merge import among, conform, replaced
from pipeline.dataset.tables.rewrite import Held, failures_of, read_if_there, rewrite_part, write_or_discard
from pipeline.dataset.tables.row_index import read_state
from pipeline.dataset.tables.schemas import FAILURES, GONE, TIMINGS
from pipeline.dataset.tables.user_columns import is_of_the_user
from pipeline.engine.packing import PlannedFile, part_name
from pipeline.workflows.resume import DECODE, missing_keys

ROWS_PER_PART = 256


@dataclass(frozen=True)
class Copy:
    """A file, the content it turned out to have, its size, and what reading it cost."""

    file: PlannedFile
    asset_id: str
    size_bytes: int
    timings: tuple[dict[str, Any], ...] = ()


@dataclass(frozen=True)
class Original:
    """What is there of a content: one row of `tracks`, the rows of ``failures`` that say what failed on it, and the
    part that they are in."""

    row: pa.Table
    failures: pa.Table
    part: str = ""

    @property
    def status(self) -> str:
        """Its status; also where the file that it was computed of is there no longer."""
        return status_of(self.failures.to_pylist())

    @property
    def audio_s(self) -> float:
        """Its duration, seconds; 0 where none is known."""
        return self.row["duration_s"][0].as_py() or 0.0

    def failure_classes(self) -> list[tuple[str, str]]:
        """Stage and error class of each failure."""
        return list(zip(*(self.failures[c].to_pylist() for c in ("stage", "error_class")), strict=True))


def write_copies(
    output: Output, copies: Sequence[Copy], schema: pa.Schema, run_id: str, keys: Mapping[str, str]
) -> tuple[list[tuple[Copy, Original]], list[PlannedFile]]:
    """Write the rows of ``copies``.

    Returns:
        those that were written, each with what it is a copy of, and the files of which no complete row of the same
        content is there: they have to be computed.
    """
    originals = _originals(output, {c.asset_id for c in copies}, schema, keys)
    known = [c for c in copies if c.asset_id in originals]
    left = [c.file for c in copies if c.asset_id not in originals]
    new = [c for c in known if c.file.part is None]
    for start in range(0, len(new), ROWS_PER_PART):
        some = new[start : start + ROWS_PER_PART]
        name = part_name(some[0].file.index, [c.file.item.uri for c in some])
        write_or_discard(output, f"timings/{name}", _timings(some))
        write_or_discard(output, f"failures/{name}", _failures(some, originals, run_id))
        output.write_table(f"tracks/{name}", _table(some, originals, run_id, schema))
    by_part: dict[str, list[Copy]] = {}
    for copy in known:
        if copy.file.part is not None:
            by_part.setdefault(copy.file.part, []).append(copy)
    for name, some in by_part.items():
        rewrite_part(
            output,
            name,
            {c.file.item.uri for c in some},
            shared={c.file.known_asset for c in some if c.file.elsewhere},
            moved=_held_elsewhere(output, name, {c.asset_id: originals[c.asset_id].part for c in some}),
            rows=_table(some, originals, run_id, schema),
            failures=_failures(some, originals, run_id),
            timings=_timings(some),
        )
    return [(c, originals[c.asset_id]) for c in known], left


def _held_elsewhere(output: Output, name: str, parts: Mapping[str, str]) -> Held:
    """What the originals' ``parts`` have of their contents, those in part ``name`` left out."""
    held = Held()
    for part in sorted({part for part in parts.values() if part != name}):
        held |= Held.by(output, part, [asset for asset, of in parts.items() if of == part])
    return held


def _originals(
    output: Output, assets: Iterable[str], schema: pa.Schema, keys: Mapping[str, str]
) -> dict[str, Original]:
    """Asset → a row with everything that is wanted."""
    state = read_state(output)
    complete = [missing_keys(have, failed, keys) == () for have, failed in state.keysets]
    wanted = among(state.rows["asset_id"], assets)
    found: dict[str, Original] = {}
    by_part: dict[int, set[str]] = {}
    for uri, part, keyset in zip(
        *(state.rows.filter(wanted)[c].to_pylist() for c in ("uri", "part", "keyset")), strict=True
    ):
        if complete[keyset]:
            by_part.setdefault(part, set()).add(uri)
    for part, here in by_part.items():
        name = state.parts[part]
        table = conform(read_if_there(output, f"tracks/{name}"), schema)
        failures = failures_of(output, name)
        rows = zip(*(table[c].to_pylist() for c in ("asset_id", "uri", "status")), strict=True)
        for number, (asset, uri, status) in enumerate(rows):
            own = _of_the_content(failures.filter(pc.equal(failures["uri"], uri)))
            # Of what failed without a word nothing can be handed on: it is computed, and so says why.
            if uri in here and asset not in found and (status in ("ok", GONE) or own.num_rows):
                found[asset] = Original(table.slice(number, 1), own, name)
    return found


def _of_the_content(failures: pa.Table) -> pa.Table:
    """Those that another file with the same content shares: that a file could not be reached is its own affair."""
    reached = pc.or_(pc.not_equal(failures["stage"], DECODE), failures["extractor_key"].is_valid())
    return failures.filter(reached)


def _table(
    copies: Sequence[Copy], originals: Mapping[str, Original], run_id: str, schema: pa.Schema
) -> pa.Table:
    """The rows of ``copies``: those of their contents, under their own names."""
    table = pa.concat_tables([originals[c.asset_id].row for c in copies])
    own = {
        "uri": [c.file.item.uri for c in copies],
        "size_bytes": [c.size_bytes for c in copies],
        "source_version": [c.file.item.version for c in copies],
        "run_id": [run_id] * len(copies),
        "status": [originals[c.asset_id].status for c in copies],
    }
    # What a manifest says of the other file it does not say of this one.
    own |= {name: [None] * len(copies) for name in schema.names if is_of_the_user(name)}
    return replaced(table, own)


def _failures(copies: Sequence[Copy], originals: Mapping[str, Original], run_id: str) -> pa.Table:
    """The failures of their contents, under the names of ``copies``."""
    tables = [FAILURES.empty_table()]
    for copy in copies:
        failures = originals[copy.asset_id].failures
        own = {"uri": [copy.file.item.uri] * failures.num_rows, "run_id": [run_id] * failures.num_rows}
        tables.append(replaced(failures, own))
    return pa.concat_tables(tables)


def _timings(copies: Sequence[Copy]) -> pa.Table:
    rows = [{"asset_id": c.asset_id, **t} for c in copies for t in c.timings]
    return pa.Table.from_pylist(rows, schema=TIMINGS)
