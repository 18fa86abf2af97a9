"""A part of the tables written anew without some of its files; what only those referred to goes with them."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.dataset.output import Output, read_part
from pipeline.dataset.tables.merge import (
    SHARED_STAGES,
    among,
    conform,
    replaced,
    superseded_files,
    timings_of,
)
from pipeline.dataset.tables.schemas import FAILURES
from pipeline.dataset.tables.user_columns import is_of_the_user


@dataclass(frozen=True)
class Held:
    """Of which contents a part has the rows of which declared tables, be they none, and the times of which stages."""

    tables: Mapping[str, frozenset[str]] = field(default_factory=dict)
    stages: frozenset[tuple[str, str]] = frozenset()

    @classmethod
    def by(cls, output: Output, name: str, assets: Collection[str]) -> Held:
        """What part ``name`` holds of ``assets``."""
        stages: set[tuple[str, str]] = set()
        tables: dict[str, frozenset[str]] = {}
        for table in by_asset(output):
            there = read_if_there(output, f"{table}/{name}")
            if there is not None:
                own = there.filter(among(there["asset_id"], assets))
                if table == "timings":
                    stages = set(zip(*(own[c].to_pylist() for c in ("asset_id", "stage")), strict=True))
                else:
                    tables[table] = frozenset(own["asset_id"].to_pylist())
        found = cls(tables, frozenset(stages)) | cls(_without_rows(output, name, assets))
        return found | cls(_of_products(output, found))

    def __or__(self, other: Held) -> Held:
        names = self.tables.keys() | other.tables.keys()
        tables = {n: self.assets(n) | other.assets(n) for n in sorted(names)}
        return Held(tables, self.stages | other.stages)

    def __and__(self, other: Held) -> Held:
        names = self.tables.keys() & other.tables.keys()
        tables = {n: self.assets(n) & other.assets(n) for n in sorted(names)}
        return Held(tables, self.stages & other.stages)

    def assets(self, table: str) -> frozenset[str]:
        """The contents that have rows in a declared table."""
        return self.tables.get(table, frozenset())

    def of(self, assets: Collection[str]) -> Held:
        """Of these contents only, and of no file's own reading and writing."""
        stages = {(a, stage) for a, stage in self.stages if a in assets and stage not in SHARED_STAGES}
        tables = {name: found & frozenset(assets) for name, found in self.tables.items()}
        return Held(tables, frozenset(stages))

    def others(self, name: str, table: pa.Table) -> pa.Table:
        """The rows of ``timings`` or a declared table that are not of what is held."""
        assets = table["asset_id"].to_pylist()
        if name == "timings":
            keep = [pair not in self.stages for pair in zip(assets, table["stage"].to_pylist(), strict=True)]
        else:
            keep = [asset not in self.assets(name) for asset in assets]
        return table.filter(pa.array(keep, pa.bool_()))


def _without_rows(output: Output, name: str, assets: Collection[str]) -> dict[str, frozenset[str]]:
    """Declared table → those of ``assets`` that have no rows in it, as `tracks` of part ``name`` says."""
    tracks = read_if_there(output, f"tracks/{name}")
    found: dict[str, frozenset[str]] = {}
    if tracks is None:
        return found
    tracks = tracks.filter(among(tracks["asset_id"], assets))
    failed = [{product for product, _ in row or ()} for row in tracks["failed_keys"].to_pylist()]
    for table in output.contents.tables.values():
        if table.count in tracks.column_names:
            product = output.contents.filler(table.name).name
            rows = zip(tracks["asset_id"].to_pylist(), tracks[table.count].to_pylist(), failed, strict=True)
            # Null may mean that it was never asked for here, and another file has it.
            found[table.name] = frozenset(
                asset for asset, count, why in rows if count == 0 or (count is None and product in why)
            )
    return found


