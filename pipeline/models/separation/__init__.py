"""Source separation behind one small interface; one backend per file."""

from pipeline.models.separation import demucs, midside, openunmix, spleeter
from pipeline.models.separation.base import (
    REGISTRY,
    STEMS,
    BackendUnavailable,
    SeparationOptions,
    Separator,
)
from pipeline.models.separation.choose import AUTO, BACKEND_NAMES, Choice, choose, load_backend
from pipeline.models.separation.statistics import StemFold
from pipeline.models.separation.stream import SeparationStream, separate_track, stream_track

__all__ = [
    "AUTO",
    "BACKEND_NAMES",
    "REGISTRY",
    "STEMS",
    "BackendUnavailable",
    "Choice",
    "SeparationOptions",
    "SeparationStream",
    "Separator",
    "StemFold",
    "choose",
    "demucs",
    "load_backend",
    "midside",
    "openunmix",
    "separate_track",
    "spleeter",
    "stream_track",
]
