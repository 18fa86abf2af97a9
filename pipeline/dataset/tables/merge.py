"""A table part written anew: what a run computed, put into the rows that are there."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.dataset.contents import ARRAYS_SUFFIX, Contents
from pipeline.dataset.output import Output, read_part
from pipeline.dataset.tables.schemas import IDENTITY, TAGS
from pipeline.dataset.tables.user_columns import is_of_the_user
from pipeline.errors import UserError

DECODE = "decode"
SHARED_STAGES = frozenset({DECODE, "write"})
# Columns of a row that are about the file and this run, and so are always the new ones.
ABOUT_FILE = frozenset({"uri", "size_bytes", "source_version", "run_id", "schema_version"})
# What decoding finds out beside the sound: the new ones whenever a file was decoded. Older versions left them out.
FROM_DECODING = frozenset(
    {"audio_streams", "audio_stream", "bit_rate", "bits_per_sample", *(f.name for f in TAGS)}
)


@dataclass(frozen=True)
class Update:
    """What becomes of one file in its part.

    Args:
        uri: the file.
        new: number of its row among the new ones.
        asset_id: of the content that was found.
        todo: what was computed; None is everything, and no value of an older row stays.
        kept: the older row stays as it is, but for what is said of the file.
    """

    uri: str
    new: int
    asset_id: str
    todo: tuple[str, ...] | None = None
    kept: bool = False

    def redone(self, stage: str, contents: Contents) -> bool:
        """Whether rows of ``stage`` in ``timings`` and ``failures`` are replaced."""
        if self.todo is None or stage in SHARED_STAGES:
            return True
        if self.kept:
            return False
        # What a stage says of itself as a whole is said anew with any of its products.
        return any(product in self.todo for product in contents.products_of(stage))

    def takes_back(self, fallback: Mapping[str, str], contents: Contents) -> bool:
        """Whether an entry of ``fallbacks`` is replaced: what its product is computed anew of is said anew."""
        stage = fallback["stage"]
        # Older versions said the stage only, and the product in what was wanted: ``chroma.method=cqt``.
        product = fallback["wanted"].partition(".")[0]
        several = contents.products_of(stage)
        if len(several) > 1 and product in several:
            stage = contents.timed(product)
        return self.redone(stage, contents)


@dataclass
class OldPart:
    """A part as it is on disk.

    Args:
        tables: name → its rows, of those that have some.
    """

    tables: dict[str, pa.Table] = field(default_factory=dict)

    @property
    def tracks(self) -> pa.Table | None:
        """Its rows of `tracks`."""
        return self.tables.get("tracks")

    @classmethod
    def read(cls, output: Output, name: str) -> OldPart:
        """All tables of part ``name``."""
        part = cls()
        for table in output.tables:
            path = output.path(f"{table}/{name}")
            try:
                with output.fs.open(path, "rb") as handle:
                    part.tables[table] = read_part(handle)
            except FileNotFoundError:
                continue
        return part


def ordered_schema(new: pa.Schema, old: pa.Schema | None, contents: Contents) -> pa.Schema:
    """The columns of both, in one order whatever the two are: the file, then product by product.

    Definitions are those of ``new`` where it has the column.

    Raises:
        UserError: a column has another type in ``old``, as another version wrote it: its values would be lost.
    """
    if old is None:
        return new
    for f in new:
        there = old.field(f.name).type if f.name in old.names else f.type
        if there != f.type:
            raise UserError(
                f"the tables hold {f.name} as {there} and this version writes {f.type}: type another output.uri, or "
                "output.overwrite=true to begin anew"
            )
    fields = {f.name: f for f in (*old, *new)}
    order = contents.ordered()
    about = {f.name for f in (*IDENTITY, *TAGS)}
    standard = [*(f.name for f in (*IDENTITY, *TAGS)), *(n for p in order for n in p.names if n not in about)]
    place = {name: number for number, name in enumerate(standard)}
    owned = contents.owners.keys() - about
    metadata = {**(old.metadata or {}), **(new.metadata or {})}
    # What nobody declares, as a user's own columns, stands between the file and the products.
    names = sorted(fields, key=lambda name: (name in owned, place.get(name, len(place))))
    return pa.schema([fields[name] for name in names], metadata=metadata)


def conform(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """``table`` with the columns of ``schema``, null where it has none. Raises ``pa.ArrowInvalid`` for other types."""
    arrays = [
        table[f.name].cast(f.type) if f.name in table.column_names else pa.nulls(table.num_rows, f.type)
        for f in schema
    ]
    return pa.table(arrays, schema=schema)


@dataclass
class MergedTracks:
    """The part's new `tracks`.

    Args:
        table: its rows: the old ones in their order, then the files that had none.
        updated: numbers of the rows that this run touched, in the order of the updates.
    """

    table: pa.Table
    updated: list[int] = field(default_factory=list)


def merge_tracks(
    old: pa.Table | None, new: pa.Table, updates: Sequence[Update], contents: Contents
) -> MergedTracks:
    """Put ``new`` rows into the ``old`` ones, column by column according to who fills it.

    Args:
        new: with the wanted schema; its ``extractor_keys``, ``failed_keys`` and ``fallbacks`` are of this run alone.
        updates: one per row of ``new``.
        contents: of the output.
    """
    if old is None:
        return MergedTracks(new, list(range(new.num_rows)))
    old = conform(old, new.schema)
    both = pa.concat_tables([old, new])
    place = {uri: number for number, uri in enumerate(old["uri"].to_pylist())}
    base = list(range(old.num_rows))
    updated, merged, replaced = [], {}, {}
    for update in updates:
        row = old.num_rows + update.new
        if update.uri not in place:
            place[update.uri] = len(base)
            base.append(row)
        elif update.todo is None and not update.kept:
            replaced[place[update.uri]] = base[place[update.uri]]
            base[place[update.uri]] = row
        else:
            merged[place[update.uri]] = (row, update)
        updated.append(place[update.uri])
    given = {**replaced, **{number: base[number] for number in merged}}
    news = {
        **{number: base[number] for number in replaced},
        **{number: new for number, (new, _) in merged.items()},
    }
    owners = contents.owners
    arrays = [
        _kept(both[f.name], base, given, news)
        if is_of_the_user(f.name)
        else _column(both[f.name], f.name, base, merged, owners)
        for f in new.schema
    ]
    table = pa.table(arrays, schema=new.schema)
    return MergedTracks(_with_identity(table, both, base, merged, contents), updated)


def _kept(
    values: pa.ChunkedArray, base: Sequence[int], old: Mapping[int, int], new: Mapping[int, int]
) -> pa.ChunkedArray:
    """A column of a manifest: what this run's says, or else what an earlier one's said."""
    rows, there = np.array(base, np.int64), np.asarray(values.is_valid())
    for number, row in new.items():
        rows[number] = row if there[row] else old[number]
    return values.take(pa.array(rows))


def _column(
    values: pa.ChunkedArray,
    name: str,
    base: Sequence[int],
    merged: Mapping[int, tuple[int, Update]],
    owners: Mapping[str, str],
) -> pa.ChunkedArray:
    rows = np.array(base, np.int64)
    for number, (new, update) in merged.items():
        owner = owners.get(name)
        computed = owner is not None and not update.kept and owner in (update.todo or ())
        if name in ABOUT_FILE or computed or (name in FROM_DECODING and not update.kept):
            rows[number] = new
    return values.take(pa.array(rows))


def _with_identity(
    table: pa.Table,
    both: pa.Table,
    base: Sequence[int],
    merged: Mapping[int, tuple[int, Update]],
    contents: Contents,
) -> pa.Table:
    """``table`` with keys and fallbacks of old and new together in the rows that are ``merged``."""
    for name in ("extractor_keys", "failed_keys", "fallbacks"):
        values = table[name].to_pylist()
        for number, (new, update) in merged.items():
            before = both[name][base[number]].as_py() or []
            now = both[name][new].as_py() or []
            if name == "fallbacks":
                kept = [f for f in before if not update.takes_back(f, contents)]
                # What made a view again, for a product of a later stage, says again what it said then.
                values[number] = kept + [f for f in now if f not in kept]
            else:
                values[number] = sorted(
                    dict([(k, v) for k, v in before if not _replaces(update, k)] + now).items()
                )
        table = table.set_column(
            table.column_names.index(name),
            table.schema.field(name),
            pa.array(values, table.schema.field(name).type),
        )
    return _with_artifacts(table, both, base, merged, contents) if merged else table


def _with_artifacts(
    table: pa.Table,
    both: pa.Table,
    base: Sequence[int],
    merged: Mapping[int, tuple[int, Update]],
    contents: Contents,
) -> pa.Table:
    """``table`` with what is known of its files: of those that are new, and of older ones that are still used."""
    values = table["artifacts"].to_pylist()
    for number, (new, _) in merged.items():
        found = {a["path"]: a for row in (base[number], new) for a in both["artifacts"][row].as_py() or ()}
        used = referred(table.slice(number, 1), contents) if found else ()
        values[number] = [found[path] for path in sorted(found) if path in used]
    return replaced(table, {"artifacts": values})


def _replaces(update: Update, extractor: str) -> bool:
    return not update.kept and (extractor == DECODE or extractor in (update.todo or ()))


def kept_rows(
    old: OldPart,
    name: str,
    updates: Collection[Update],
    contents: Contents,
    still_used: Collection[str] = (),
) -> pa.Table | None:
    """The rows of a table beside `tracks` that stay; None where it has none.

    Args:
        name: of the table: ``timings`` or ``failures``, whose rows are of a stage, or one that a product fills.
        still_used: assets that files have which are not among ``updates``: theirs stay.
    """
    table = old.tables.get(name)
    if table is None:
        return None
    by_asset = {u.asset_id: u for u in updates}
    by_uri = {u.uri: u for u in updates}
    names = [n for n in ("asset_id", "uri", "stage", "extractor_key") if n in table.column_names]
    rows = table.select(names).to_pylist()
    if name in contents.tables:
        filler = contents.filler(name)
        rows = [{**row, "stage": filler.timed or filler.stage or filler.name} for row in rows]
    keep = [_stays(row, by_asset, by_uri, still_used, contents) for row in rows]
    return table.filter(pa.array(keep, pa.bool_()))


def _stays(
    row: Mapping[str, Any],
    by_asset: Mapping[str, Update],
    by_uri: Mapping[str, Update],
    still_used: Collection[str],
    contents: Contents,
) -> bool:
    update = by_uri.get(row["uri"]) if "uri" in row else by_asset.get(row["asset_id"])
    if update is not None and update.kept and "uri" in row:
        # Why it could not be read the last time does not matter any more; what is wrong with the content does.
        return row["stage"] != DECODE or row.get("extractor_key") is not None
    if update is not None and update.asset_id == row["asset_id"]:
        return not update.redone(row["stage"], contents)
    return (row["asset_id"] in still_used and "uri" not in row) or (update is None and "uri" in row)


def among(column: pa.ChunkedArray, values: Iterable[str]) -> pa.ChunkedArray:
    """Which strings of ``column`` are among ``values``: a mask without nulls."""
    return pc.is_in(column, value_set=pa.array(sorted(values), pa.string()))


def replaced(table: pa.Table, columns: Mapping[str, Sequence[Any]]) -> pa.Table:
    """``table`` with other values in some of its columns, whose types stay."""
    for name, values in columns.items():
        place = table.schema.get_field_index(name)
        own = table.schema.field(place)
        table = table.set_column(place, own, pa.array(values, own.type))
    return table


def timings_of(timings: pa.Table, tracks: pa.Table) -> pa.Table:
    """The rows of a part of ``timings`` without those of files that ``tracks`` does not have any more.

    Of each stage of a content the last rows stay, one for each file with it; those of contents that no file of the
    part has are others' and stay.
    """
    files = Counter(tracks["asset_id"].to_pylist())
    heads = list(zip(*(timings[c].to_pylist() for c in ("asset_id", "stage")), strict=True))
    spare = Counter(heads)
    for head in spare:
        spare[head] -= files[head[0]] or spare[head]
    if not any(extra > 0 for extra in spare.values()):
        return timings
    keep = []
    for head in heads:
        keep.append(spare[head] <= 0)
        spare[head] -= 1
    return timings.filter(pa.array(keep, pa.bool_()))


def superseded_files(
    old: pa.Table, new: pa.Table, contents: Contents, shared: Collection[str] = ()
) -> list[str]:
    """The arrays and artifacts that rows of ``old`` refer to and none of ``new`` does.

    Not those of ``shared``, contents that rows of other parts have, which refer to them, too.
    """
    gone = sorted(referred(old, contents) - referred(new, contents))
    return [path for path in gone if path.split("/")[2] not in shared]


def referred(tracks: pa.Table, contents: Contents) -> set[str]:
    """The files that rows refer to: an array by its path, an artifact by the column that says that it is there."""
    columns = [name for name in tracks.column_names if name.endswith(ARRAYS_SUFFIX)]
    paths = {path for name in columns for path in tracks[name].to_pylist() if path}
    found = {path for path in paths if path.count("/") == 3 and path.startswith("blobs/")}
    assets = tracks["asset_id"].to_pylist()
    for artifact in contents.artifacts.values():
        for column, file in artifact.files.items():
            if column in tracks.column_names:
                values = tracks[column].to_pylist()
                there = np.flatnonzero(np.asarray(tracks[column].is_valid())).tolist()
                found.update(*(artifact.files_of(assets[row], file, values[row]) for row in there))
    return found
