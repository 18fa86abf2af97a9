"""The declaration of diarization: who speaks when, and whose voices they are. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from pipeline.engine.declare import Product, Stage, Table
from pipeline.features.base import column, stable_key
from pipeline.stages.vad.spec import END, START, VIEW

NAME = "diarize"
WORKER = "pipeline.stages.diarize.worker:DiarizeWorker"
VERSION = 1
# By one core, which decodes at 450 times real time.
WEIGHT = 20.0

SPEAKER = column("speaker", pa.string(), "name", "S1, S2, ... in the order in which they are first heard")
TURNS = Table(
    "turns",
    (
        column("turn_index", pa.int32(), "1", "place in the recording, from 0"),
        START,
        END,
        SPEAKER,
        column("confidence", pa.float32(), "1", "in the speaker, 0 to 1; null where nobody can say"),
        column("overlap", pa.bool_(), "1", "whether somebody else speaks at the same time"),
    ),
    key="turn_index",
    count="diarize_turns",
    description="Who speaks when.",
    noun="turn",
)
SPEAKERS = Table(
    "speakers",
    (
        SPEAKER,
        column("seconds", pa.float64(), "s", "that the speaker speaks"),
        column(
            "centroid",
            pa.list_(pa.float32()),
            "1",
            "mean voice embedding, of norm 1; null where there is none",
        ),
    ),
    key="speaker",
    count="diarize_speakers",
    unit_vectors=("centroid",),
    description="The voices of each recording: equal names in two recordings need not be one person.",
    noun="speaker",
)
VOICES = Table(
    "voices",
    (
        SPEAKER,
        column("voice", pa.string(), "name",
               "V1, V2, ...: equal in two recordings where the voice is; null where there is no voice embedding"),
        column("similarity", pa.float32(), "1",
               "cosine to all other speakers of that voice together; null where no other recording has it"),
    ),
    key="speaker",
    description="The same people in all recordings, written at the end of a run: speakers whose voices are alike.",
    noun="voice",
)  # fmt: skip
COLUMNS = (
    column("diarize_turns", pa.int32(), "1", "turns"),
    column("diarize_speakers", pa.int32(), "1", "different voices"),
    column("diarize_overlap_share", pa.float32(), "1",
           "of the time in which anybody speaks, how much two or more do; null where nobody does"),
    column("diarize_backend", pa.string(), "name", "what told the voices apart"),
    column("diarize_model", pa.string(), "name", "its weights"),
)  # fmt: skip


def diarize_stage(
    backend: str,
    model: str,
    options: Mapping[str, Any],
    *,
    source: str | None = None,
    threads: int = 1,
    linked: bool = False,
) -> Stage:
    """The stage that tells voices apart.

    Args:
        backend: its name.
        model: its version and weights.
        options: of the backend: ``num_speakers``, ``min_speakers``, ``max_speakers``.
        source: the folder or the name on the hub of its model; None is its own. What lies there is a part of ``model``.
        threads: with which torch rounds the last bits of centroids.
        linked: whether the voices of all recordings are compared in the end, which changes nothing in this stage.
    """
    key = stable_key(
        {
            "name": NAME,
            "version": VERSION,
            "model": model,
            "backend": backend,
            "options": sorted(options.items()),
        }
    )
    return Stage(
        NAME,
        WORKER,
        (diarize_product(key, linked=linked),),
        (VIEW,),
        arguments={"backend": backend, "options": dict(options), "source": source},
        weight=WEIGHT,
        kept={"threads": threads},
    )


def diarize_product(key: str | None = None, *, linked: bool = True) -> Product:
    """What is filled: computed where there is a ``key``; ``linked`` where there are voices, too."""
    return Product(
        NAME,
        COLUMNS,
        key=key,
        stage=NAME,
        timed=NAME,
        tables=(TURNS, SPEAKERS, *((VOICES,) if linked else ())),
        version_column="diarize_model",
        rank=3,
        title="who speaks when",
    )
