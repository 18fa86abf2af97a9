"""Source separation behind one small interface; one backend per file."""

from pipeline.models.separation import midside, spleeter
from pipeline.models.separation.base import REGISTRY, BackendUnavailable, Separator
from pipeline.models.separation.choose import BACKEND_NAMES, Choice, choose, load_backend, stem_statistics

__all__ = [
    "BACKEND_NAMES",
    "REGISTRY",
    "BackendUnavailable",
    "Choice",
    "Separator",
    "choose",
    "load_backend",
    "midside",
    "spleeter",
    "stem_statistics",
]
