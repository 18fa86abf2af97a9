"""Reading the tables for the report: a few columns, part by part, in bounded memory."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.dataset.output import Output
from pipeline.dataset.storage import is_local
from pipeline.dataset.tables.schemas import GONE

# Parts that are read at once: most are small, so opening them is what takes the time.
_READERS = 4
# Parts up to this size are read whole, ahead of time; of others there are few, and they are read bit by bit.
_SMALL = 1024
# Rows that are worked on together.
_ROWS = 4096
_HEX = np.full(256, 0, np.uint64)
_HEX[[ord(digit) for digit in "0123456789abcdef"]] = np.arange(16, dtype=np.uint64)


def scan(
    output: Output, parts: Sequence[str], columns: Sequence[str]
) -> Iterator[tuple[pa.Table, np.ndarray]]:
    """The rows of ``parts`` of a table in their order, some thousand at a time.

    Args:
        columns: what to read; what a part does not have is left out, or null where another part has it.

    Yields:
        rows, and for each the number of its part.
    """
    held: list[pa.Table] = []
    origins: list[np.ndarray] = []
    for number, rows in _pieces(output, parts, list(columns)):
        held.append(rows)
        origins.append(np.full(rows.num_rows, number, np.int32))
        if sum(r.num_rows for r in held) >= _ROWS:
            yield _joined(held), np.concatenate(origins)
            held, origins = [], []
    if held:
        yield _joined(held), np.concatenate(origins)


def _joined(tables: list[pa.Table]) -> pa.Table:
    return pa.concat_tables(tables, promote_options="permissive").combine_chunks()


def _pieces(output: Output, parts: Sequence[str], columns: list[str]) -> Iterator[tuple[int, pa.Table]]:
    def opened(number: int) -> tuple[int, pq.ParquetFile, list[str], pa.Table | None]:
        part = parts[number]
        if is_local(output.uri):
            file = pq.ParquetFile(output.path(part))
        else:
            file = pq.ParquetFile(pa.BufferReader(output.read(part)))
        there = [name for name in columns if name in file.schema_arrow.names]
        small = file.metadata.num_rows <= _SMALL
        return number, file, there, file.read(there, use_threads=False) if small else None

    waiting: deque = deque()
    with ThreadPoolExecutor(_READERS) as readers:
        for number in range(len(parts)):
            waiting.append(readers.submit(opened, number))
            if len(waiting) > 2 * _READERS:
                yield from _read(waiting.popleft().result())
        while waiting:
            yield from _read(waiting.popleft().result())


def _read(opened: tuple[int, pq.ParquetFile, list[str], pa.Table | None]) -> Iterator[tuple[int, pa.Table]]:
    number, file, there, rows = opened
    with file:
        if rows is not None:
            yield number, rows
        else:
            for batch in file.iter_batches(batch_size=_ROWS, columns=there, use_threads=False):
                yield number, pa.Table.from_batches([batch])


def present(rows: pa.Table) -> np.ndarray:
    """Which rows of `tracks`, read with their ``status``, are of files that are still there: bool ``[n]``."""
    return np.asarray(pc.not_equal(rows["status"], GONE).fill_null(True).combine_chunks())


def identities(rows: pa.Table) -> np.ndarray:
    """The first 64 bits of each ``asset_id``, uint64: it is a hash, so they tell contents apart and are random."""
    text = np.asarray(rows["asset_id"].fill_null("").to_pylist(), dtype="S16")
    digits = _HEX[text.view(np.uint8).reshape(len(text), 16)]
    found = np.zeros(len(text), np.uint64)
    for place in range(16):
        found = (found << np.uint64(4)) | digits[:, place]
    return found


def numbers(rows: pa.Table, column: str) -> np.ndarray:
    """A numeric column as float32; NaN where it is null, not finite, or not there."""
    if column not in rows.schema.names:
        return np.full(rows.num_rows, np.nan, np.float32)
    values = rows[column].cast(pa.float32(), safe=False).to_numpy()
    return np.where(np.isfinite(values), values, np.nan).astype(np.float32)


def vectors(rows: pa.Table, column: str, size: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """A column of lists as a matrix.

    Args:
        size: length of the lists that count; by default that of the first one that is not empty.

    Returns:
        places ``[n]`` of the rows with a list of that length and only finite values, and ``[n, size]`` float32.
    """
    nothing = np.empty(0, np.int64), np.empty((0, size or 0), np.float32)
    if column not in rows.schema.names:
        return nothing
    lists = rows[column].combine_chunks()
    lists = lists.chunk(0) if isinstance(lists, pa.ChunkedArray) else lists
    if not isinstance(lists, pa.ListArray):
        return nothing
    lengths = lists.value_lengths().fill_null(0).to_numpy(zero_copy_only=False)
    if size is None:
        size = int(lengths[lengths > 0][0]) if (lengths > 0).any() else 0
    places = np.flatnonzero(lengths == size) if size else nothing[0]
    if not len(places):
        return nothing
    flat = lists.take(pa.array(places)).flatten().cast(pa.float32())
    matrix = flat.to_numpy(zero_copy_only=False).reshape(-1, size)
    finite = np.isfinite(matrix).all(axis=1)
    return places[finite], matrix[finite]
