"""A user's list of files: csv, tsv, json, JSON lines or Parquet with a ``uri`` column, read whole into Arrow columns.

Of text (csv and tsv) a column is what all of its fields are: ``bool`` where each is true or false, ``int64`` and
``double`` where each is a number as one would write it, ``string`` otherwise; ``007`` and ``+1`` are no numbers but
names that a number would spoil. An empty field is null. JSON and Parquet say themselves what a value is; what is
nested, or mixed, becomes a string of JSON. Infinite numbers and those that are none become null.
"""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from pipeline.dataset.sources.addresses import file_name
from pipeline.dataset.storage import explain, filesystem, one_line
from pipeline.errors import UserError

URI = "uri"
KINDS = ".csv, .tsv, .json, .jsonl or .parquet"
_INTEGER = r"^-?(0|[1-9][0-9]{0,17})$"
_NUMBER = r"^(-?(0|[1-9][0-9]{0,14})(\.[0-9]+)?([eE][+-]?[0-9]{1,2})?|nan|NaN)$"
_BOOLEAN = r"^(true|false|True|False|TRUE|FALSE)$"
# What pandas calls an index that it wrote down without being asked.
_INDEX = ("", "__index_level_0__", "Unnamed: 0")


@dataclass
class ListedFiles:
    """What a manifest holds.

    Args:
        uris: as written, none of them null or empty.
        columns: the other columns, as many rows.
        notes: what became of columns that did not stay what they were, a sentence each.
    """

    uris: pa.ChunkedArray
    columns: pa.Table
    notes: list[str] = field(default_factory=list)


def read_listed(manifest: str, options: dict[str, Any] | None) -> ListedFiles:
    """Read ``manifest``, a path or URL; its suffix says what it is.

    Raises:
        UserError: it is not there, not what its suffix says, has no ``uri`` column, two columns of one name or a row
            without a uri.
    """
    suffix = PurePosixPath(file_name(manifest)).suffix.lower()
    readers: dict[str, Callable[[BinaryIO, str, list[str]], pa.Table]] = {
        ".csv": lambda *a: _separated(*a, ","),
        ".tsv": lambda *a: _separated(*a, "\t"),
        ".json": _json,
        ".jsonl": _json_lines,
        ".ndjson": _json_lines,
        ".parquet": _parquet,
    }
    if suffix not in readers:
        raise UserError(f"{manifest}: a manifest is {KINDS} with a uri column")
    notes: list[str] = []
    try:
        fs, path = filesystem(manifest, options)
        handle = fs.open(path, "rb")
    except Exception as error:  # noqa: BLE001  every fsspec backend raises its own classes
        raise explain(f"source.manifest={manifest}", error) from None
    try:
        with handle:
            table = readers[suffix](handle, manifest, notes)
    except (UnicodeError, csv.Error, OSError, pa.ArrowException) as error:
        raise UserError(
            f"{manifest}: cannot be read as {suffix[1:]} ({one_line(error)})",
            "",
            'a value that holds the separator in quotes: "a, b.wav"' if suffix in (".csv", ".tsv") else "",
        ) from None
    return _split(table, manifest, notes)


def _split(table: pa.Table, manifest: str, notes: list[str]) -> ListedFiles:
    if URI not in table.column_names:
        raise UserError(
            f"source.manifest={manifest} has no uri column",
            f"it has {', '.join(table.column_names) or 'none at all'}",
            "the header `uri` over the column of paths or URLs",
        )
    twice = [name for name, count in Counter(table.column_names).items() if count > 1]
    if twice:
        raise UserError(
            f"{manifest}: two columns are called {twice[0]}: leave one out, or call it something else"
        )
    uris = table[URI]
    if not pa.types.is_string(uris.type):
        uris = uris.cast(pa.string()) if table.num_rows == 0 or pa.types.is_large_string(uris.type) else uris
    texts = pa.types.is_string(uris.type)
    empty = pc.equal(pc.utf8_length(pc.utf8_trim_whitespace(uris)), 0).fill_null(True) if texts else None
    if not texts or pc.any(empty).as_py():
        row = 1 + (pc.index(empty, True).as_py() if texts else 0)
        raise UserError(f"{manifest}: row {row} has no uri")
    index = [name for name in table.column_names if name in _INDEX]
    if index:
        notes.append("a column without a name, as pandas writes its index, is left out")
    return ListedFiles(uris, table.drop_columns([URI, *index]), notes)


def _separated(handle: BinaryIO, manifest: str, notes: list[str], separator: str) -> pa.Table:
    data = handle.read()
    data = data.removeprefix(b"\xef\xbb\xbf")
    data.decode()  # pyarrow would say which byte, and not in which line
    if not data.strip():
        return pa.table({})
    first = next(csv.reader(io.StringIO(data.decode()), delimiter=separator))
    table = pa_csv.read_csv(
        pa.BufferReader(data),
        parse_options=pa_csv.ParseOptions(delimiter=separator, newlines_in_values=True),
        convert_options=pa_csv.ConvertOptions(
            column_types=dict.fromkeys(first, pa.string()), strings_can_be_null=True, null_values=[""]
        ),
    )
    arrays = [
        c if name == URI else _of_text(c) for name, c in zip(table.column_names, table.columns, strict=True)
    ]
    return pa.Table.from_arrays(arrays, table.column_names)


