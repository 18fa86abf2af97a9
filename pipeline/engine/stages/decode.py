"""Fetch, hash and decode: bytes become float32 samples and the views the other stages read, once per file."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.audio.decode import AudioTooLong, DecodeError, decode
from pipeline.audio.resample import make_view
from pipeline.audio.validate import MAX_SAMPLES
from pipeline.dataset.storage import filesystem, is_local, one_line
from pipeline.engine.batch import Track, add_stage, pcm_array, tracks_of
from pipeline.engine.timing import Cost, StageClock
from pipeline.errors import Fallback

NAME = "decode"
# A file is fetched whole; what is larger would not fit beside its decoded samples.
MAX_BYTES = 4 << 30
FIELDS = (
    pa.field("asset_id", pa.string()),
    pa.field("size_bytes", pa.int64()),
    pa.field("container", pa.string()),
    pa.field("codec", pa.string()),
    pa.field("sample_rate", pa.int32()),
    pa.field("channels", pa.int32()),
    pa.field("duration_s", pa.float64()),
    pa.field("views", pa.string()),
)


@dataclass(frozen=True)
class ViewSpec:
    """A form of the audio that later stages read.

    Args:
        name: ``mono``, ``native``, ``channels``, ``clap`` or ``separation``.
        sample_rate: Hz; None keeps the file's.
        channels: 1 mixes down, 2 makes stereo, None keeps the file's.
        last_stage: position in the graph of the last stage that reads it.
    """

    name: str
    sample_rate: int | None
    channels: int | None
    last_stage: int


class UnreadableSource(Exception):
    """The listing already says that this cannot be read."""


class DecodeStage:
    """Rows with a ``uri`` in, rows with audio out, cut into tables of bounded audio.

    Args:
        views: what later stages read.
        storage_options: for the source's file system.
        block_audio_seconds: a table is handed on once it holds so much audio by the plan's estimate.
        fetch_attempts: tries per remote file before it becomes a failure.
    """

    def __init__(
        self,
        views: Sequence[ViewSpec],
        storage_options: dict[str, Any] | None = None,
        block_audio_seconds: float = 300.0,
        fetch_attempts: int = 3,
    ) -> None:
        # The view that lives longest owns the samples; equal ones refer to it.
        self.views = sorted(views, key=lambda v: -v.last_stage)
        self.storage_options = storage_options
        self.block_audio_seconds = block_audio_seconds
        self.fetch_attempts = fetch_attempts

    def __call__(self, table: pa.Table) -> Iterator[pa.Table]:
        """Yield tables of consecutive rows."""
        waiting: list[Track] = []
        audio: list[dict[str, np.ndarray]] = []
        seconds, first, clock = 0.0, 0, StageClock()
        rows = tracks_of(table)
        for number, track in enumerate(rows):
            audio.append(self._one(track))
            waiting.append(track)
            # By the plan's estimate, not by what was decoded: a retried task must cut its rows alike.
            seconds += track.estimated_s
            if seconds >= self.block_audio_seconds or number == len(rows) - 1:
                yield self._table(table.slice(first, len(waiting)), waiting, audio, clock)
                first = number + 1
                waiting, audio, seconds, clock = [], [], 0.0, StageClock()

    def _one(self, track: Track) -> dict[str, np.ndarray]:
        """Fill ``track.values`` and return its stored views; a failure is recorded and gives none."""
        started = time.perf_counter()
        cost = Cost(NAME)
        track.costs.append(cost)
        track.values["asset_id"] = hashlib.sha256(track.uri.encode()).hexdigest()
        track.values["size_bytes"] = track.size_bytes
        stored: dict[str, np.ndarray] = {}
        try:
            data = self._fetch(track)
            track.values["asset_id"] = hashlib.sha256(data).hexdigest()
            track.values["size_bytes"] = len(data)
            decoded = decode(data, name=track.uri.rsplit("/", 1)[-1])
            del data
            for name in ("container", "codec", "sample_rate", "channels", "duration_s"):
                track.values[name] = getattr(decoded, name)
            cost.backend = decoded.codec
            track.duration_s = decoded.duration_s
            cost.batch_audio_s = decoded.duration_s
            if decoded.replaced_samples:
                reason = f"{decoded.replaced_samples} NaN or infinite samples in the file"
                track.fallbacks.append(Fallback(NAME, "finite samples", "0 in their place", reason))
            if decoded.damaged_packets:
                reason = f"{decoded.damaged_packets} damaged packets in the file"
                track.fallbacks.append(Fallback(NAME, "every packet", "the packets between", reason))
            stored = self._views(track, decoded.samples, decoded.sample_rate)
        except (DecodeError, UnreadableSource, OSError, MemoryError) as error:
            attempts = getattr(error, "attempts", 1)
            track.fail(NAME, error, attempts)
        except Exception as error:  # noqa: BLE001  s3fs, gcsfs and adlfs each raise classes of their own
            track.fail(NAME, error)
        track.values["views"] = json.dumps(track.views)
        cost.compute_s = time.perf_counter() - started
        return stored

    def _fetch(self, track: Track) -> bytes:
        if track.problem:
            raise UnreadableSource(track.problem)
        if (track.size_bytes or 0) > MAX_BYTES:
            raise UnreadableSource(f"{track.size_bytes / 2**30:.1f} GiB is more than {MAX_BYTES / 2**30:.0f}")
        fs, path = filesystem(track.location or track.uri, self.storage_options)
        for attempt in range(1, self.fetch_attempts + 1):
            try:
                data = fs.cat_file(path)
            except (FileNotFoundError, PermissionError, IsADirectoryError):
                raise
            except Exception as error:
                if attempt == self.fetch_attempts or is_local(track.uri):
                    error.attempts = attempt  # type: ignore[attr-defined]
                    raise
                time.sleep(0.2 * 4 ** (attempt - 1))
                reason = f"attempt {attempt} failed: {type(error).__name__}: {one_line(error, 120)}"
                track.fallbacks.append(Fallback(NAME, "fetch", "retry", reason))
            else:
                return data
        raise AssertionError("unreachable: the last attempt returns or raises")

    def _views(self, track: Track, samples: np.ndarray, rate: int) -> dict[str, np.ndarray]:
        stored: dict[str, np.ndarray] = {}
        places: dict[tuple[int, int], str] = {}
        placed: dict[str, tuple[str, int, int]] = {}
        for view in self.views:
            form = (view.sample_rate or rate, view.channels or samples.shape[0])
            _check_size(form, samples.shape[1] / rate)
            if form not in places:
                stored[view.name] = make_view(samples, rate, form[0], view.channels)
                places[form] = view.name
            placed[view.name] = (places[form], *form)
        # Only now, so that a view that fails leaves a track without audio and not one with half of it.
        track.views = placed
        return stored

    def _table(
        self, table: pa.Table, tracks: list[Track], audio: list[dict[str, np.ndarray]], clock: StageClock
    ) -> pa.Table:
        for view in self.views:
            column = pcm_array([stored.get(view.name) for stored in audio])
            table = table.append_column(f"pcm@{view.name}", column)
        return add_stage(table, tracks, NAME, FIELDS, clock)


def _check_size(form: tuple[int, int], seconds: float) -> None:
    """Refuse a view that would not fit: a header may claim a rate of 1 Hz, and resampling would believe it."""
    rate, channels = form
    if rate * channels * seconds > MAX_SAMPLES:
        raise AudioTooLong(
            f"{seconds:.0f} s at {rate} Hz in {channels} channels would take "
            f"{rate * channels * seconds * 4 / 2**30:.1f} GiB, more than {MAX_SAMPLES * 4 / 2**30:.0f}"
        )
