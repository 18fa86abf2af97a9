"""The declaration of denoising: which backend, what is written, what later stages may hear. No torch."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from pipeline.audio.views import View
from pipeline.engine.declare import Artifact, Product, Stage
from pipeline.features.base import column, stable_key

NAME = "denoise"
WORKER = "pipeline.stages.denoise.worker:DenoiseWorker"
DENOISED = View("denoised", 16_000, 1, maker=NAME)
"""The recording with a limited part of its noise taken away, for what listens to speech."""
VERSION = 1
# By one core, which decodes at 450 times real time: DeepFilterNet 3.
WEIGHT = 45.0

FILES = Artifact(
    "denoised",
    ".flac",
    b"fLaC",
    files={"denoise_file": "denoised.flac"},
    audio=True,
    noun="denoised recording",
)
COLUMNS = (
    column("denoise_file", pa.string(), "path", "the denoised recording, mono, below the output root"),
    column("denoise_gain_db", pa.float32(), "dB", "gain that keeps it below full scale: 0 where it is untouched"),
    column("denoise_sample_rate", pa.int32(), "Hz", "of the file: that which the backend works at"),
    column("denoise_change_db", pa.float32(), "dB",
           "RMS level of the denoised recording over that of the recording; null for digital silence"),
    column("denoise_backend", pa.string(), "name", "what took the noise away"),
    column("denoise_model", pa.string(), "name", "its weights"),
)  # fmt: skip


def denoise_stage(
    backend: str,
    model: str,
    sample_rate: int,
    *,
    limit_db: float | None = None,
    view_limit_db: float | None = None,
    makes_view: bool = False,
    **arguments: Any,
) -> Stage:
    """The stage that takes noise away.

    Args:
        backend: its name.
        model: its version and weights.
        sample_rate: that it works at, Hz.
        limit_db: the most that is taken away in the file, dB; None is all that the backend would.
        view_limit_db: the same of what later stages hear.
        makes_view: whether one of them does.
        arguments: of `pipeline.stages.denoise.worker.DenoiseWorker`.
    """
    said = {"name": NAME, "version": VERSION, "model": model}
    key = stable_key({**said, "limit_db": limit_db})
    given = {"backend": backend, "limit_db": limit_db, "view_limit_db": view_limit_db}
    view = native_view(sample_rate)
    return Stage(
        NAME,
        WORKER,
        (denoise_product(key),),
        (view,),
        (DENOISED,) if makes_view else (),
        arguments={**given, "view": view, **arguments},
        weight=WEIGHT,
        kept=None,
        # What is heard has a limit of its own: with another one of the file nobody need listen again, nor the reverse.
        view_key=stable_key({**said, "view_limit_db": view_limit_db}),
    )


def native_view(sample_rate: int) -> View:
    """What a backend of this rate hears: of 16 kHz, that which all stages of speech do."""
    return View("speech" if sample_rate == 16_000 else f"mono_{sample_rate}", sample_rate, 1)


def denoise_product(key: str | None = None) -> Product:
    """What is filled: computed where there is a ``key``."""
    return Product(
        NAME,
        COLUMNS,
        key=key,
        stage=NAME,
        timed=NAME,
        artifacts=(FILES,),
        version_column="denoise_model",
        rank=2,
        title="the recording without its noise",
    )
