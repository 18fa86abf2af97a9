"""The declaration of mastering: a plan, a view of the mastered song, and a file of it. No torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from pipeline.audio.song_formats import SongFormat
from pipeline.audio.views import View
from pipeline.engine.declare import Artifact, Product, Stage
from pipeline.features.base import column, stable_key
from pipeline.mastering.wish import VERSION as PLANS

NAME = "master"
WORKER = "pipeline.stages.master.worker:MasterWorker"
NATIVE = View("native", None, None)
VERSION = 2
"""Raised whenever the samples of the files would be others."""

# By one core, which decodes at 450 times real time.
WEIGHT = 4.0

_PLR = "true peak over integrated loudness"
_PSR = "true peak over the loudest 3 s"
_DISTANCE = (
    "to the references, mean square over thirds of an octave without the level; null without a reference"
)
_LIST = pa.list_(pa.float32())


def _pair(name: str, unit: str, description: str, source: str = "") -> tuple[pa.Field, pa.Field]:
    return (
        column(f"master_{name}_before", pa.float32(), unit, f"{description}, of the song", source),
        column(f"master_{name}_after", pa.float32(), unit, f"{description}, of the master", source),
    )


COLUMNS = (
    column("master_file", pa.string(), "path", "the master, below the output root"),
    column("master_plan_file", pa.string(), "path", "its plan as JSON, below the output root"),
    column("master_preset", pa.string(), "name", "preset that was asked for"),
    column("master_mode", pa.string(), "name", "adaptive, reference or hybrid"),
    column("master_amount", pa.float32(), "1", "of everything that is done, 0 to 1"),
    column("master_target_lufs", pa.float32(), "LUFS", "loudness that was to be reached; null of silence"),
    column("master_ceiling_dbtp", pa.float32(), "dBTP",
           "highest true peak of the master: lower than was asked for where a codec would overshoot"),
    *_pair("lufs", "LUFS", "integrated loudness", "ITU-R BS.1770-4"),
    *_pair("lra", "LU", "loudness range", "EBU Tech 3342"),
    *_pair("tp", "dBTP", "true peak", "ITU-R BS.1770-4, annex 2"),
    *_pair("plr", "LU", _PLR),
    *_pair("psr", "LU", _PSR),
    column("master_gain_db", pa.float32(), "dB", "gain before the limiter"),
    column("master_max_gain_reduction_db", pa.float32(), "dB", "the most that the limiter took away, 0 or positive"),
    column("master_max_compression_db", pa.float32(), "dB",
           "the most that the compressor took away, 0 or positive; null where there was none"),
    column("master_spectral_distance_before", pa.float32(), "dB", f"of the song's mid {_DISTANCE}"),
    column("master_spectral_distance_after", pa.float32(), "dB", f"of the master's mid {_DISTANCE}"),
    column("master_side_distance_before", pa.float32(), "dB", f"of the song's side {_DISTANCE}"),
    column("master_side_distance_after", pa.float32(), "dB", f"of the master's side {_DISTANCE}"),
    column("master_limited_by", pa.string(), "name",
           "what kept the loudness from what was asked for: ceiling, max_gr_db, silence, no loudness, codec; null "
           "where it is met"),
    column("master_reasons", pa.list_(pa.string()), "1", "where the preset was changed for this song, and why"),
    column("master_plan", pa.string(), "JSON", "all that was done, in numbers"),
    column("master_references", pa.list_(pa.string()), "1", "asset ids of the references; null without one"),
    column("master_encoded_tp", pa.float32(), "dBTP",
           "highest true peak of the trial encodes, or of a lossy file, once decoded; null where nothing was encoded"),
    column("master_encode_rounds", pa.int32(), "1", "how often the song was rendered until its encodes stayed below"),
    column("master_sample_rate", pa.int32(), "Hz", "of the file: the source's, where the format holds it"),
    column("master_channels", pa.int32(), "1", "of the file"),
    column("master_from_s", pa.float64(), "s", "where the file begins in the song: 0 but for a preview"),
    column("master_loudness_before", _LIST, "LUFS", "short-term loudness, each second, of the song", "EBU Tech 3341"),
    column("master_loudness_after", _LIST, "LUFS", "short-term loudness, each second, of the master", "EBU Tech 3341"),
    column("master_gain_reduction", _LIST, "dB", "the most that the limiter took away, each second, 0 or positive"),
    column("master_spectrum_hz", _LIST, "Hz", "centres of the bands of master_spectrum_*"),
    column("master_spectrum_before", _LIST, "dB", "level of the song's mid in thirds of an octave, loudest parts"),
    column("master_spectrum_after", _LIST, "dB", "level of the master's mid in thirds of an octave, loudest parts"),
)  # fmt: skip


def master_stage(
    wish: Any,
    form: SongFormat,
    *,
    references: Sequence[Any] = (),
    encodes: Sequence[str] = (),
    preview_s: float = 0.0,
    sample_rate: int | None = None,
    features: str | None = "features",
    **arguments: Any,
) -> Stage:
    """The stage that masters songs.

    Args:
        wish: a `pipeline.mastering.wish.Wish`.
        form: the format of the files.
        references: of `pipeline.mastering.drafting.Reference`.
        encodes: formats that masters are encoded in on trial.
        preview_s: length of the stretch that is rendered, s; 0 for all.
        sample_rate: of the files, Hz; None is each song's own.
        features: the stage that takes the fingerprint; None where there is none.
        arguments: of `pipeline.stages.master.worker.MasterWorker`.
    """
    said = {
        "name": NAME,
        "version": VERSION,
        "plans": PLANS,
        "wish": wish.to_dict(),
        "form": vars(form),
        "references": [reference.asset_id for reference in references],
        "encodes": sorted(encodes),
        "preview": preview_s,
        "rate": sample_rate,
    }
    given = {
        "wish": wish,
        "form": form,
        "references": tuple(references),
        "encodes": tuple(encodes),
        "preview_s": preview_s,
        "sample_rate": sample_rate,
    }
    return Stage(
        NAME,
        WORKER,
        (master_product(form, stable_key(said)),),
        (NATIVE,),
        (MASTERED,),
        needs=(features,) if features else (),
        arguments={**given, **arguments},
        weight=WEIGHT,
        kept=None,
    )


MASTERED = View("mastered", None, None, maker=NAME)
"""The master, for stages that are to hear it: at the song's rate."""


def master_product(form: SongFormat, key: str | None = None) -> Product:
    """What is filled: computed where there is a ``key``."""
    return Product(
        NAME,
        COLUMNS,
        key=key,
        stage=NAME,
        timed=NAME,
        artifacts=(master_files(form), plan_files()),
        version=str(VERSION),
        rank=4,
        title="the master",
    )


def master_files(form: SongFormat) -> Artifact:
    """The files of a song in one format, which have a folder of their own: an output may hold several."""
    return Artifact(
        f"masters_{form.name}",
        form.suffix,
        form.magic,
        files={"master_file": f"master{form.suffix}"},
        audio=True,
        noun="song",
    )


def plan_files() -> Artifact:
    """The plans beside the songs."""
    return Artifact("plans", ".json", b"{", files={"master_plan_file": "plan.json"}, noun="plan")
