"""What an output holds already: which files, with which content, and which extractors of each, from `tracks` alone.

Read part by part into Arrow columns: about 200 bytes a file, most of it the uri.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import groupby, islice

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.dataset.output import Output
from pipeline.dataset.tables.user_columns import is_of_the_user, wider
from pipeline.errors import UserError

TOGETHER = 64
"""Parts in one call to Arrow."""

READERS = 16
"""Reading parts waits for disks and servers: an object store answers each of four requests a part in tens of ms."""

COLUMNS = ("uri", "size_bytes", "source_version", "asset_id", "status")
KEYS, FAILED = "extractor_keys", "failed_keys"
ROWS = pa.schema(
    [
        ("uri", pa.string()), ("size_bytes", pa.int64()), ("source_version", pa.string()),
        ("asset_id", pa.string()), ("status", pa.string()), ("part", pa.int32()), ("keyset", pa.int32()),
    ]
)  # fmt: skip


@dataclass
class State:
    """The rows of `tracks`, in no order that means anything.

    Args:
        rows: ``uri``, ``size_bytes``, ``source_version``, ``asset_id``, ``status``, and ``part`` (int32) and
            ``keyset`` (int32), which count into the two lists below.
        parts: names of the parts.
        keysets: the different pairs of extractor → key: of what is there, and of what failed.
        schema: of all parts together, None without any; its fields are in the order of the parts.
        uneven: parts whose columns are not those of ``schema``.
    """

    rows: pa.Table
    parts: list[str] = field(default_factory=list)
    keysets: list[tuple[dict[str, str], dict[str, str]]] = field(default_factory=list)
    schema: pa.Schema | None = None
    uneven: list[str] = field(default_factory=list)

    @classmethod
    def nothing(cls) -> State:
        """Of an output without rows."""
        return cls(ROWS.empty_table())


def read_state(output: Output) -> State:
    """Read the columns that say what is done.

    Raises:
        UserError: `tracks` holds a file that is none of ours.
    """
    state, tables, schemas = State.nothing(), [], {}
    numbers: dict[tuple, int] = {}
    # Neighbours with the same columns are taken together: what Arrow does costs more per call than per row.
    for _, group in groupby(_read_parts(output), lambda part: part[2].schema):
        while several := list(islice(group, TOGETHER)):
            first = len(state.parts)
            for path, schema, _ in several:
                state.parts.append(path.split("/", 1)[1])
                schemas[state.parts[-1]] = schema
            lengths = [table.num_rows for _, _, table in several]
            part = np.repeat(np.arange(first, len(state.parts), dtype=np.int32), lengths)
            tables.append(_rows(pa.concat_tables([table for _, _, table in several]), part, numbers))
    if tables:
        state.rows = pa.concat_tables(tables).combine_chunks()
        state.schema = merged_schema(schemas.values())
        state.uneven = [name for name, schema in schemas.items() if not same_columns(schema, state.schema)]
    state.keysets = [(dict(have), dict(failed)) for have, failed in numbers]
    return state


def _read_parts(output: Output) -> Iterator[tuple[str, pa.Schema, pa.Table]]:
    """Path, schema and columns of every part, in order; of some parts at a time, so that few wait in memory."""

    def read(path: str) -> tuple[str, pa.Schema, pa.Table]:
        with output.fs.open(output.path(path), "rb") as handle:
            file, schema = _parquet(output, path, handle)
            present = set(schema.names)
            return path, schema, file.read(columns=[c for c in (*COLUMNS, KEYS, FAILED) if c in present])

    paths = output.parts("tracks")
    with ThreadPoolExecutor(READERS) as pool:
        for start in range(0, len(paths), 4 * READERS):
            yield from pool.map(read, paths[start : start + 4 * READERS])


def merged_schema(schemas) -> pa.Schema | None:
    """Every column of ``schemas``, the first definition of each; None of none."""
    fields: dict[str, pa.Field] = {}
    metadata: dict[bytes, bytes] = {}
    for schema in schemas:
        metadata = {**(schema.metadata or {}), **metadata}
        for f in schema:
            first = fields.setdefault(f.name, f)
            # A run that was stopped while a manifest's column became another one.
            if first.type != f.type and is_of_the_user(f.name):
                fields[f.name] = first.with_type(wider(first.type, f.type))
    return pa.schema(list(fields.values()), metadata=metadata) if fields else None


def same_columns(one: pa.Schema, other: pa.Schema) -> bool:
    """Whether both have the same names and types in the same order."""
    return one.names == other.names and one.types == other.types


def _parquet(output: Output, path: str, handle) -> tuple[pq.ParquetFile, pa.Schema]:
    try:
        file = pq.ParquetFile(handle)
    except pa.ArrowInvalid as error:
        raise UserError(
            f"{output.uri}/{path} is not a Parquet file ({error}): python jobs/verify.py output.uri={output.uri} "
            "says what else is wrong, output.overwrite=true begins anew"
        ) from None
    schema = file.schema_arrow  # made anew each time it is asked for
    missing = {"uri", "asset_id", KEYS}.difference(schema.names)
    if missing:
        raise UserError(
            f"{output.uri}/{path} is no table of ours (it has no {', '.join(sorted(missing))}): type another "
            "output.uri, or output.overwrite=true to replace the tables there"
        )
    return file, schema


def _rows(table: pa.Table, part: np.ndarray, numbers: dict[tuple, int]) -> pa.Table:
    rows = table.num_rows
    columns = [
        table[f.name].cast(f.type) if f.name in table.column_names else pa.nulls(rows, f.type)
        for f in list(ROWS)[: len(COLUMNS)]
    ]
    have, failed = (_distinct(table, name) for name in (KEYS, FAILED))
    keysets = np.empty(rows, np.int32)
    pairs = np.stack([have[1], failed[1]], axis=1) if rows else np.empty((0, 2), int)
    for a, b in np.unique(pairs, axis=0):
        key = (have[0][a], failed[0][b])
        keysets[(pairs[:, 0] == a) & (pairs[:, 1] == b)] = numbers.setdefault(key, len(numbers))
    columns += [pa.array(part), pa.array(keysets)]
    return pa.table(columns, schema=ROWS)


def _distinct(table: pa.Table, name: str) -> tuple[list[tuple], np.ndarray]:
    """The different maps in a column, as sorted tuples of pairs, and which of them each row has.

    Rows of one run mostly have the same: no Python object per row.
    """
    rows = table.num_rows
    if name not in table.column_names or not rows:
        return [()], np.zeros(rows, int)
    maps = table[name].combine_chunks()
    maps = maps.chunk(0) if isinstance(maps, pa.ChunkedArray) else maps
    offsets = np.asarray(maps.offsets)
    codes = np.stack(
        [np.asarray(part.dictionary_encode().indices.fill_null(-1)) for part in (maps.keys, maps.items)],
        axis=1,
    )
    own = codes[offsets[0] : offsets[-1]]
    if len(own) % rows == 0:
        alike = own.reshape(rows, -1)
        if (np.diff(offsets) == len(own) // rows).all() and (alike == alike[0]).all():
            return [tuple(sorted(maps[0].as_py() or []))], np.zeros(rows, int)
    found: dict[bytes, int] = {}
    distinct: list[tuple] = []
    which = np.empty(rows, int)
    for row in range(rows):
        code = codes[offsets[row] : offsets[row + 1]].tobytes()
        if code not in found:
            found[code] = len(distinct)
            distinct.append(tuple(sorted(maps[row].as_py() or [])))
        which[row] = found[code]
    return distinct, which
