"""The tables: plain Arrow types, flat columns, units and definitions in the field metadata."""

from __future__ import annotations

import json
from collections.abc import Sequence

import pyarrow as pa

from pipeline.audio.tags import TEXT_BYTES
from pipeline.features.base import Extractor, column
from pipeline.models.separation.names import STEMS

SCHEMA_VERSION = "soundmill_tracks_v1"
MANIFEST_VERSION = "audio_manifest_v1"
CLAP_DIMENSIONS = 512
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

CLAP = (
    column("clap_embedding", pa.list_(pa.float32()), "1", "512 values, unit norm; null where undefined",
           "Wu et al. 2023, LAION-CLAP"),
    column("clap_windows", pa.int32(), "1", "windows with sound that the embedding aggregates"),
    column("clap_aggregate", pa.string(), "name", "mean, weighted or robust"),
    column("clap_model", pa.string(), "name", "architecture and weights hash: the embedding space"),
)  # fmt: skip

CLAP_SIMILARITY = column(
    "clap_similarity", pa.list_(pa.float32()), "1",
    "cosine of clap_embedding to each of clap.text_queries, -1..1, in the order of this field's `queries`",
)  # fmt: skip

SEPARATION = (
    column("separation_backend", pa.string(), "name", "backend used"),
    column("separation_model", pa.string(), "name", "name and weights hash of its model"),
    column("separation_choice", pa.string(), "1", "auto or listed, and why the backends before it were passed over"),
    *(column(f"stem_share_{s}", pa.float32(), "ratio", f"energy of {s} over that of all stems, with the residual in it")
      for s in STEMS),
    *(column(f"stem_rms_{s}_dbfs", pa.float32(), "dBFS", f"RMS level of {s}") for s in STEMS),
    *(column(f"stem_gain_{s}_db", pa.float32(), "dB",
             f"gain of the saved FLAC of {s}: below 0 where it would have clipped, to be undone before stems are "
             "added; null where none was saved")
      for s in STEMS),
    *(column(f"stem_{s}_blob", pa.string(), "path", f"samples of {s}, float32 [2, samples] at 44.1 kHz")
      for s in STEMS),
)  # fmt: skip

SEGMENTS = pa.schema(
    [
        _ASSET,
        column("segment_index", pa.int32(), "1", "number of the window in its track, from 0"),
        column("start_s", pa.float64(), "s", "start of the window"),
        column("end_s", pa.float64(), "s", "end of the window, padding excluded"),
        column("clap_embedding", pa.list_(pa.float32()), "1", "512 values, unit norm; null for silence"),
        column("rms_dbfs", pa.float32(), "dBFS", "RMS level of the window; null for silence"),
    ]
)

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


def separation_columns(
    stems: Sequence[str] = STEMS, *, gains: bool = True, arrays: bool = True
) -> tuple[pa.Field, ...]:
    """The columns of a run whose backends can make ``stems``.

    Args:
        gains: stems are saved, each with a gain.
        arrays: samples of stems are saved.
    """
    names = {"separation_backend", "separation_model", "separation_choice"}
    for stem in stems:
        names |= {f"stem_share_{stem}", f"stem_rms_{stem}_dbfs"}
        names |= {f"stem_gain_{stem}_db"} if gains else set()
        names |= {f"stem_{stem}_blob"} if arrays else set()
    return tuple(f for f in SEPARATION if f.name in names)


def segments_schema(embedding_space: str | None) -> pa.Schema:
    """Schema of ``segments``, which says in its metadata whose embeddings they are."""
    return _in_space(SEGMENTS, embedding_space)


def tracks_schema(
    extractors: Sequence[Extractor],
    clap: bool,
    separation: bool,
    *,
    embedding_space: str | None = None,
    text_queries: Sequence[str] = (),
    separation_fields: Sequence[pa.Field] = SEPARATION,
) -> pa.Schema:
    """Schema of ``tracks`` for what a run computes, in a stable order.

    Args:
        embedding_space: of CLAP's vectors, as in ``clap_model``; goes into the schema's metadata and into
            that of the column.
        text_queries: where there are any, ``clap_similarity`` is there, with them in its metadata as JSON.
        separation_fields: those of the backends that can run, see `separation_columns`.
    """
    fields = [*IDENTITY, *TAGS]
    for extractor in extractors:
        fields.extend(extractor.columns())
    if clap:
        fields.extend(CLAP)
        if text_queries:
            queries = json.dumps(list(text_queries), ensure_ascii=False)
            fields.append(
                CLAP_SIMILARITY.with_metadata({**CLAP_SIMILARITY.metadata, b"queries": queries.encode()})
            )
    if separation:
        fields.extend(separation_fields)
    schema = pa.schema(fields, metadata={"schema_version": SCHEMA_VERSION})
    return _in_space(schema, embedding_space if clap else None)


def _in_space(schema: pa.Schema, embedding_space: str | None) -> pa.Schema:
    if embedding_space is None:
        return schema
    space = {b"embedding_space": embedding_space.encode()}
    position = schema.get_field_index("clap_embedding")
    field = schema.field(position)
    schema = schema.set(position, field.with_metadata({**(field.metadata or {}), **space}))
    return schema.with_metadata({**(schema.metadata or {}), **space})
