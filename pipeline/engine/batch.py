"""A batch of tracks between two stages: audio columns without copies, and what each stage adds.

Columns of the table that travels:

- the plan's: ``index``, ``uri``, ``size_bytes``, ``problem``, ``part``, and what is to be done, see
  `pipeline.engine.packing.PlannedFile`;
- ``copy_of``: the file with the same content that is computed instead of this one;
- ``kept``: true where the row that is there already stays, whatever happened here;
- what is known of the file: ``asset_id`` … ``duration_s``;
- ``long``: true where the samples are too many to travel: stages read them from the source;
- ``mono_channel``: the channel that mono views are made of, where the mix of all cancels;
- ``pcm@<view>``: float32 samples as bytes, each view stored once, in the column of the last stage that reads
  it, so that dropping a column after its stage frees it; ``views`` says where each view of the row lies;
- ``timings@<stage>``, ``failures@<stage>``, ``fallbacks@<stage>``, ``blobs@<stage>``: lists of structs;
- the columns of ``tracks`` as their stages compute them, and ``rows@<table>``, the rows of other tables;
- ``key@<product>`` and ``failkey@<product>``: what was computed and what failed;
- ``cached@<stage>``: results of the stage that were in the cache, see `pipeline.engine.results`;
- ``done_at``: when the stage before ended, seconds since the epoch.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY, dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.dataset.contents import Product
from pipeline.dataset.storage import one_line
from pipeline.dataset.tables.schemas import FALLBACK
from pipeline.engine.process import process_note
from pipeline.engine.timing import TIMING, Cost, StageClock
from pipeline.errors import Fallback

FAILURE = pa.struct(
    [
        ("stage", pa.string()),
        ("error_class", pa.string()),
        ("message", pa.string()),
        ("attempts", pa.int32()),
        ("worker_died", pa.bool_()),
        ("first_seen", pa.timestamp("us", tz="UTC")),
        ("extractor_key", pa.string()),
    ]
)
BLOB = pa.struct(
    [
        ("path", pa.string()),
        ("name", pa.string()),
        ("shape", pa.list_(pa.int64())),
        ("data", pa.large_binary()),
        ("size_bytes", pa.int64()),
        ("sha256", pa.string()),
    ]
)
CACHED = pa.struct([("name", pa.string()), ("data", pa.large_binary())])


@dataclass
class Blob:
    """A file that belongs to an asset: its path below the output root, and its bytes unless it lies there already.

    ``size_bytes`` and ``sha256`` are those of what lies there; of bytes they are worked out when these are written.
    """

    path: str
    name: str
    shape: list[int]
    data: bytes | None
    size_bytes: int | None = None
    _: KW_ONLY
    sha256: str | None = None


@dataclass
class Track:
    """One row as a stage sees it.

    ``values`` are the columns that the stage adds to the row, ``rows`` those of tables. ``due`` are the products that
    it is to compute, ``makes`` says whether its views are wanted, ``entries`` is what the cache may keep,
    ``earlier`` what the tables have of products that this run does not compute, ``lacking`` the earlier stages that a
    due product has to do without, see `pipeline.engine.needs`.
    """

    index: int
    uri: str
    size_bytes: int | None = None
    problem: str | None = None
    location: str | None = None
    version: str | None = None
    audio_stream: int | None = None
    estimated_s: float = 0.0
    part: str | None = None
    known_asset: str | None = None
    todo: list[str] | None = None
    shared: bool = False
    copy_of: str | None = None
    asset_id: str | None = None
    sample_rate: int | None = None
    channels: int | None = None
    duration_s: float | None = None
    long: bool | None = None
    mono_channel: int | None = None
    done_at: float | None = None
    views: dict[str, tuple[str, int, int]] = field(default_factory=dict)
    cached: dict[str, bytes] = field(default_factory=dict)
    values: dict[str, Any] = field(default_factory=dict)
    costs: list[Cost] = field(default_factory=list)
    failures: list[dict[str, Any]] = field(default_factory=list)
    fallbacks: list[Fallback] = field(default_factory=list)
    blobs: list[Blob] = field(default_factory=list)
    rows: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    due: list[str] = field(default_factory=list)
    makes: bool = False
    entries: dict[str, Any] = field(default_factory=dict)
    made: dict[str, np.ndarray] = field(default_factory=dict)
    earlier: dict[str, Any] = field(default_factory=dict)
    lacking: dict[str, dict[str, bool]] = field(default_factory=dict)
    _table: pa.Table | None = None
    _row: int = 0

    @property
    def decoded(self) -> bool:
        """Whether there is audio to work on."""
        return bool(self.views) or bool(self.long)

    def can_have(self, name: str) -> bool:
        """Whether there is audio for ``name``, or its result from the cache."""
        return self.decoded or name in self.cached

    def wants(self, name: str) -> bool:
        """Whether extractor or network ``name`` is to be computed."""
        return self.todo is None or name in self.todo

    def audio(self, view: str) -> np.ndarray:
        """The samples of a view, float32 ``[channels, samples]``; read-only and without a copy."""
        column, _, channels = self.views[view]
        return _samples(self._table[f"pcm@{column}"], self._row).reshape(channels, -1)

    def view_rate(self, view: str) -> int:
        """Sample rate of a view, Hz."""
        return self.views[view][1]

    def failures_of(self, stage: str) -> list[dict[str, Any]]:
        """What an earlier stage has recorded, as `FAILURE` values."""
        column = f"failures@{stage}"
        there = self._table is not None and column in self._table.column_names
        return (self._table[column][self._row].as_py() or []) if there else []

    def found(self, column: str) -> Any:
        """What an earlier stage has filled in, in this run or, as far as ``earlier`` says, in one before; None where it
        has not."""
        if column in self.earlier:
            return self.earlier[column]
        there = self._table is not None and column in self._table.column_names
        return self._table[column][self._row].as_py() if there else None

    def make(self, view: str, audio: np.ndarray, sample_rate: int) -> None:
        """Give later stages a view: float32 ``[channels, samples]``."""
        self.made[view] = np.ascontiguousarray(audio, dtype=np.float32)
        self.views[view] = (view, sample_rate, audio.shape[0])

    def fail(
        self, stage: str, error: BaseException, attempts: int = 1, key: str | None = None, died: bool = False
    ) -> None:
        """Record that ``stage`` failed on this track; ``key`` is that of what it tried to compute."""
        self.failures.append(failure(stage, error, attempts, died, key))


def failure(
    stage: str, error: BaseException, attempts: int = 1, worker_died: bool = False, key: str | None = None
) -> dict[str, Any]:
    """A `FAILURE` value; an error that means a lost process says so itself (``worker_died``)."""
    return {
        "extractor_key": key,
        "stage": stage,
        "error_class": type(error).__name__,
        "message": one_line(error),
        "attempts": attempts,
        "worker_died": worker_died or getattr(error, "worker_died", False),
        "first_seen": datetime.datetime.now(datetime.timezone.utc),
    }


_STATE = (
    "index", "uri", "size_bytes", "problem", "location", "version", "audio_stream", "estimated_s", "part",
    "known_asset", "todo", "shared", "copy_of", "asset_id", "sample_rate", "channels", "duration_s", "long",
    "mono_channel", "done_at",
)  # fmt: skip


def tracks_of(table: pa.Table) -> list[Track]:
    """The rows of ``table``; audio stays where it is until asked for."""
    present = [name for name in _STATE if name in table.column_names]
    rows = table.select(present).to_pylist()
    views = table["views"].to_pylist() if "views" in table.column_names else [None] * len(rows)
    tracks = []
    for number, (row, placed) in enumerate(zip(rows, views, strict=True)):
        track = Track(**row, _table=table, _row=number)
        track.views = {name: tuple(place) for name, place in json.loads(placed or "{}").items()}
        tracks.append(track)
    for rows in (table[name].to_pylist() for name in table.column_names if name.startswith("cached@")):
        for track, found in zip(tracks, rows, strict=True):
            track.cached.update((entry["name"], entry["data"]) for entry in found or ())
    return tracks


def pcm_array(arrays: Sequence[np.ndarray | None]) -> pa.LargeBinaryArray:
    """Float32 arrays as one binary column with a single copy; None becomes null."""
    sizes = [0 if a is None else a.size * 4 for a in arrays]
    offsets = np.zeros(len(arrays) + 1, dtype=np.int64)
    np.cumsum(sizes, out=offsets[1:])
    data = pa.allocate_buffer(int(offsets[-1]))
    target = np.frombuffer(data, dtype=np.float32)
    for start, array in zip(offsets[:-1] // 4, arrays, strict=True):
        if array is not None and array.size:
            target[start : start + array.size] = array.reshape(-1)
    valid = pa.array([a is not None for a in arrays], type=pa.bool_()).buffers()[1]
    return pa.Array.from_buffers(pa.large_binary(), len(arrays), [valid, pa.py_buffer(offsets), data])


def _samples(column: pa.ChunkedArray, row: int) -> np.ndarray:
    """Float32 samples of a row of a column of `pcm_array`, where they lie. A scalar of Arrow's would be a copy, made
    while all other threads of the process wait."""
    for chunk in column.chunks:
        if row < len(chunk):
            break
        row -= len(chunk)
    _, offsets, data = chunk.buffers()
    begin, end = np.frombuffer(offsets, np.int64)[chunk.offset + row : chunk.offset + row + 2].tolist()
    if data is None or begin == end:
        return np.empty(0, np.float32)
    return np.frombuffer(data, np.float32, (end - begin) // 4, begin)


def add_stage(
    table: pa.Table,
    tracks: Sequence[Track],
    stage: str,
    fields: Sequence[pa.Field],
    clock: StageClock,
    *,
    products: Sequence[Product] = (),
    makes: Sequence[str] = (),
    drop: Callable[[str], bool] = lambda name: False,
) -> pa.Table:
    """``table`` with what ``stage`` found: value columns, rows of tables, views, failures, fallbacks, blobs, timings.

    The timings come last, so that building the other columns is part of what they measure.

    Args:
        fields: the value columns; taken from ``track.values`` or, of ``rows@<table>``, from ``track.rows``, null where
            absent.
        products: whose columns they are: a value that does not fit its type is a failure of its product.
        makes: names of views that the stage makes.
        drop: names of columns nobody needs after this stage.
    """
    table = table.select([name for name in table.column_names if not drop(name)])
    columns: dict[str, pa.Array] = {}
    owners = _owners(products)
    for f in fields:
        columns[f.name] = _column(tracks, f, stage, owners.get(f.name))
    for view in makes:
        columns[f"pcm@{view}"] = pcm_array([t.made.get(view) for t in tracks])
        columns["views"] = pa.array([json.dumps(t.views) for t in tracks], type=pa.string())
    columns[f"failures@{stage}"] = pa.array([t.failures for t in tracks], type=pa.list_(FAILURE))
    columns[f"fallbacks@{stage}"] = pa.array(
        [[vars(f) for f in t.fallbacks] for t in tracks], type=pa.list_(FALLBACK)
    )
    columns[f"process@{stage}"] = pa.array([process_note(stage)] * len(tracks), type=pa.string())
    columns[f"blobs@{stage}"] = pa.array([[vars(b) for b in t.blobs] for t in tracks], type=pa.list_(BLOB))
    for name, array in columns.items():
        table = _with_column(table, name, array)
    for t in tracks:
        for cost in t.costs:
            # A stage of several extractors waited once: split, so that sums are what was waited.
            waited = max(0.0, clock.wall_started - t.done_at) if t.done_at else 0.0
            cost.wait_s = waited / len(t.costs)
    clock.share_rest([t.costs for t in tracks], [t.duration_s or 0.0 for t in tracks])
    table = table.append_column(
        f"timings@{stage}",
        pa.array([[c.struct() for c in t.costs] for t in tracks], type=pa.list_(TIMING)),
    )
    done = pa.array([datetime.datetime.now().timestamp()] * len(tracks), type=pa.float64())
    return _with_column(table, "done_at", done)


def _with_column(table: pa.Table, name: str, array: pa.Array) -> pa.Table:
    if name in table.column_names:
        return table.set_column(table.column_names.index(name), name, array)
    return table.append_column(name, array)


def _owners(products: Sequence[Product]) -> dict[str, Product]:
    """Column that travels → the product that fills it."""
    found: dict[str, Product] = {}
    for product in products:
        found |= dict.fromkeys((*product.names, *(f"rows@{t.name}" for t in product.tables)), product)
    return found


def _column(tracks: Sequence[Track], field_: pa.Field, stage: str, owner: Product | None) -> pa.Array:
    """A column. A value that does not fit its type is null, and a failure of its own track only: the product that it
    belongs to is not there, and is tried again once its key has changed."""
    table = field_.name.removeprefix("rows@") if field_.name.startswith("rows@") else None
    given = [t.values.get(field_.name) if table is None else t.rows.get(table) for t in tracks]
    try:
        return pa.array(given, type=field_.type)
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError, OverflowError):
        values: list[Any] = []
        for track, value in zip(tracks, given, strict=True):
            try:
                values += pa.array([value], type=field_.type).to_pylist()
            except (pa.ArrowException, OverflowError, TypeError) as error:
                key = track.values.pop(f"key@{owner.name}", None) if owner is not None else None
                problem = TypeError(f"{field_.name}: {one_line(error)}")
                timed = stage if owner is None else (owner.timed or stage)
                track.fail(timed, problem, key=key or (owner.key if owner is not None else None))
                values.append(None)
        return pa.array(values, type=field_.type)


def collect(table: pa.Table, kind: str) -> list[list[dict[str, Any]]]:
    """Per row, the structs of all ``<kind>@<stage>`` columns, in the order of the stages."""
    out: list[list[dict[str, Any]]] = [[] for _ in range(table.num_rows)]
    for name in table.column_names:
        if name.startswith(f"{kind}@"):
            for row, found in zip(out, table[name].to_pylist(), strict=True):
                row.extend(found or [])
    return out
