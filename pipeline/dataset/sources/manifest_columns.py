"""The columns of a user's manifest in `tracks`: ``source_<name>``, and ``source_uri``, the uri as it was written."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.dataset.contents import Contents
from pipeline.dataset.output import Output, read_part
from pipeline.dataset.sources.file_list import URI
from pipeline.dataset.sources.items import Listing, SourceItem
from pipeline.dataset.sources.sound_tracks import file_of
from pipeline.dataset.tables.merge import conform, ordered_schema
from pipeline.dataset.tables.schemas import IDENTITY
from pipeline.dataset.tables.user_columns import PREFIX, is_of_the_user, wider
from pipeline.errors import UserError
from pipeline.features.base import column

AS_WRITTEN = f"{PREFIX}{URI}"
# A manifest's column of this name would be one of ours: it gets these words behind it.
OF_THE_MANIFEST = "_given"
TOGETHER = 64
READERS = 16


def column_names(names: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """Column of a manifest → column of `tracks`, and what there is to say of it.

    Raises:
        UserError: two would have one name, or one but for capital letters, which half of all readers take for one.
    """
    ours = {f.name.lower() for f in IDENTITY} | {AS_WRITTEN}
    found = {name: PREFIX + name for name in names}
    notes = []
    for name in names:
        if found[name].lower() in ours:
            found[name] += OF_THE_MANIFEST
            notes.append(
                f"column {name} of the manifest is {found[name]}: {PREFIX}{name} is a column of our own"
            )
    counts = Counter(name.lower() for name in found.values())
    twice = [name for name in names if counts[found[name].lower()] > 1]
    if twice:
        raise UserError(
            f"source.manifest: columns {' and '.join(twice)} would both be {found[twice[0]].lower()}",
            "many readers of tables do not tell capital letters from small ones",
            "another name for one of them",
        )
    return found, notes


def manifest_columns(
    listing: Listing, items: Sequence[SourceItem], old: pa.Schema | None
) -> tuple[pa.Table | None, list[str]]:
    """What a manifest says of each of ``items``, a row each in their order, and what there is to say of it.

    Args:
        listing: complete; it knows the manifest.
        items: the files, under the uris that they have in `tracks`.
        old: the schema of the rows that are there: where types differ, the wider one is taken.

    Returns:
        ``uri``, ``source_uri`` and the columns of the manifest with its fields' definitions; None without a manifest.
    """
    found = listing.manifest
    if found is None:
        return None, []
    rows = pa.array([listing.rows.get(listing.named.get(i.uri, file_of(i.uri))) for i in items], pa.int64())
    names, notes = column_names(found.columns.column_names)
    fields = [pa.field(URI, pa.string()), _field(AS_WRITTEN, pa.string(), URI)]
    arrays: list[pa.Array | pa.ChunkedArray] = [
        pa.array([i.uri for i in items], pa.string()),
        found.uris.take(rows),
    ]
    for name, own in names.items():
        values = found.columns[name].take(rows)
        there = old.field(own).type if old is not None and own in old.names else values.type
        kind = wider(there, values.type) if values.null_count < len(values) else there
        if kind != there:
            notes.append(
                f"{own} is {there} in the tables and {values.type} in the manifest: {kind} from now on"
            )
        fields.append(_field(own, kind, name))
        arrays.append(_cast(values, kind, name))
    missing = [
        n for n in (old.names if old is not None else ()) if is_of_the_user(n) and n not in names.values()
    ]
    missing = [n for n in missing if n != AS_WRITTEN]
    if missing:
        notes.append(f"{', '.join(missing)}: not in this manifest, and left as an earlier one had it")
    return pa.table(arrays, schema=pa.schema(fields)), notes


def _field(name: str, kind: pa.DataType, of: str) -> pa.Field:
    what = "the uri as it stands there" if name == AS_WRITTEN else f"column {of}"
    return column(name, kind, "1", f"{what}, in the manifest that named the file")


def _cast(values: pa.ChunkedArray, kind: pa.DataType, name: str) -> pa.ChunkedArray:
    try:
        return values.cast(kind)
    except pa.ArrowInvalid as error:
        raise UserError(
            f"source.manifest: column {name} cannot become {kind}, as which the tables hold it",
            str(error),
            "another name for it, or another output.uri",
        ) from None


def with_columns(
    schema: pa.Schema, old: pa.Schema | None, columns: pa.Table | None, contents: Contents
) -> pa.Schema:
    """The schema of a run, given what it computes, what is there and what a manifest says, in the order of
    ``contents``."""
    if columns is None:
        return ordered_schema(schema, old, contents)
    for f in columns.schema:
        if f.name != URI:
            place = schema.get_field_index(f.name)
            schema = schema.append(f) if place < 0 else schema.set(place, f)
            place = -1 if old is None else old.get_field_index(f.name)
            old = old if place < 0 else old.set(place, f)
    return ordered_schema(schema, old, contents)


def add_columns(blocks: Sequence[pa.Table], columns: pa.Table | None) -> list[pa.Table]:
    """Planned files with what the manifest says of them, by their number in the listing."""
    if columns is None:
        return list(blocks)
    own = columns.drop_columns([URI])
    found = []
    for block in blocks:
        here = own.take(block["index"])
        for name, values in zip(own.column_names, here.columns, strict=True):
            block = block.append_column(own.schema.field(name), values)
        found.append(block)
    return found


def bring_up_to_date(output: Output, columns: pa.Table, schema: pa.Schema) -> int:
    """Write what the manifest says of files into those of their rows that say something else; how many there were.

    Only ``uri`` and the columns of manifests are read, and only parts with such a row written.

    Args:
        output: its lock is held.
        columns: see `manifest_columns`.
        schema: of all parts, these columns included; a part that lacks one of them, or has it in
            another type, gets it.
    """
    names = [name for name in columns.column_names if name != URI]

    def read(path: str) -> pa.Table:
        with output.fs.open(output.path(path), "rb") as handle:
            return read_part(handle, [URI, *names])  # of these, those that the part has

    changed = 0
    paths = output.parts("tracks")
    with ThreadPoolExecutor(READERS) as pool:
        for start in range(0, len(paths), TOGETHER):
            some = paths[start : start + TOGETHER]
            parts = list(pool.map(read, some))
            uris = pa.chunked_array([chunk for part in parts for chunk in part[URI].chunks], pa.string())
            # At once for many: the index of a large manifest takes longer to make than to ask.
            places = pc.index_in(uris, value_set=columns[URI].combine_chunks())
            offset = 0
            for path, part in zip(some, parts, strict=True):
                place = places.slice(offset, part.num_rows)
                offset += part.num_rows
                new, differ = _updated(part, place, columns, names)
                other = any(f not in _kinds(part.schema) for f in _kinds(columns.schema))
                if differ or other:
                    _write(output, path, new, schema)
                changed += differ
    return changed


def _kinds(schema: pa.Schema) -> list[tuple[str, pa.DataType]]:
    return list(zip(schema.names, schema.types, strict=True))


def _updated(
    part: pa.Table, place: pa.ChunkedArray, columns: pa.Table, names: Sequence[str]
) -> tuple[dict[str, pa.ChunkedArray], int]:
    """The columns as they should be, and how many rows have others."""
    listed = pc.is_valid(place)
    differs = pa.chunked_array([pa.array([False] * part.num_rows, pa.bool_())])
    new = {}
    for name in names:
        kind = columns.schema.field(name).type
        old = (
            part[name].cast(kind)
            if name in part.column_names
            else pa.chunked_array([pa.nulls(part.num_rows, kind)])
        )
        new[name] = pc.if_else(listed, columns[name].take(place), old)
        same = pc.equal(new[name], old).fill_null(False)
        nothing = pc.and_(pc.is_null(new[name]), pc.is_null(old))
        differs = pc.or_(differs, pc.invert(pc.or_(same, nothing)))
    return new, pc.sum(differs).as_py() or 0


def _write(output: Output, path: str, new: Mapping[str, pa.ChunkedArray], schema: pa.Schema) -> None:
    with output.fs.open(output.path(path), "rb") as handle:
        table = read_part(handle)
    for name, values in new.items():
        place = table.schema.get_field_index(name)
        table = table.append_column(name, values) if place < 0 else table.set_column(place, name, values)
    output.write_table(path, conform(table, schema))
