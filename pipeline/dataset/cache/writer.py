"""Writing shards: at once what is there, and in the end few of them.

Results are written after every table, so that a killed process loses no more than one; a job of a million files would
leave millions of little files. So a process merges its own shards as it goes, sixteen to one, until one is large.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from pipeline.dataset.cache.shard import Shard, build, new_name
from pipeline.dataset.store import Store

SMALL_BYTES = 8 << 20
"""Smaller shards are merged. Those of this process are kept in memory until they are so large together."""

FAN = 16
MERGED_AGES_S = 24 * 3600.0
"""A merged shard is as old as its oldest entry; no entry of it is younger than that by more."""


@dataclass
class Written:
    """What a flush changed: shards that are there now, with their indexes, and names of those that are gone."""

    added: list[tuple[Shard, np.ndarray]] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)


@dataclass
class _Own:
    shard: Shard
    entries: dict[int, bytes]
    level: int = 0


class ShardWriter:
    """Collects entries and writes them below ``shards``.

    Args:
        store: root of the cache.
        clock: seconds since 1970.

    ``pending`` holds what waits, hash → bytes, ``pending_bytes`` how much that is.
    """

    def __init__(self, store: Store, clock: Callable[[], float]) -> None:
        self.store = store
        self.clock = clock
        self.pending: dict[int, bytes] = {}
        self.pending_bytes = 0
        self._own: list[_Own] = []

    def add(self, key: int, data: bytes) -> None:
        """Let an entry wait."""
        self.pending_bytes += len(data) - len(self.pending.get(key, b""))
        self.pending[key] = data

    def flush(self) -> Written:
        """Write what waits. Raises what the store raises; what waited is gone then, too."""
        entries = self.drop()
        written = Written()
        if entries:
            self._write(entries, self.clock(), 0, written)
        while group := self._due():
            self._merge(group, written)
        written.added = [pair for pair in written.added if pair[0].name not in written.removed]
        return written

    def drop(self) -> dict[int, bytes]:
        """Let nothing wait any longer; returns what did."""
        entries, self.pending, self.pending_bytes = self.pending, {}, 0
        return entries

    def _write(self, entries: dict[int, bytes], created: float, level: int, written: Written) -> None:
        data, rows = build(list(entries.items()))
        shard = Shard(new_name(created), created, len(data))
        self.store.write(f"shards/{shard.name}", data)
        written.added.append((shard, rows))
        if shard.size < SMALL_BYTES:
            self._own.append(_Own(shard, entries, level))

    def _due(self) -> list[_Own]:
        """Own shards to be merged now."""
        now = self.clock()
        self._own = [own for own in self._own if now - own.shard.created <= MERGED_AGES_S]
        if sum(own.shard.size for own in self._own) >= SMALL_BYTES and len(self._own) > 1:
            return list(self._own)
        for level in {own.level for own in self._own}:
            group = [own for own in self._own if own.level == level]
            if len(group) >= FAN:
                return group
        return []

    def _merge(self, group: list[_Own], written: Written) -> None:
        group = sorted(group, key=lambda own: own.shard.name)
        self._own = [own for own in self._own if own not in group]
        entries = {key: data for own in group for key, data in own.entries.items()}
        self._write(entries, group[0].shard.created, 1 + max(own.level for own in group), written)
        for own in group:
            with contextlib.suppress(FileNotFoundError):
                self.store.fs.rm_file(self.store.path(f"shards/{own.shard.name}"))
            written.removed.append(own.shard.name)
