"""Spleeter's vocals, for music under speech: see `pipeline.models.speech.denoise.stems`."""

from __future__ import annotations

from pipeline.models.speech.denoise.stems import StemDenoiser


class SpleeterDenoiser(StemDenoiser):
    """The vocals of `pipeline.models.separation.spleeter`, 44.1 kHz."""

    name = "spleeter"