def _of_products(output: Output, held: Held) -> dict[str, frozenset[str]]:
    """Each table with the contents that any table of its product is held of: one that a run does not fill, such as
    voices that are linked by another, would stay behind with what that product found before."""
    found: dict[str, frozenset[str]] = {}
    for product in output.contents:
        names = [table.name for table in product.tables]
        found |= dict.fromkeys(names, frozenset().union(*map(held.assets, names)))
    return found


def by_asset(output: Output) -> tuple[str, ...]:
    """The tables whose rows belong to a content, and lie in a part that has a file of it."""
    return (*output.contents.tables, "timings")


def rewrite_part(
    output: Output,
    name: str,
    leaving: Collection[str],
    *,
    shared: Collection[str] = (),
    moved: Held | None = None,
    rows: pa.Table | None = None,
    failures: pa.Table | None = None,
    timings: pa.Table | None = None,
) -> None:
    """Take files out of a part, and put others into their place.

    `tracks` last, as in every write: should this end half way, rows without a track are left, not the reverse.

    Args:
        name: of the part.
        leaving: uris of the files whose rows go.
        shared: assets that rows of other parts have: what belongs to them stays.
        moved: what another part has, of contents that this one has files of, too: it does not lie here any more.
        rows: of `tracks`, that come in; their schema becomes that of the part.
        failures, timings: that come in.
    """
    old = read_if_there(output, f"tracks/{name}")
    if old is None:
        raise FileNotFoundError(f"{output.uri}/tracks/{name}")
    if rows is not None:
        old = conform(old, rows.schema)
    tracks = _without(old, leaving)
    if rows is not None:
        tracks = pa.concat_tables([tracks, _with_labels(rows, old)])
    kept = _without(failures_of(output, name), leaving)
    kept = kept if failures is None else pa.concat_tables([kept, failures])
    write_or_discard(output, f"failures/{name}", kept)
    left_behind = {*old["asset_id"].to_pylist()} - {*tracks["asset_id"].to_pylist()} - {*shared}
    for table in by_asset(output):
        new = timings if table == "timings" else None
        there = read_if_there(output, f"{table}/{name}")
        there = new if there is None else there
        if there is None:
            continue
        kept = there.filter(pc.invert(among(there["asset_id"], left_behind)))
        if moved is not None and there is not new:
            kept = moved.others(table, kept)
        if new is not None and new is not there:
            kept = pa.concat_tables([kept, conform(new, kept.schema)])
        write_or_discard(output, f"{table}/{name}", timings_of(kept, tracks) if table == "timings" else kept)
    output.write_table(f"tracks/{name}", tracks)
    for file in superseded_files(old, tracks, output.contents, shared):
        output.discard(file)


def _with_labels(rows: pa.Table, old: pa.Table) -> pa.Table:
    """``rows`` with what a manifest said of the same files, where they say nothing of it."""
    place = {uri: number for number, uri in enumerate(old["uri"].to_pylist())}
    uris = rows["uri"].to_pylist()
    labels = {}
    for name in (name for name in rows.column_names if is_of_the_user(name)):
        before = old[name].to_pylist()
        now = zip(uris, rows[name].to_pylist(), strict=True)
        labels[name] = [before[place[u]] if new is None and u in place else new for u, new in now]
    return replaced(rows, labels)


def read_if_there(output: Output, part: str) -> pa.Table | None:
    """The rows of a part; None where there is none."""
    try:
        with output.fs.open(output.path(part), "rb") as handle:
            return read_part(handle)
    except FileNotFoundError:
        return None


def failures_of(output: Output, name: str) -> pa.Table:
    """The rows of ``failures`` in part ``name``, of which there may be none."""
    found = read_if_there(output, f"failures/{name}")
    return FAILURES.empty_table() if found is None else conform(found, FAILURES)


def write_or_discard(output: Output, part: str, table: pa.Table) -> None:
    """Write a part; where it would be empty there is none, though an attempt that died may have left one."""
    if table.num_rows:
        output.write_table(part, table)
    else:
        output.discard(part)


def _without(table: pa.Table, uris: Collection[str]) -> pa.Table:
    return table.filter(pc.invert(among(table["uri"], uris)))
