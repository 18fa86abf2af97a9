"""Fetch, hash and decode: bytes become float32 samples and the views the other stages read, once per file.

Decoding happens in a process of its own (`pipeline.audio.isolated`), which a poison file may take with it.
A track whose views would not fit into ``max_track_bytes`` is only checked here, from the first sample to the last;
the stages then read it from its source, each as it needs it.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.audio.choice import FIRST, Choice
from pipeline.audio.isolated import MAX_TRACK_BYTES, MAX_TRACK_HOURS, TIMEOUT_S, IsolatedDecoder
from pipeline.audio.mixing import CANCELS_DB
from pipeline.audio.views import DecodedViews, View, Wanted
from pipeline.counting import plural
from pipeline.dataset.tables.schemas import IDENTITY, TAGS
from pipeline.engine.batch import Track, add_stage, pcm_array, tracks_of
from pipeline.engine.decode_key import decode_key
from pipeline.engine.ledger import Claims
from pipeline.engine.process import note_started
from pipeline.engine.results import FACTS, Results, audio_key
from pipeline.engine.source_file import Fetcher, SourceFile, UnreadableSource
from pipeline.engine.timing import Cost, StageClock
from pipeline.errors import Fallback

NAME = "decode"
FIELDS = (
    pa.field("asset_id", pa.string()),
    pa.field("size_bytes", pa.int64()),
    pa.field("container", pa.string()),
    pa.field("codec", pa.string()),
    pa.field("sample_rate", pa.int32()),
    pa.field("channels", pa.int32()),
    pa.field("duration_s", pa.float64()),
    *(f for f in (*IDENTITY, *TAGS) if f.name in FACTS),
    pa.field("key@decode", pa.string()),
    pa.field("views", pa.string()),
    pa.field("long", pa.bool_()),
    pa.field("mono_channel", pa.int32()),
    pa.field("todo", pa.list_(pa.string())),
    pa.field("copy_of", pa.string()),
    pa.field("kept", pa.bool_()),
)


class DecodeWorker:
    """Rows with a ``uri`` in, rows with audio out.

    A file whose content is known already, and of which nothing is to be computed, is read and not decoded.

    Args:
        views: what later stages read, that which is read last first: of equal forms the first owns the samples.
        made: views that later stages make, which count against ``max_track_bytes``, too.
        storage_options: for the source's file system.
        ledger: decides which of several files with the same content is computed; None computes each.
        fetch_attempts: tries per remote file before it becomes a failure.
        max_track_bytes: views of a longer track do not travel between stages.
        max_track_hours: a longer track is a failure; a damaged header may claim any sample rate.
        decode_timeout_s: a file of which no samples come for so long is a failure.
        decode_memory_bytes: of the process that decodes, besides the views; 0 for
            `pipeline.audio.isolated.default_memory_bytes`.
        results: the result cache; a track of which it has everything is not decoded.
        choice: which sound track is taken of files that have several.
    """

    def __init__(
        self,
        views: Sequence[View],
        made: Sequence[View] = (),
        *,
        storage_options: dict[str, Any] | None = None,
        ledger: Any = None,
        fetch_attempts: int = 3,
        max_track_bytes: int = MAX_TRACK_BYTES,
        max_track_hours: float = MAX_TRACK_HOURS,
        decode_timeout_s: float = TIMEOUT_S,
        decode_memory_bytes: int = 0,
        results: Results | None = None,
        choice: Choice = FIRST,
    ) -> None:
        self.views = tuple(views)
        wanted = Wanted(self.views, max_track_bytes, 3600.0 * max_track_hours, tuple(made))
        # First of all: the child imports its decoders while the rest is made here.
        self.decoder = IsolatedDecoder(wanted, decode_timeout_s, decode_memory_bytes)
        self.choice = choice
        self.key = decode_key(choice)
        self.fetcher = Fetcher(storage_options, fetch_attempts, choice)
        self.claims = Claims(ledger)
        self.results = results
        self.audio_key = audio_key(self.key, (*self.views, *made), max_track_bytes)
        self.decoder.wait_until_ready()

    def __call__(self, table: pa.Table) -> pa.Table:
        """The same rows with what is known of each file, and its audio."""
        clock = StageClock()
        tracks = tracks_of(table)
        before = self.decoder.starting_s
        audio = [self._one(track) for track in tracks]
        # A child that died of a file, and was started anew: that is a start, and no file's decoding.
        started = self.decoder.starting_s - before
        clock.exclude(started)
        note_started(started)
        for view in self.views:
            column = pcm_array([stored.get(view.name) for stored in audio])
            table = table.append_column(f"pcm@{view.name}", column)
        if self.results is not None:
            table = self.results.attach(table, tracks)
            self.results.settle(tracks)
        return add_stage(table, tracks, NAME, FIELDS, clock)

    def _one(self, track: Track) -> dict[str, np.ndarray]:
        """Fill ``track.values`` and return its stored views; a failure is recorded and gives none."""
        started, starting_s = time.perf_counter(), self.decoder.starting_s
        cost = Cost(NAME)
        track.costs.append(cost)
        track.values.update(
            asset_id=hashlib.sha256(track.uri.encode()).hexdigest(),
            size_bytes=track.size_bytes,
            todo=track.todo,
        )
        stored: dict[str, np.ndarray] = {}
        fetched = False
        try:
            with self.fetcher.fetch(track, NAME) as source:
                track.values["asset_id"] = source.content_id()
                track.values["size_bytes"] = source.size
                fetched = True
                if self._is_due(track):
                    stored = self._audio(track, cost, source)
                    if self.choice != FIRST:
                        track.values[f"key@{NAME}"] = self.key
        except Exception as error:  # noqa: BLE001  s3fs, gcsfs and adlfs each raise classes of their own
            # What cannot be read today may be read tomorrow: no key, so that the next run tries again.
            hopeless = fetched or isinstance(error, UnreadableSource)
            track.fail(NAME, error, getattr(error, "attempts", 1), self.key if hopeless else None)
            track.cached.clear()
            # Not at the price of what was computed when it could.
            track.values["kept"] = not fetched and track.known_asset is not None
        track.values["views"] = json.dumps(track.views)
        cost.compute_s = time.perf_counter() - started - (self.decoder.starting_s - starting_s)
        return stored

    def _is_due(self, track: Track) -> bool:
        """Whether anything is to be computed of the content that was found."""
        asset = track.values["asset_id"]
        if asset != track.known_asset:
            track.todo = track.values["todo"] = None
        elif track.todo == []:
            track.values["kept"] = True
            return False
        if track.shared:
            owner = self.claims.owner(asset, track.uri)
            if owner != track.uri:
                track.values["copy_of"] = owner
                return False
        return True

    def _audio(self, track: Track, cost: Cost, source: SourceFile) -> dict[str, np.ndarray]:
        """What later stages read: from the cache or from the file; nothing where the cache has all results."""
        if self.results is None:
            return self._decode(track, cost, source)
        entry = self.results.recall(track)
        found = entry or self.results.recall_audio(track, self.audio_key, self.views)
        if found is None:
            stored = self._decode(track, cost, source)
            self.results.describe(track)
            self.results.keep_audio(track, self.audio_key, stored)
            return stored
        cost.cache_hit = True
        track.views = found.values.pop("views", {})
        track.values.update(found.values)
        track.duration_s = cost.batch_audio_s = found.values["duration_s"]
        cost.backend = found.values["codec"]
        track.fallbacks += found.fallbacks
        return found.arrays

    def _decode(self, track: Track, cost: Cost, source: SourceFile) -> dict[str, np.ndarray]:
        found = self.decoder.decode(source)
        self._describe(track, cost, found)
        if found.long:
            track.values["long"] = True
        else:
            track.views = {name: tuple(place) for name, place in found.places.items()}
        return found.stored

    def _describe(self, track: Track, cost: Cost, found: DecodedViews) -> None:
        track.values.update(
            container=found.container,
            codec=found.codec,
            sample_rate=found.sample_rate,
            channels=found.channels,
            duration_s=found.duration_s,
            **found.facts.columns(),
        )
        track.duration_s = cost.batch_audio_s = found.duration_s
        cost.backend = found.codec
        if found.replaced_samples:
            reason = f"{plural(found.replaced_samples, 'sample')} NaN, infinite or beyond ±2**31"
            track.fallbacks.append(Fallback(NAME, "finite samples", "0 in their place", reason))
        if found.damaged_packets:
            reason = f"{found.damaged_packets} damaged packets in the file"
            track.fallbacks.append(Fallback(NAME, "every packet", "the packets between", reason))
        if found.mono_channel is not None:
            track.values["mono_channel"] = found.mono_channel
            reason = f"mono mix cancels: {-CANCELS_DB:g} dB or more below that of unrelated channels"
            used = f"channel {found.mono_channel + 1} alone"
            track.fallbacks.append(Fallback(NAME, "mono mix", used, reason))
        if found.retried:
            track.fallbacks.append(Fallback(NAME, "the running decoder", "a new one", found.retried))
