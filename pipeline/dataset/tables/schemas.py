"""The tables: plain Arrow types, flat columns, units and definitions in the field metadata."""

from __future__ import annotations

from collections.abc import Iterable

import pyarrow as pa

from pipeline.audio.tags import TEXT_BYTES
from pipeline.dataset.contents import Contents, Product, Table
from pipeline.features.base import column

SCHEMA_VERSION = "soundmill_tracks_v1"
MANIFEST_VERSION = "audio_manifest_v1"
GONE = "gone"
"""Status of a row whose file is there no longer."""

FALLBACK = pa.struct(
    [("stage", pa.string()), ("wanted", pa.string()), ("used", pa.string()), ("reason", pa.string())]
)

ARTIFACT = pa.struct([("path", pa.string()), ("size_bytes", pa.int64()), ("sha256", pa.string())])

_ASSET = column("asset_id", pa.string(), "sha256", "sha256 of the file's bytes; of its uri where unreadable")
_URI = column("uri", pa.string(), "uri", "absolute path or URL of the input")
_RUN = column("run_id", pa.string(), "id", "run that wrote the row")

IDENTITY = (
    _ASSET,
    _URI,
    column("size_bytes", pa.int64(), "byte", "size of the file"),
    column("container", pa.string(), "name", "container format"),
    column("codec", pa.string(), "name", "codec of the audio stream"),
    column("sample_rate", pa.int32(), "Hz", "native sample rate"),
    column("channels", pa.int32(), "1", "native number of channels"),
    column("duration_s", pa.float64(), "s", "decoded samples over sample rate"),
    column("audio_streams", pa.int32(), "1", "audio streams in the file"),
    column("audio_stream", pa.int32(), "1", "which of them the row is of, from 0"),
    column("bit_rate", pa.int64(), "bit/s", "bytes of encoded audio over duration, of headers and tags none"),
    column("bits_per_sample", pa.int32(), "bit", "of lossless audio; null for a lossy codec, and where the file does "
           "not tell 24 from 32"),
    column("status", pa.string(), "name",
           "ok; partial: a stage failed; failed: nothing could be computed; gone: the file is there no longer"),
    _RUN,
    column("schema_version", pa.string(), "name", "version of this schema"),
    column("extractor_keys", pa.map_(pa.string(), pa.string()), "hash",
           "extractor to hash of its code version, parameters and model"),
    column("fallbacks", pa.list_(FALLBACK), "1", "steps away from what was configured, with the reason"),
    column("failed_keys", pa.map_(pa.string(), pa.string()), "hash",
           "as extractor_keys, of what failed: a later run does not try the same again"),
    column("source_version", pa.string(), "1", "ETag or time of the last change, as the listing had it"),
    column("artifacts", pa.list_(ARTIFACT), "1", "arrays and stems of the row: path below the output, size in bytes, "
           "sha256 of the file as it was written"),
)  # fmt: skip

TAGS = (
    *(column(f"tag_{name}", pa.string(), "1",
             f"{what}, as the file's tags have it; one line of at most {TEXT_BYTES} bytes of UTF-8, cut where longer")
      for name, what in (
          ("artist", "artist"), ("title", "title"), ("album", "album"), ("track", "number of the track, or number/of"),
          ("date", "date or year"), ("genre", "genre"), ("encoder", "program that wrote the file"))),
    column("tag_has_cover", pa.bool_(), "1", "whether a picture is attached; null where tags could not be read"),
    *(column(f"tag_replaygain_{of}_gain_db", pa.float32(), "dB",
             f"replay gain of the {of}, to -18 LUFS; from R128_{of.upper()}_GAIN where that is what there is",
             "ReplayGain 2.0; RFC 7845, 5.2.1")
      for of in ("track", "album")),
)  # fmt: skip

TIMINGS = pa.schema(
    [
        _ASSET,
        column("stage", pa.string(), "name", "stage; an extractor's is features.<name>"),
        column("device", pa.string(), "name", "cpu or cuda"),
        column("backend", pa.string(), "name", "codec, library or model that did the work"),
        column("compute_s", pa.float64(), "s", "wall time spent; a shared batch's is split by audio seconds"),
        column("wait_s", pa.float64(), "s", "time between the end of the stage before and this one's start"),
        column("batch_items", pa.int32(), "1", "items in the batch this row was computed with"),
        column("batch_audio_s", pa.float64(), "s", "audio in that batch"),
        column("padding_fraction", pa.float64(), "ratio", "padding over all samples in that batch"),
        column("gpu_peak_bytes", pa.int64(), "byte", "peak GPU memory of the batch; null on a CPU"),
        column("cache_hit", pa.bool_(), "1", "whether the result came from the cache"),
        column("node", pa.string(), "name", "host name"),
        column("pid", pa.int64(), "id", "process"),
    ]
)

FAILURES = pa.schema(
    [
        _ASSET,
        _URI,
        column("stage", pa.string(), "name", "stage that failed; an extractor's is features.<name>"),
        column("error_class", pa.string(), "name", "class of the error"),
        column("message", pa.string(), "1", "one line"),
        column("attempts", pa.int32(), "1", "how often it was tried"),
        column("worker_died", pa.bool_(), "1", "whether the process was lost"),
        column("first_seen", pa.timestamp("us", tz="UTC"), "UTC", "when it first failed"),
        _RUN,
        column("extractor_key", pa.string(), "hash", "of the code, parameters and model that failed"),
    ]
)


def table_schema(table: Table) -> pa.Schema:
    """Schema of the parts of a declared table."""
    return table.schema(_ASSET)


def tracks_schema(products: Iterable[Product] = ()) -> pa.Schema:
    """Schema of `tracks` for what a run computes, in a stable order: the file, its tags, then product by product."""
    found = Contents(tuple(products)).ordered()
    metadata = {"schema_version": SCHEMA_VERSION}
    for product in found:
        metadata |= product.metadata
    return pa.schema([*IDENTITY, *TAGS, *(f for p in found for f in p.filled)], metadata=metadata)
