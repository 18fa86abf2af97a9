"""The declaration of the beats stage: one product, the columns of a track. No torch."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from pipeline.audio.views import View
from pipeline.engine.declare import Product, Stage
from pipeline.features.base import column, stable_key
from pipeline.models.beats.names import SAMPLE_RATE, BeatOptions

NAME = "beats"
WORKER = "pipeline.stages.beats.worker:BeatsWorker"
VERSION = "2"
VIEW = View("beats", SAMPLE_RATE, 1)
# By one core, which makes beats of what was heard at 800 times real time: benchmarks/beats.py. Like the descriptors it
# stays off the card: finding the path cannot be done there, and it would take one from networks that are far dearer.
WEIGHT = 2.5
_BEATNET = "Heydari, Cwitkowitz and Duan 2021, BeatNet"
_SPACE = "Krebs, Böck and Widmer 2015"

COLUMNS = (
    column("beats_bpm", pa.float32(), "1/min",
           "beats per minute of the longest steady part; null without a beat, as in speech and textures", _BEATNET),
    column("beats_bpm_confidence", pa.float32(), "ratio",
           "probability that beats_bpm is the tempo that a listener would tap, 0..1, as tempo_confidence"),
    column("beats_s", pa.list_(pa.float64()), "s", "times of the beats, finer than the frame of 20 ms", _BEATNET),
    column("downbeats_s", pa.list_(pa.float64()), "s", "times of the first beats of the bars", _SPACE),
    column("beats_meter", pa.int32(), "1", "beats of a bar, of beats.meters", _SPACE),
    column("beats_stability", pa.float32(), "ratio",
           "1 where all intervals between beats are equal, less their spread as a share of their median, 0..1"),
    column("beats_second_bpm", pa.float32(), "1/min",
           "tempo of the other octave that fits better, half or twice beats_bpm; null where neither is within "
           "beats.min_bpm and beats.max_bpm"),
    column("beats_second_odds", pa.float32(), "ratio",
           "probability of beats_second_bpm where one of the two is right, 0..0.5"),
    column("beats_strength", pa.float32(), "ratio",
           "by how much the odds of a beat, by networks and by rises of the sound, at the beats exceed those between "
           "them, -1..1; where that is too little, all else is null; null itself below four beats"),
    column("beats_model", pa.string(), "name", "networks and weights hash"),
)  # fmt: skip


def beats_stage(key: str, options: BeatOptions) -> Stage:
    """The stage that finds beats.

    Args:
        key: see `beats_key`.
        options: meters and tempi that are considered.
    """
    arguments: dict[str, Any] = {"options": options}
    return Stage(NAME, WORKER, (beats_product(key),), (VIEW,), arguments=arguments, weight=WEIGHT)


def beats_product(key: str | None = None) -> Product:
    """What is filled: computed where there is a ``key``."""
    return Product(
        NAME,
        COLUMNS,
        key=key,
        stage=NAME,
        timed=NAME,
        version_column="beats_model",
        rank=2,
        title="beats, downbeats and tempo by trained networks",
    )


def beats_key(model_id: str, options: BeatOptions) -> str:
    """The key of the columns: model and parameters. Not the device, nor how many tracks share a batch."""
    said = {"meters": list(options.meters), "min_bpm": options.min_bpm, "max_bpm": options.max_bpm}
    return stable_key({"name": NAME, "version": VERSION, "model": model_id, **said})