def _of_text(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """A column of strings as the narrowest type that all of them are written in."""

    def all_are(pattern: str) -> bool:
        return bool(pc.all(pc.match_substring_regex(column, pattern)).as_py())

    if column.null_count == len(column):
        return column
    if all_are(_BOOLEAN):
        return pc.equal(pc.utf8_lower(column), "true")
    if all_are(_INTEGER):
        return column.cast(pa.int64())
    if all_are(_NUMBER):
        return _finite(column.cast(pa.float64()))
    return column


def _finite(column: pa.ChunkedArray) -> pa.ChunkedArray:
    return pc.if_else(pc.is_finite(column), column, pa.scalar(None, column.type))


def _json(handle: BinaryIO, manifest: str, notes: list[str]) -> pa.Table:
    """An array of objects; or objects, a line each, under the wrong suffix."""
    data = handle.read()
    if not data.lstrip().startswith(b"["):
        return _json_lines(io.BytesIO(data), manifest, notes)
    try:
        rows = json.loads(data)
    except ValueError as error:
        raise UserError(f"{manifest} is not JSON ({error})") from None
    for number, row in enumerate(rows, 1):
        if not isinstance(row, dict):
            raise UserError(f"{manifest}: entry {number} is not a JSON object with a uri")
    return _of_objects(rows, notes)


def _json_lines(handle: BinaryIO, manifest: str, notes: list[str]) -> pa.Table:
    rows = []
    for number, line in enumerate(handle, 1):
        if line.strip():
            try:
                row = json.loads(line)
            except ValueError as error:
                raise UserError(f"{manifest}: line {number} is not JSON ({error})") from None
            if not isinstance(row, dict):
                raise UserError(f"{manifest}: line {number} is not a JSON object with a uri")
            rows.append(row)
    return _of_objects(rows, notes)


def _of_objects(rows: list[dict[str, Any]], notes: list[str]) -> pa.Table:
    names = list(dict.fromkeys(name for row in rows for name in row))
    if not rows:
        return pa.table({URI: pa.array([], pa.string())})
    columns = {}
    for name in names:
        values = [row.get(name) for row in rows]
        if name == URI:
            values = [v if isinstance(v, str) else None for v in values]
            columns[name] = pa.chunked_array([pa.array(values, pa.string())])
        else:
            columns[name] = pa.chunked_array([_of_values(name, values, notes)])
    if URI not in columns:
        columns = {name: column for name, column in columns.items() if name != URI}
    return pa.table(columns)


def _of_values(name: str, values: list[Any], notes: list[str]) -> pa.Array:
    """What JSON holds under one name: one type where all values have it."""
    kinds = {type(v) for v in values if v is not None}
    if kinds <= {bool}:
        return pa.array(values, pa.bool_() if kinds else pa.string())
    if kinds <= {str}:
        return pa.array([_encodable(v) for v in values], pa.string())
    if kinds == {int} and all(v is None or -(2**63) <= v < 2**63 for v in values):
        return pa.array(values, pa.int64())
    if kinds <= {int, float} and all(not isinstance(v, int) or abs(v) <= 2**53 for v in values):
        return _finite(pa.array(values, pa.float64()))
    notes.append(f"column {name} holds more than one kind of value, or nested ones: as JSON, in strings")
    return pa.array([None if v is None else _text(v) for v in values], pa.string())


def _encodable(text: str | None) -> str | None:
    """JSON may hold halves of characters, which no table takes."""
    return text if text is None else text.encode("utf-8", "replace").decode()


def _text(value: Any) -> str:
    """JSON of what JSON has; of anything else what Python says of it."""
    if isinstance(value, str):
        return _encodable(value)
    if isinstance(value, (bool, int, float, list, tuple, dict)):
        return json.dumps(value, ensure_ascii=False, default=str)
    return str(value)


def _parquet(handle: BinaryIO, manifest: str, notes: list[str]) -> pa.Table:
    try:
        table = pq.ParquetFile(handle).read()
    except pa.ArrowInvalid as error:
        raise UserError(f"{manifest}: not a Parquet file ({error})") from None
    arrays = [_plain(f.name, table[number], notes) for number, f in enumerate(table.schema)]
    return pa.Table.from_arrays(arrays, table.column_names)


def _plain(name: str, column: pa.ChunkedArray, notes: list[str]) -> pa.ChunkedArray:
    """A column in a type that every reader of Parquet knows: its own, as a rule."""
    kind = column.type
    if pa.types.is_dictionary(kind):
        return _plain(name, column.cast(kind.value_type), notes)
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_null(kind):
        return column.cast(pa.string())
    if pa.types.is_floating(kind):
        return _finite(column.cast(pa.float32()) if pa.types.is_float16(kind) else column)
    kept = (
        pa.types.is_boolean, pa.types.is_integer, pa.types.is_date32, pa.types.is_timestamp, pa.types.is_time,
        pa.types.is_decimal128, pa.types.is_binary,
    )  # fmt: skip
    if any(is_one(kind) for is_one in kept):
        return column
    if pa.types.is_date64(kind):
        return column.cast(pa.date32())
    if pa.types.is_large_binary(kind):
        return column.cast(pa.binary())
    notes.append(f"column {name} is {kind}, which not every reader of tables knows: as JSON, in strings")
    texts = [
        [None if value is None else _text(value) for value in chunk.to_pylist()]
        for chunk in column.iterchunks()
    ]
    return pa.chunked_array([pa.array(text, pa.string()) for text in texts], type=pa.string())
