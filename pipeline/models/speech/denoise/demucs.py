"""The vocals of a demucs model, for music under speech: see `pipeline.models.speech.denoise.stems`."""

from __future__ import annotations

from pipeline.models.speech.denoise.stems import StemDenoiser


class DemucsDenoiser(StemDenoiser):
    """The vocals of `pipeline.models.separation.demucs`, 44.1 kHz."""

    name = "demucs"
