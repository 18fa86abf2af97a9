"""The result cache as the stages use it: decoding looks everything up, the other stages take what came along.

Whether a track must be decoded depends on what all later stages find. So the decode stage reads the entries, checks
them, and sends them on in the row: nothing that is evicted in between can leave a stage without audio.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from pipeline.audio.tags import FileFacts, facts_of
from pipeline.audio.views import View
from pipeline.dataset.cache.cache import Cache
from pipeline.dataset.cache.entry import DamagedEntry, Entry, unpack
from pipeline.engine.batch import CACHED, Track
from pipeline.errors import Fallback
from pipeline.features.base import stable_key

DECODE = "decode"
DESCRIPTION = {"container": str, "codec": str, "sample_rate": int, "channels": int, "duration_s": float}
FACTS = frozenset(FileFacts().columns())
# Steps on the way to the file, which say nothing of what was found in it.
_PASSING = frozenset(("fetch", "the running decoder"))


@dataclass
class Results:
    """What a run keeps and takes.

    Args:
        cache: where.
        keys: name of an extractor or network, and ``decode``, to the key in the cache; None for what this run wants
            and the cache never has.
        stages: the same names, without ``decode``, to the stage that computes each.
        audio: also keep decoded audio.
    """

    cache: Cache
    keys: Mapping[str, str | None]
    stages: Mapping[str, str]
    audio: bool = False

    def recall(self, track: Track) -> Entry | None:
        """Look up all that is wanted of a track whose content is known; what is there goes into ``track.cached``.

        Returns:
            what `describe` kept, where nothing is left to compute.
        """
        asset = track.values["asset_id"]
        wanted = {name: self.keys[name] for name in self.stages if track.wants(name)}
        keys = {DECODE: self.keys[DECODE], **wanted}
        found = self.cache.get_many(asset, [key for key in keys.values() if key])
        track.cached = {name: found[key] for name, key in wanted.items() if key in found}
        if len(track.cached) < len(wanted) or keys[DECODE] not in found:
            return None
        entry = unpack(found[keys[DECODE]], asset, keys[DECODE])
        return entry if _describes(entry.values) else None

    def describe(self, track: Track) -> None:
        """Keep what decoding found out about a track."""
        self._put(track, self.keys[DECODE], _description(track))

    def recall_audio(self, track: Track, key: str, views: Sequence[View]) -> Entry | None:
        """The audio that `keep_audio` kept under ``key``, if it has all ``views``."""
        entry = self.cache.get(track.values["asset_id"], key) if self.audio else None
        return entry if entry is not None and _has_views(entry, views) else None

    def keep_audio(self, track: Track, key: str, stored: Mapping[str, np.ndarray]) -> None:
        """Keep the views of a decoded track."""
        if self.audio and stored:
            entry = _description(track)
            entry.values["views"] = track.views
            entry.arrays = dict(stored)
            self._put(track, key, entry)

    def attach(self, table: pa.Table, tracks: Sequence[Track]) -> pa.Table:
        """``table`` with a column of entries for each stage."""
        for stage in sorted(set(self.stages.values())):
            rows = [
                [{"name": n, "data": data} for n, data in t.cached.items() if self.stages[n] == stage]
                for t in tracks
            ]
            table = table.append_column(f"cached@{stage}", pa.array(rows, type=pa.list_(CACHED)))
        return table

    def take(self, track: Track, name: str) -> Entry:
        """The entry of ``name`` that came with a track. Raises `DamagedEntry`."""
        key = self.keys.get(name)
        if key is None:
            raise DamagedEntry("of something else")
        return unpack(track.cached[name], track.asset_id, key)

    def put(self, track: Track, name: str, entry: Entry) -> None:
        """Keep a result."""
        self._put(track, self.keys.get(name), entry)

    def _put(self, track: Track, key: str | None, entry: Entry) -> None:
        if key is not None:
            self.cache.put(track.asset_id or track.values["asset_id"], key, entry)

    def settle(self, tracks: Sequence[Track]) -> None:
        """At the end of a table: write what waits, and record what went wrong with the first row that stays."""
        self.cache.flush()
        row = next((t for t in tracks if not t.values.get("kept") and not t.values.get("copy_of")), None)
        if row is not None:
            row.fallbacks.extend(self.cache.take_fallbacks())


def audio_key(decode_key: str, views: Sequence[View], max_track_bytes: int) -> str:
    """The key of decoded audio in the forms of ``views``."""
    forms = [(view.name, view.sample_rate, view.channels) for view in views]
    return stable_key({"decode": decode_key, "views": forms, "max_track_bytes": max_track_bytes})


def _description(track: Track) -> Entry:
    steps: list[Fallback] = [f for f in track.fallbacks if f.wanted not in _PASSING]
    return Entry({name: track.values[name] for name in (*DESCRIPTION, *sorted(FACTS))}, {}, steps)


def _describes(values: Mapping[str, object]) -> bool:
    """Whether a track can be described so: a cache may hold anything."""
    fits = values.keys() == DESCRIPTION.keys() | FACTS and all(
        type(values[name]) is kind for name, kind in DESCRIPTION.items()
    )
    try:
        facts_of({name: values[name] for name in FACTS if name in values})
    except (TypeError, ValueError):
        return False
    return fits and values["sample_rate"] > 0 and values["channels"] > 0 and values["duration_s"] >= 0


def _has_views(entry: Entry, views: Sequence[View]) -> bool:
    """Whether a stage can read ``views`` from it."""
    placed = entry.values.get("views")
    if not isinstance(placed, dict) or set(placed) != {view.name for view in views}:
        return False
    if not _describes({name: value for name, value in entry.values.items() if name != "views"}):
        return False
    for view in views:
        place = placed[view.name]
        if not (isinstance(place, tuple) and len(place) == 3 and isinstance(place[0], str)):
            return False
        samples = entry.arrays.get(place[0])
        rate, channels = (view.sample_rate or entry.values["sample_rate"]), place[2]
        if samples is None or samples.dtype != np.float32 or samples.ndim != 2 or not samples.size:
            return False
        if (place[1], samples.shape[0]) != (rate, channels) or channels != (view.channels or channels):
            return False
    return True
