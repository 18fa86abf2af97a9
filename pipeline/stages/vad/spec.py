"""The declaration of voice activity: which backend, and the regions that it finds. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from pipeline.audio.views import View
from pipeline.engine.declare import Product, Stage, Table
from pipeline.features.base import column, stable_key

NAME = "vad"
WORKER = "pipeline.stages.vad.worker:VadWorker"
VIEW = View("speech", 16_000, 1)
"""What all that listens to speech hears."""
VERSION = 1
# By one core, which decodes at 450 times real time.
WEIGHT = 2.0

START = column("start_s", pa.float64(), "s", "start, in time of the source")
END = column("end_s", pa.float64(), "s", "end, in time of the source")
REGIONS = Table(
    "regions",
    (column("region_index", pa.int32(), "1", "place in the recording, from 0"), START, END),
    key="region_index",
    count="vad_regions",
    description="Where somebody speaks.",
    noun="region",
)
COLUMNS = (
    column("vad_regions", pa.int32(), "1", "regions of speech"),
    column("vad_speech_s", pa.float64(), "s", "speech in all regions together"),
    column(
        "vad_speech_share", pa.float32(), "1", "of the recording: 0 to 1; null of a recording without samples"
    ),
    column("vad_backend", pa.string(), "name", "what listened"),
    column("vad_choice", pa.string(), "1", "why it was this one"),
    column("vad_model", pa.string(), "name", "its weights"),
)


def vad_stage(backend: str, model: str, options: Mapping[str, Any], *, choice: str = "") -> Stage:
    """The stage that looks for speech.

    Args:
        backend: its name.
        model: its version and weights.
        options: of `pipeline.models.speech.voice_activity.activity.ActivityOptions`.
        choice: why it is this one.
    """
    said = {"backend": backend, "model": model, "options": sorted(options.items())}
    key = stable_key({"name": NAME, "version": VERSION, **said})
    return Stage(
        NAME,
        WORKER,
        (vad_product(key),),
        (VIEW,),
        arguments={"backend": backend, "options": dict(options), "choice": choice},
        weight=WEIGHT,
    )


def vad_product(key: str | None = None) -> Product:
    """What is filled: computed where there is a ``key``."""
    return Product(
        NAME,
        COLUMNS,
        key=key,
        stage=NAME,
        timed=NAME,
        tables=(REGIONS,),
        version_column="vad_model",
        rank=1,
        title="where somebody speaks",
    )
