"""How inputs are packed into blocks: by estimated audio seconds, because cost is per block and per second."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import PurePosixPath

import pyarrow as pa

from pipeline.dataset.sources import SourceItem

SCHEMA = pa.schema(
    [
        ("index", pa.int64()),
        ("uri", pa.string()),
        ("size_bytes", pa.int64()),
        ("problem", pa.string()),
        ("location", pa.string()),  # where to read it, when that is not the uri
        ("estimated_s", pa.float64()),
    ]
)

# Bytes per second of audio, for packing only: CD quality for lossless files, 160 kbit/s for the others.
LOSSLESS = frozenset({".wav", ".wave", ".aif", ".aiff", ".aifc", ".au", ".w64", ".caf"})
BYTES_PER_SECOND = {**dict.fromkeys(LOSSLESS, 176_400), ".flac": 90_000}
DEFAULT_BYTES_PER_SECOND = 20_000
UNKNOWN_SECONDS = 60.0


def estimated_seconds(item: SourceItem) -> float:
    """A rough duration from the size and the suffix; only the packing depends on it."""
    if item.size_bytes is None:
        return UNKNOWN_SECONDS
    suffix = PurePosixPath(item.uri).suffix.lower()
    return item.size_bytes / BYTES_PER_SECOND.get(suffix, DEFAULT_BYTES_PER_SECOND)


def pack(items: Iterable[SourceItem], block_seconds: float, max_files: int) -> Iterator[pa.Table]:
    """Cut ``items`` into tables of consecutive files: at most ``max_files``, and closed at ``block_seconds``.

    A block costs Ray some 25 ms whatever it holds, so tiny files share one; long files stay alone, because a
    block is never split between workers.
    """
    rows: list[dict] = []
    seconds = 0.0
    for index, item in enumerate(items):
        length = estimated_seconds(item)
        if rows and (len(rows) >= max_files or seconds + length > block_seconds):
            yield pa.Table.from_pylist(rows, schema=SCHEMA)
            rows, seconds = [], 0.0
        rows.append({"index": index, **vars(item), "estimated_s": length})
        seconds += length
    if rows:
        yield pa.Table.from_pylist(rows, schema=SCHEMA)
