"""How inputs are packed into blocks: by estimated audio seconds, because cost is per block and per second.

A block is what one table part holds. Its name is made from the files in it, so a task that runs twice writes the same
part twice, and a part that is written anew replaces itself.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

import pyarrow as pa

from pipeline.dataset.sources.addresses import file_name
from pipeline.dataset.sources.listing import SourceItem

SCHEMA = pa.schema(
    [
        ("index", pa.int64()),
        ("uri", pa.string()),
        ("size_bytes", pa.int64()),
        ("problem", pa.string()),
        ("location", pa.string()),  # where to read it, when that is not the uri
        ("version", pa.string()),
        ("audio_stream", pa.int32()),  # where the row is of a certain one of the file's
        ("estimated_s", pa.float64()),
        ("part", pa.string()),
        ("known_asset", pa.string()),
        ("todo", pa.list_(pa.string())),
        ("shared", pa.bool_()),
        ("elsewhere", pa.bool_()),
    ]
)

# Bytes per second of audio, for packing only: CD quality for lossless files, 160 kbit/s for the others.
LOSSLESS = frozenset({".wav", ".wave", ".aif", ".aiff", ".aifc", ".au", ".w64", ".caf"})
BYTES_PER_SECOND = {**dict.fromkeys(LOSSLESS, 176_400), ".flac": 90_000}
DEFAULT_BYTES_PER_SECOND = 20_000
UNKNOWN_SECONDS = 60.0


@dataclass(frozen=True)
class PlannedFile:
    """A file that something is to be computed of.

    Args:
        index: its number in the listing.
        item: where it is.
        part: of the tables that has its row already; None for a file without one.
        known_asset: the ``asset_id`` in that row.
        todo: what is to be computed while the content is that of ``known_asset``; None is everything. Of a file
            with other content it is everything anyway.
        shared: another file may have the same content.
        elsewhere: another row has the content of ``known_asset``, or may get it in this run, and refers to its arrays.
    """

    index: int
    item: SourceItem
    part: str | None = None
    known_asset: str | None = None
    todo: tuple[str, ...] | None = None
    shared: bool = False
    elsewhere: bool = False


def planned(items: Iterable[SourceItem]) -> list[PlannedFile]:
    """All of ``items``, none of which has a row yet."""
    return [PlannedFile(index, item) for index, item in enumerate(items)]


def estimated_seconds(item: SourceItem) -> float:
    """A rough duration from the size and the suffix; only the packing depends on it."""
    if item.size_bytes is None:
        return UNKNOWN_SECONDS
    suffix = PurePosixPath(file_name(item.uri)).suffix.lower()
    return item.size_bytes / BYTES_PER_SECOND.get(suffix, DEFAULT_BYTES_PER_SECOND)


def pack(files: Iterable[PlannedFile], block_seconds: float, max_files: int) -> Iterator[pa.Table]:
    """Cut ``files`` into tables.

    Files that have a row already come by the part it is in: a part is written whole. The others come in order, at
    most ``max_files`` in a table, which is closed at ``block_seconds``. A block costs Ray some 25 ms whatever it
    holds, so tiny files share one; long files stay alone, because a block is never split between workers.
    """
    by_part: dict[str, list[PlannedFile]] = {}
    waiting: list[PlannedFile] = []
    seconds = 0.0
    for file in files:
        if file.part is not None:
            by_part.setdefault(file.part, []).append(file)
            continue
        length = estimated_seconds(file.item)
        if waiting and (len(waiting) >= max_files or seconds + length > block_seconds):
            yield block_of(waiting)
            waiting, seconds = [], 0.0
        waiting.append(file)
        seconds += length
    if waiting:
        yield block_of(waiting)
    for known in by_part.values():
        yield block_of(known)


def block_of(files: Sequence[PlannedFile]) -> pa.Table:
    """One table of ``files``, with the name of the part that they will be."""
    part = files[0].part or part_name(files[0].index, [f.item.uri for f in files])
    rows = [
        {
            **vars(file.item),
            "index": file.index,
            "estimated_s": estimated_seconds(file.item),
            "part": part,
            "known_asset": file.known_asset,
            "todo": None if file.todo is None else list(file.todo),
            "shared": file.shared,
            "elsewhere": file.elsewhere,
        }
        for file in files
    ]
    return pa.Table.from_pylist(rows, schema=SCHEMA)


def part_name(first_index: int, uris: Sequence[str]) -> str:
    """The same files give the same name."""
    digest = hashlib.sha256("\n".join(uris).encode()).hexdigest()[:12]
    return f"part-{first_index:09d}-{digest}.parquet"
