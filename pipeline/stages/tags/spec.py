"""The declaration of the tags stage: one product, the columns of a track and a table of its patches. No torch."""

from __future__ import annotations

import json
from typing import Any

import pyarrow as pa

from pipeline.audio.views import View
from pipeline.engine.declare import Product, Stage, Table
from pipeline.features.base import column, stable_key
from pipeline.models.precision import normalise_amp
from pipeline.models.tags.names import MSD_TAGS, MTT_TAGS, SAMPLE_RATE, THRESHOLD

NAME = "tags"
WORKER = "pipeline.stages.tags.worker:TagsWorker"
VERSION = "1"
VIEW = View("tags", SAMPLE_RATE, 1)
# By one core, which decodes at 450 times real time: benchmarks/tags.py. A core is quick enough for the stage to stay
# off the card, as descriptors do: it would take one from networks that are a hundred times as dear.
WEIGHT = 3.0
SOURCE = "Pons and Serra 2019, musicnn"


def _named(field: pa.Field, names: tuple[str, ...]) -> pa.Field:
    """With what the values stand for, in their order."""
    return field.with_metadata({**field.metadata, b"names": json.dumps(names, ensure_ascii=False).encode()})


def _probabilities(of: str) -> tuple[pa.Field, pa.Field]:
    """The columns of both networks."""
    said = "probability of each of 50 tags, 0..1, in the order of this field's `names`"
    floats = pa.list_(pa.float32())
    return (
        _named(
            column("tags_mtt", floats, "ratio", f"{said}: MagnaTagATune's network, {of}", SOURCE), MTT_TAGS
        ),
        _named(
            column("tags_msd", floats, "ratio", f"{said}: the Million Song Dataset's network, {of}", SOURCE),
            MSD_TAGS,
        ),
    )


_EMBEDDING = (
    "400 values, unit norm: the 200-dimensional layer before the tags of each network, MagnaTagATune's first, "
    "each brought to unit norm"
)
COLUMNS = (
    column("tags_top", pa.list_(pa.string()), "name",
           "tags with a probability of at least tags.threshold in either network, the most probable first; null where "
           "there are no tags", SOURCE),
    *_probabilities("mean over the whole patches of 2.992 s that hold sound, of which a shorter track is repeated to "
                    "fill one; null without any, and below 32 ms"),
    column("tags_embedding", pa.list_(pa.float32()), "1",
           f"{_EMBEDDING}, of the mean over patches; null where there are no tags", SOURCE),
    column("tags_patches", pa.int32(), "1", "patches of 2.992 s with sound that these are means of"),
    column("tags_segments", pa.int32(), "1", "rows in tag_segments; 0 without tags.segments"),
    column("tags_model", pa.string(), "name", "network and weights hash: the embedding space"),
)  # fmt: skip
SEGMENT_FIELDS = (
    column("patch_index", pa.int32(), "1", "number of the patch in its track, from 0"),
    column("start_s", pa.float64(), "s", "start of the patch"),
    column(
        "end_s",
        pa.float64(),
        "s",
        "end of the patch; of a shorter track, which is repeated to fill it, its end",
    ),
    *_probabilities("of the patch; null for silence"),
    column("tags_embedding", pa.list_(pa.float32()), "1", f"{_EMBEDDING}; null for silence", SOURCE),
)
# Not rows of `segments`, which are CLAP's windows: those are 10 s long and overlap, and one product fills a table.
SEGMENTS = Table(
    "tag_segments",
    SEGMENT_FIELDS,
    key="patch_index",
    count="tags_segments",
    unit_vectors=("tags_embedding",),
    description="One row per patch of 2.992 s that musicnn heard of a track, with `tags.segments=true`.",
    noun="patch",
)


def tags_stage(key: str, *, segments: bool = False, **arguments: Any) -> Stage:
    """The stage that tags.

    Args:
        key: see `tags_key`.
        segments: whether each patch becomes a row.
        arguments: of `pipeline.stages.tags.worker.TagsWorker`.
    """
    product = tags_product(key, segments)
    return Stage(
        NAME, WORKER, (product,), (VIEW,), arguments={"segments": segments, **arguments}, weight=WEIGHT
    )


def tags_product(key: str | None = None, segments: bool = True) -> Product:
    """What is filled: computed where there is a ``key``."""
    return Product(
        NAME,
        COLUMNS,
        key=key,
        stage=NAME,
        timed=NAME,
        tables=(SEGMENTS,) if segments else (),
        version_column="tags_model",
        unit_vectors=("tags_embedding",),
        rank=2,
        title="tags of music, and an embedding that goes with them",
    )


def tags_key(
    model_id: str, threshold: float = THRESHOLD, segments: bool = False, amp: str | bool = "auto"
) -> str:
    """The key of the columns: model and parameters.

    Not the batch size. The stage is the CPU's, where ``auto`` is float32.
    """
    return stable_key(
        {
            "name": NAME,
            "version": VERSION,
            "model": model_id,
            "threshold": threshold,
            "segments": segments,
            "bfloat16": normalise_amp(amp) == "true",
        }
    )
