"""The declaration of the instrumental: a song without its vocals, as a file. No torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from pipeline.audio.song_formats import SongFormat
from pipeline.audio.views import View
from pipeline.engine.declare import Artifact, Product, Stage
from pipeline.features.base import column, stable_key

NAME = "instrumental"
WORKER = "pipeline.stages.instrumental.worker:InstrumentalWorker"
NATIVE = View("native", None, None)
VERSION = 1
"""Raised whenever the samples of the files would be others."""

# By one core, which decodes at 450 times real time; mp3, decoded again for its true peak.
WEIGHT = 8.0
KEPT = ("vocals",)
"""What can be kept beside the instrumental."""

COLUMNS = (
    column("instrumental_file", pa.string(), "path", "the song without its vocals, below the output root"),
    column("instrumental_gain_db", pa.float32(), "dB",
           "gain of the whole song that keeps its true peak below the ceiling: 0 where it is untouched"),
    column("instrumental_true_peak_dbtp", pa.float32(), "dBTP",
           "true peak of the file once it is decoded; null for digital silence", "ITU-R BS.1770-4, annex 2"),
    column("instrumental_sample_rate", pa.int32(), "Hz", "of the file: the source's, where the format holds it"),
    column("instrumental_channels", pa.int32(), "1", "of the file"),
    column("instrumental_vocals_file", pa.string(), "path",
           "the vocals that were taken out, with the same gain: both add up to the song; null where not asked for"),
)  # fmt: skip


def instrumental_stage(
    removed: View,
    form: SongFormat,
    *,
    keep: Sequence[str] = (),
    ceiling_dbtp: float = -1.0,
    sample_rate: int | None = None,
    channels: int | None = None,
    **arguments: Any,
) -> Stage:
    """The stage that takes a view out of the song and encodes what is left.

    Args:
        removed: the view that is subtracted, such as the vocals.
        form: the format of the files.
        keep: of `KEPT`.
        ceiling_dbtp: the highest true peak that a file may have.
        sample_rate: of the files, Hz; None is each song's own.
        channels: of the files, 1 or 2; None is each song's own, at most 2.
        arguments: of `pipeline.stages.instrumental.worker.InstrumentalWorker`.
    """
    said = {
        "name": NAME,
        "version": VERSION,
        "form": vars(form),
        "keep": sorted(keep),
        "ceiling": ceiling_dbtp,
    }
    # Beside the rest only where they are asked for: what was made without them is what would be made now.
    wanted = {k: v for k, v in (("rate", sample_rate), ("channels", channels)) if v is not None}
    key = stable_key({**said, **wanted})
    arguments |= {"sample_rate": sample_rate, "channels": channels}
    return Stage(
        NAME,
        WORKER,
        (instrumental_product(form, key, keep),),
        (NATIVE, removed),
        arguments={"removed": removed, "form": form, "keep": tuple(keep), "ceiling_dbtp": ceiling_dbtp, **arguments},
        weight=WEIGHT,
        torch=False,
        kept=None,
    )  # fmt: skip


def instrumental_product(form: SongFormat, key: str | None = None, keep: Sequence[str] = KEPT) -> Product:
    """What is filled: computed where there is a ``key``."""
    present = {c.name for c in COLUMNS}
    if "vocals" not in keep:
        present.discard("instrumental_vocals_file")
    return Product(
        NAME,
        COLUMNS,
        key=key,
        stage=NAME,
        timed=NAME,
        artifacts=(instrumental_files(form),),
        version=str(VERSION),
        rank=4,
        title="the song without vocals",
        present=frozenset(present),
    )


def instrumental_files(form: SongFormat) -> Artifact:
    """The files of a song in one format, which have a folder of their own: an output may hold several."""
    return Artifact(
        f"instrumentals_{form.name}",
        form.suffix,
        form.magic,
        files={
            "instrumental_file": f"instrumental{form.suffix}",
            "instrumental_vocals_file": f"vocals{form.suffix}",
        },
        audio=True,
        noun="song",
    )
