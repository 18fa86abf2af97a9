"""The result cache: what was computed of a content, under the key of what computed it, for any later run.

    <uri>/shards/<when>-<random>.shard    many entries each, see `pipeline.dataset.cache.shard`
    <uri>/used/<when>-<shard>             empty; says that the shard was read then

Every process writes shards of its own, and no file is ever changed: concurrent runs need no lock. Where a shard is gone
when it is read, its entries are elsewhere now (merged), or a miss (evicted). Whatever else goes wrong is a miss, too,
and a recorded fallback; nothing here raises into a job.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from pipeline.dataset.cache.entry import DamagedEntry, Entry, pack, unpack
from pipeline.dataset.cache.shard import (
    LONGEST_ENTRY,
    ROW,
    TAIL_BYTES,
    DamagedShard,
    Shard,
    index_bytes,
    key_hash,
    parse_name,
    read_index,
)
from pipeline.dataset.cache.writer import ShardWriter
from pipeline.dataset.storage import one_line
from pipeline.dataset.store import Store
from pipeline.errors import Fallback

STAGE = "cache"
SHARD_BYTES = 64 << 20
"""Entries that wait are written once they are so many bytes, without waiting for `Cache.flush`."""

REFRESH_S = 60.0
"""So often is looked for shards that others have written."""

TOUCH_S = 3600.0
"""So often is it noted that a shard is in use; eviction goes by hours."""

PAUSE_S = 300.0
"""So long is a store that failed left alone: each try may take many seconds."""

# Entries of one asset were mostly written one after the other; a gap smaller than this is read along.
_GAP_BYTES = 1 << 16
_TAILS_AT_ONCE = 64
_PLACE = np.dtype([("key", "<u8"), ("shard", "<u4"), ("offset", "<u8"), ("length", "<u4")])


class Cache:
    """Results below ``uri``. Cheap to build; picklable, so every process opens its own connection.

    Reading loads the indexes of all shards: 24 bytes of memory per entry. A process that only writes loads none.

    Args:
        uri: local folder or fsspec URL.
        options: storage options, as for `pipeline.dataset.storage.filesystem`.
        ttl_hours: older results are misses; None keeps them for ever.
        max_bytes: see `pipeline.dataset.cache.upkeep.evict`; None sets no limit.
        clock: seconds since 1970.

    ``hits``, ``misses`` and ``corrupt`` count what this process looked up.
    """

    def __init__(
        self,
        uri: str,
        options: dict[str, Any] | None = None,
        ttl_hours: float | None = None,
        max_bytes: int | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.store = Store(uri, options)
        self.ttl_s = None if ttl_hours is None else 3600.0 * ttl_hours
        self.max_bytes = max_bytes
        self.clock = clock
        self._reset()

    def _reset(self) -> None:
        self.hits = self.misses = self.corrupt = 0
        # Writing: a stage may work on several tables at once.
        self._writing = threading.RLock()
        self._writer = ShardWriter(self.store, self.clock)
        self._shards: list[Shard | None] = []
        self._places = np.empty(0, _PLACE)
        self._refreshed: float | None = None
        self._gone = False
        self._touched: dict[str, float] = {}
        self._used: set[str] = set()
        self._paused_until = 0.0
        self._fallbacks: dict[str, Fallback] = {}
        self._reported: set[str] = set()

    def __getstate__(self) -> dict[str, Any]:
        return {name: self.__dict__[name] for name in ("store", "ttl_s", "max_bytes", "clock")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._reset()

    def get(self, asset_id: str, key: str) -> Entry | None:
        """The result, exactly as it was put; None where there is none."""
        entries = self.get_many(asset_id, [key])
        return unpack(entries[key], asset_id, key) if entries else None

    def has(self, asset_id: str, key: str) -> bool:
        """Whether there seems to be a result; whether it is whole shows only in reading it."""
        hashed = key_hash(asset_id, key)
        return hashed in self._writer.pending or bool(self._find(hashed))

    def get_many(self, asset_id: str, keys: Iterable[str]) -> dict[str, bytes]:
        """Of ``keys`` those whose results are there, as `pack` made them, and whole."""
        entries: dict[str, bytes] = {}
        asked = list(dict.fromkeys(keys))
        self._gone = False
        self._look_up(asset_id, asked, entries)
        if self._gone:
            self._refreshed = float("-inf")
            self._look_up(asset_id, [key for key in asked if key not in entries], entries)
        self.hits += len(entries)
        self.misses += len(asked) - len(entries)
        return entries

    def _look_up(self, asset_id: str, keys: Iterable[str], entries: dict[str, bytes]) -> None:
        candidates: dict[str, list[np.void]] = {}
        for key in keys:
            hashed = key_hash(asset_id, key)
            if hashed in self._writer.pending:
                self._keep(entries, asset_id, key, self._writer.pending[hashed])
            else:
                candidates[key] = self._find(hashed)
        while pending := {key: places for key, places in candidates.items() if places and key not in entries}:
            # The newest copy of each; an older one only where that is damaged or gone.
            for key, data in self._read({key: places.pop(0) for key, places in pending.items()}).items():
                self._keep(entries, asset_id, key, data)

    def put(self, asset_id: str, key: str, entry: Entry) -> None:
        """Keep a result. It can be read at once in this process, and elsewhere after `flush`."""
        try:
            data = pack(asset_id, key, entry)
        except (TypeError, ValueError) as error:
            self._note("result kept", "not kept", one_line(error), "kind")
            return
        if len(data) > LONGEST_ENTRY:
            self._note("result kept", "not kept", f"{len(data)} bytes are too many for one entry", "size")
            return
        if self._paused():
            return
        with self._writing:
            self._writer.add(key_hash(asset_id, key), data)
            if self._writer.pending_bytes >= SHARD_BYTES:
                self.flush()

    def flush(self) -> None:
        """Write what waits, as one shard, and which shards were read."""
        with self._writing:
            self._flush()

    def _flush(self) -> None:
        if self._paused():
            self._writer.drop()
            return
        try:
            written = self._writer.flush()
        except Exception as error:  # noqa: BLE001  every fsspec backend raises its own classes
            self.failed("written", error)
            return
        self._add(written.added)
        self._drop(written.removed)
        self._touch()

    def failed(self, how: str, error: Exception) -> None:
        """Leave the store alone for a while, as it could not be ``how`` (read, written, tidied); a fallback says so."""
        self._paused_until = self.clock() + PAUSE_S
        reason = f"it cannot be {how} ({type(error).__name__}: {one_line(error, 160)})"
        self._note("cache", "none", reason, "store")

    def take_fallbacks(self) -> list[Fallback]:
        """What went wrong since the last call; each kind is told once per process."""
        with self._writing:
            new = [step for kind, step in self._fallbacks.items() if kind not in self._reported]
            self._reported.update(self._fallbacks)
        return new

    def listing(self) -> list[Shard]:
        """The shards that are there, oldest first. Raises what the store raises."""
        try:
            files = self.store.fs.ls(self.store.path("shards"), detail=True)
        except FileNotFoundError:
            return []
        shards = (parse_name(str(file["name"]).rsplit("/", 1)[-1], int(file["size"] or 0)) for file in files)
        return sorted((s for s in shards if s is not None), key=lambda shard: shard.name)

    def indexes(self, shards: Sequence[Shard]) -> list[np.ndarray | Exception]:
        """The index of each shard, or why it cannot be had."""
        indexes: list[np.ndarray | Exception] = []
        for start in range(0, len(shards), _TAILS_AT_ONCE):
            some = shards[start : start + _TAILS_AT_ONCE]
            tails = self._tails([(s, TAIL_BYTES) for s in some])
            for shard, tail in zip(some, tails, strict=True):
                indexes.append(self._index(shard, tail))
        return indexes

    def _index(self, shard: Shard, tail: bytes | Exception) -> np.ndarray | Exception:
        if isinstance(tail, Exception):
            return tail
        try:
            needed = index_bytes(tail, shard.size)
            if needed > len(tail):
                [tail] = self._tails([(shard, needed)])
                if isinstance(tail, Exception):
                    return tail
            return read_index(tail, shard.size)
        except DamagedShard as error:
            return error

    def _tails(self, lengths: Sequence[tuple[Shard, int]]) -> list[bytes | Exception]:
        paths = [self.store.path(f"shards/{shard.name}") for shard, _ in lengths]
        starts = [max(0, shard.size - length) for shard, length in lengths]
        ends = [shard.size for shard, _ in lengths]
        return self.store.fs.cat_ranges(paths, starts, ends, on_error="return")

    def _find(self, hashed: int) -> list[np.void]:
        """Where entries of that hash lie, the newest shard first."""
        self._refresh()
        keys, key = self._places["key"], np.uint64(hashed)
        low, high = (int(np.searchsorted(keys, key, side)) for side in ("left", "right"))
        alive = [p for p in self._places[low:high] if self._alive(p)]
        return sorted(alive, key=lambda place: self._shards[place["shard"]].name, reverse=True)

    def _alive(self, place: np.void) -> bool:
        shard = self._shards[place["shard"]]
        return shard is not None and not self.expired(shard)

    def expired(self, shard: Shard) -> bool:
        """Whether its results are too old to be used."""
        return self.ttl_s is not None and shard.created + self.ttl_s < self.clock()

    def _refresh(self) -> None:
        """Learn of shards that came or went since the last time."""
        now = self.clock()
        if (self._refreshed is not None and now - self._refreshed < REFRESH_S) or self._paused():
            return
        self._refreshed = now
        try:
            listed = {shard.name: shard for shard in self.listing() if not self.expired(shard)}
        except Exception as error:  # noqa: BLE001  every fsspec backend raises its own classes
            self.failed("read", error)
            return
        known = {shard.name for shard in self._shards if shard is not None}
        self._drop(known - listed.keys())
        new = [shard for name, shard in listed.items() if name not in known]
        pairs: list[tuple[Shard, np.ndarray]] = []
        for shard, rows in zip(new, self.indexes(new), strict=True):
            if isinstance(rows, DamagedShard):
                self._damaged(f"a shard is left out: {rows}")
            elif isinstance(rows, np.ndarray):
                pairs.append((shard, rows))
            elif not isinstance(rows, FileNotFoundError):
                self.failed("read", rows)
        self._add(pairs)

    def _add(self, pairs: Sequence[tuple[Shard, np.ndarray]]) -> None:
        # A process that never looked anything up needs no index.
        if not pairs or self._refreshed is None:
            return
        parts = [self._places]
        for shard, rows in pairs:
            places = np.empty(len(rows), _PLACE)
            for name in ROW.names:
                places[name] = rows[name]
            places["shard"] = len(self._shards)
            self._shards.append(shard)
            parts.append(places)
        places = np.concatenate(parts)
        self._places = places[np.argsort(places["key"], kind="stable")]

    def _drop(self, names: Iterable[str]) -> None:
        """Forget shards that are gone."""
        names = set(names)
        gone = [n for n, shard in enumerate(self._shards) if shard is not None and shard.name in names]
        if gone:
            self._places = self._places[~np.isin(self._places["shard"], gone)]
            for number in gone:
                self._shards[number] = None

    def _read(self, places: dict[str, np.void]) -> dict[str, bytes]:
        """The bytes at each place; places that lie close together are read at once."""
        entries: dict[str, bytes] = {}
        ordered = sorted(places.items(), key=lambda item: (item[1]["shard"], item[1]["offset"]))
        while ordered:
            run = [ordered.pop(0)]
            while ordered and _follows(run[-1][1], ordered[0][1]):
                run.append(ordered.pop(0))
            first, last = run[0][1], run[-1][1]
            start, stop = int(first["offset"]), int(last["offset"]) + int(last["length"])
            data = self._range(int(first["shard"]), start, stop)
            if data is not None:
                for key, place in run:
                    at = int(place["offset"]) - start
                    entries[key] = data[at : at + int(place["length"])]
        return entries

    def _range(self, number: int, start: int, stop: int) -> bytes | None:
        shard = self._shards[number]
        if shard is None or self._paused():
            return None
        try:
            data = self.store.fs.cat_file(self.store.path(f"shards/{shard.name}"), start=start, end=stop)
        except FileNotFoundError:  # evicted or merged; in the second case its entries are elsewhere
            self._drop([shard.name])
            self._gone = True
            return None
        except Exception as error:  # noqa: BLE001  every fsspec backend raises its own classes
            self.failed("read", error)
            return None
        self._used.add(shard.name)
        return data

    def _keep(self, entries: dict[str, bytes], asset_id: str, key: str, data: bytes) -> None:
        """Put ``data`` into ``entries`` unless it is damaged."""
        try:
            unpack(data, asset_id, key)
        except DamagedEntry as error:
            self.corrupt += 1
            self._damaged(f"an entry is computed anew: {error}")
        else:
            entries[key] = data

    def _touch(self) -> None:
        now = self.clock()
        due = [name for name in self._used if now - self._touched.get(name, -TOUCH_S) >= TOUCH_S]
        self._used.clear()
        for name in due:
            if self._paused():
                return
            self._touched[name] = now
            try:
                self.store.write(f"used/{int(now):010d}-{name}", b"")
            except Exception as error:  # noqa: BLE001  every fsspec backend raises its own classes
                self.failed("written", error)

    def _paused(self) -> bool:
        return self.clock() < self._paused_until

    def _damaged(self, reason: str) -> None:
        self._note("cached results", "computed", reason, "damaged")

    def _note(self, wanted: str, used: str, reason: str, kind: str) -> None:
        self._fallbacks.setdefault(kind, Fallback(STAGE, wanted, used, reason))


def _follows(one: np.void, other: np.void) -> bool:
    end = int(one["offset"]) + int(one["length"])
    return one["shard"] == other["shard"] and 0 <= int(other["offset"]) - end <= _GAP_BYTES
