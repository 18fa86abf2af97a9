"""Housekeeping of the result cache, once at the end of a run: what is too old, too much, or in too many pieces.

No lock is needed: whoever reads a shard that is gone has a miss, and two who tidy at once do the same work twice.
"""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from pipeline.dataset.cache.cache import Cache
from pipeline.dataset.cache.entry import intact
from pipeline.dataset.cache.shard import DamagedShard, Shard, build, new_name
from pipeline.dataset.cache.writer import MERGED_AGES_S, SMALL_BYTES
from pipeline.dataset.storage import is_local

MERGED_BYTES = 64 << 20
_LEFTOVER_S = 24 * 3600.0
_USED = re.compile(r"(\d{10})-(\d{13}-[0-9a-f]{16}\.shard)")


def evict(cache: Cache) -> dict[str, int]:
    """Remove expired and unreadable shards; then, while more than ``max_bytes`` are left, those whose last use is
    longest ago; then merge small ones. Nothing raises: what fails is a fallback of the cache.

    Returns:
        ``shards`` and ``bytes`` that are left, ``removed_shards``, ``removed_bytes`` and ``merged_shards``; empty
        where it failed.
    """
    try:
        return _evict(cache)
    except Exception as error:  # noqa: BLE001  every fsspec backend raises its own classes
        cache.failed("tidied", error)
        return {}


def _evict(cache: Cache) -> dict[str, int]:
    uses = _Uses(cache)
    shards = cache.listing()
    indexes = dict(zip((s.name for s in shards), cache.indexes(shards), strict=True))
    bad = [s for s in shards if cache.expired(s) or isinstance(indexes[s.name], DamagedShard)]
    kept = [s for s in shards if s not in bad]
    kept, surplus = _within(kept, cache.max_bytes, uses)
    removed = [*bad, *surplus]
    _remove(cache, removed)
    merged, left = _merge_all(cache, kept, indexes, uses)
    uses.tidy({s.name for s in left})
    _remove_leftovers(cache)
    return {
        "shards": len(left),
        "bytes": sum(s.size for s in left),
        "removed_shards": len(removed),
        "removed_bytes": sum(s.size for s in removed),
        "merged_shards": merged,
    }


class _Uses:
    """When each shard was last read, from the names of the files in ``used``."""

    def __init__(self, cache: Cache) -> None:
        self.cache = cache
        self.found: dict[str, list[tuple[float, str]]] = {}
        for name in cache.store.names("used"):
            if match := _USED.fullmatch(name):
                self.found.setdefault(match[2], []).append((float(match[1]), name))

    def last(self, shard: Shard) -> float:
        """Writing counts as a use."""
        return max([shard.created, *(when for when, _ in self.found.get(shard.name, ()))])

    def mark(self, shard: Shard, when: float) -> None:
        name = f"{int(when):010d}-{shard.name}"
        self.cache.store.write(f"used/{name}", b"")
        self.found[shard.name] = [(when, name)]

    def tidy(self, alive: set[str]) -> None:
        """Keep the newest note of each shard that is there."""
        for shard, notes in self.found.items():
            for _, name in sorted(notes)[: -1 if shard in alive else None]:
                _discard(self.cache, f"used/{name}")


def _within(shards: Sequence[Shard], max_bytes: int | None, uses: _Uses) -> tuple[list[Shard], list[Shard]]:
    """The shards that stay and those that go, least recently used first."""
    kept = sorted(shards, key=lambda s: (uses.last(s), s.name))
    total, gone = sum(s.size for s in kept), []
    while max_bytes is not None and total > max_bytes:
        gone.append(kept.pop(0))
        total -= gone[-1].size
    return sorted(kept, key=lambda s: s.name), gone


def _merge_all(
    cache: Cache, shards: list[Shard], indexes: dict[str, np.ndarray | Exception], uses: _Uses
) -> tuple[int, list[Shard]]:
    """How many shards were merged, and what is there then."""
    left, merged = set(shards), 0
    for group in _groups(s for s in shards if isinstance(indexes[s.name], np.ndarray)):
        made = _merge(cache, group, indexes, uses)
        merged += len(group)
        left -= set(group)
        left |= {made} if made else set()
    return merged, sorted(left, key=lambda s: s.name)


def _groups(shards: Iterable[Shard]) -> Iterator[list[Shard]]:
    """Small shards of about one age that make one of a good size."""
    group: list[Shard] = []
    for shard in (s for s in shards if s.size < SMALL_BYTES):
        full = sum(s.size for s in group) + shard.size > MERGED_BYTES
        if group and (full or shard.created - group[0].created > MERGED_AGES_S):
            if len(group) > 1:
                yield group
            group = []
        group.append(shard)
    if len(group) > 1:
        yield group


def _merge(
    cache: Cache, group: list[Shard], indexes: dict[str, np.ndarray | Exception], uses: _Uses
) -> Shard | None:
    """One shard of what is whole in ``group``, the newest copy of each entry; the old ones go once it is there."""
    entries: dict[int, bytes] = {}
    for shard in group:
        with contextlib.suppress(FileNotFoundError):  # somebody else tidies, too
            data = cache.store.read(f"shards/{shard.name}")
            for key, offset, length in indexes[shard.name].tolist():
                entry = data[offset : offset + length]
                if intact(entry):
                    entries[key] = entry
    made = None
    if entries:
        data, _ = build(list(entries.items()))
        created = group[0].created
        made = Shard(new_name(created), created, len(data))
        cache.store.write(f"shards/{made.name}", data)
        uses.mark(made, max(map(uses.last, group)))
    _remove(cache, group)
    return made


def _remove(cache: Cache, shards: Iterable[Shard]) -> None:
    for shard in shards:
        _discard(cache, f"shards/{shard.name}")


def _discard(cache: Cache, relative: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        cache.store.fs.rm_file(cache.store.path(relative))


def _remove_leftovers(cache: Cache) -> None:
    """What killed processes left half written."""
    if not is_local(cache.store.uri):
        return
    for folder in ("shards", "used"):
        for path in Path(cache.store.path(folder)).glob(".*.tmp"):
            with contextlib.suppress(FileNotFoundError):
                if time.time() - path.stat().st_mtime > _LEFTOVER_S:
                    path.unlink()
