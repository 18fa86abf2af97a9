"""Shards: files of many entries, written once and never changed, each with its own index at the end.

    magic (8 bytes) | entries | index (20 bytes per entry) | rows of the index (uint64) | its sha256 | magic

The name says when it was written, ``<milliseconds since 1970>-<random>.shard``. The index holds no keys but 64 bits of
their hash: an entry says itself whose it is, so a collision is a miss.
"""

from __future__ import annotations

import hashlib
import re
import secrets
import struct
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

MAGIC = b"SMCACHE1"
FOOTER = struct.Struct("<Q32s8s")
ROW = np.dtype([("key", "<u8"), ("offset", "<u8"), ("length", "<u4")])
LONGEST_ENTRY = 2**32 - 1
"""Bytes; the index has no room for more."""

TAIL_BYTES = 1 << 16
"""Read from the end at first: enough for 3000 entries."""

_NAME = re.compile(r"(\d{13})-[0-9a-f]{16}\.shard")


class DamagedShard(Exception):
    """The index cannot be read."""


@dataclass(frozen=True)
class Shard:
    """A shard as the listing has it.

    Args:
        name: of the file.
        created: seconds since 1970.
        size: bytes.
    """

    name: str
    created: float
    size: int


def new_name(created: float) -> str:
    """A name for a shard of that time, unlike any other's."""
    return f"{int(created * 1000):013d}-{secrets.token_hex(8)}.shard"


def parse_name(name: str, size: int) -> Shard | None:
    """The shard of that name; None for a file that is none."""
    match = _NAME.fullmatch(name)
    return Shard(name, int(match[1]) / 1000, size) if match else None


def key_hash(asset_id: str, key: str) -> int:
    """What the index has of a key."""
    return int.from_bytes(hashlib.sha256(f"{asset_id}/{key}".encode()).digest()[:8], "little")


def build(entries: Sequence[tuple[int, bytes]]) -> tuple[bytes, np.ndarray]:
    """A shard of ``entries`` (hash, bytes), and its index, a `ROW` per entry."""
    rows = np.empty(len(entries), ROW)
    offset = len(MAGIC)
    for number, (key, data) in enumerate(entries):
        rows[number] = key, offset, len(data)
        offset += len(data)
    index = rows.tobytes()
    footer = FOOTER.pack(len(rows), hashlib.sha256(index).digest(), MAGIC)
    return b"".join((MAGIC, *(data for _, data in entries), index, footer)), rows


def index_bytes(tail: bytes, size: int) -> int:
    """How many bytes from the end the index takes, from the last bytes of a shard.

    Raises:
        DamagedShard: they do not end as a shard does.
    """
    if len(tail) < FOOTER.size:
        raise DamagedShard("too short")
    count, _, magic = FOOTER.unpack(tail[-FOOTER.size :])
    needed = count * ROW.itemsize + FOOTER.size
    if magic != MAGIC or needed + len(MAGIC) > size:
        raise DamagedShard("no index at its end")
    return needed


def read_index(tail: bytes, size: int) -> np.ndarray:
    """The index, from the last `index_bytes` or more of a shard of ``size`` bytes.

    Raises:
        DamagedShard: it is not what was written.
    """
    needed = index_bytes(tail, size)
    count, digest, _ = FOOTER.unpack(tail[-FOOTER.size :])
    index = tail[len(tail) - needed : len(tail) - FOOTER.size]
    if len(tail) < needed or hashlib.sha256(index).digest() != digest:
        raise DamagedShard("the index does not fit its checksum")
    rows = np.frombuffer(index, ROW, count)
    ends = rows["offset"] + rows["length"]
    if ((rows["offset"] < len(MAGIC)) | (ends > size - needed) | (ends < rows["offset"])).any():
        raise DamagedShard("the index points outside")
    return rows
