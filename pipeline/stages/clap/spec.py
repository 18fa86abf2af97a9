"""The declaration of the CLAP stage: one product, the columns of a track and a table of its windows. No torch."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from pipeline.audio.views import View
from pipeline.engine.declare import Gpu, Product, Stage, Table
from pipeline.features.base import column, stable_key
from pipeline.models.precision import normalise_amp

if TYPE_CHECKING:
    from pipeline.models.clap.text import TextQueries

NAME = "clap"
WORKER = "pipeline.stages.clap.worker:ClapWorker"
VERSION = "2"
VIEW = View("clap", 48000, 1)
WEIGHT = 15.0
# 64 clips have 94 % of the speed of 256.
GPU = Gpu("clips", 16, 64, networks=(("clap", "bfloat16"),), leaves=0)

COLUMNS = (
    column("clap_embedding", pa.list_(pa.float32()), "1", "512 values, unit norm; null where undefined",
           "Wu et al. 2023, LAION-CLAP"),
    column("clap_windows", pa.int32(), "1", "windows with sound that the embedding aggregates"),
    column("clap_aggregate", pa.string(), "name", "mean, weighted or robust"),
    column("clap_model", pa.string(), "name", "architecture and weights hash: the embedding space"),
)  # fmt: skip
SIMILARITY = column(
    "clap_similarity", pa.list_(pa.float32()), "1",
    "cosine of clap_embedding to each of clap.text_queries, -1..1, in the order of this field's `queries`",
)  # fmt: skip
SEGMENT_FIELDS = (
    column("segment_index", pa.int32(), "1", "number of the window in its track, from 0"),
    column("start_s", pa.float64(), "s", "start of the window"),
    column("end_s", pa.float64(), "s", "end of the window, padding excluded"),
    column("clap_embedding", pa.list_(pa.float32()), "1", "512 values, unit norm; null for silence"),
    column("rms_dbfs", pa.float32(), "dBFS", "RMS level of the window; null for silence"),
)


def clap_stage(
    checkpoint: str,
    key: str,
    space: str | None,
    *,
    queries: TextQueries | None = None,
    **arguments: Any,
) -> Stage:
    """The stage that embeds.

    Args:
        checkpoint: of the network.
        key: see `clap_key`.
        space: architecture and weights hash: the space of the embeddings.
        queries: texts to compare each track with.
        arguments: of `pipeline.stages.clap.worker.ClapWorker`.
    """
    product = clap_product(key, space, queries.texts if queries is not None else ())
    given = {"checkpoint": checkpoint, "queries": queries, **arguments}
    return Stage(NAME, WORKER, (product,), (VIEW,), arguments=given, weight=WEIGHT, gpu=GPU)


def clap_product(key: str | None = None, space: str | None = None, texts: Sequence[str] = ()) -> Product:
    """What is filled: computed where there is a ``key``. With ``texts`` there is ``clap_similarity``."""
    similarity = SIMILARITY
    if texts:
        told = json.dumps(list(texts), ensure_ascii=False).encode()
        similarity = SIMILARITY.with_metadata({**SIMILARITY.metadata, b"queries": told})
    columns = (*COLUMNS, similarity)
    return Product(
        NAME,
        tuple(_in_space(f, space) for f in columns),
        key=key,
        stage=NAME,
        timed=NAME,
        tables=(segments_table(space),),
        version_column="clap_model",
        unit_vectors=("clap_embedding",),
        rank=1,
        title="embedding of the sound",
        metadata={} if space is None else {"embedding_space": space},
        present=None if texts else frozenset(f.name for f in COLUMNS),
    )


def segments_table(space: str | None = None) -> Table:
    """One row per window; its schema says in its metadata whose embeddings they are."""
    return Table(
        "segments",
        tuple(_in_space(f, space) for f in SEGMENT_FIELDS),
        key="segment_index",
        count="clap_windows",
        unit_vectors=("clap_embedding",),
        description="One row per CLAP window of a track.",
        noun="segment",
        metadata={} if space is None else {"embedding_space": space},
    )


def _in_space(field: pa.Field, space: str | None) -> pa.Field:
    if space is None or field.name != "clap_embedding":
        return field
    return field.with_metadata({**(field.metadata or {}), b"embedding_space": space.encode()})


def clap_key(
    sha256: str,
    window_seconds: float,
    hop_seconds: float,
    aggregate: str,
    amp: str | bool,
    *,
    queries: TextQueries | None = None,
) -> str:
    """The key of CLAP's columns: model and parameters.

    Not the batch limit, which changes no number, nor the device: float32 and bfloat16 agree within the tolerance
    that a network has anyway, and the tables of a laptop may be finished on a cluster.
    """
    parameters = {
        "name": "clap",
        "version": VERSION,
        "model": sha256,
        "window_seconds": window_seconds,
        "hop_seconds": hop_seconds,
        "aggregate": aggregate,
        "bfloat16_allowed": normalise_amp(amp) != "false",
    }
    if queries is not None:
        parameters |= {"text_queries": list(queries.texts), "text_model": queries.model_id}
    return stable_key(parameters)
