"""Source separation behind one small interface; one backend per file.

What is named here is loaded when it is first asked for: processes that only need the names of the stems do not pay
for torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.models.separation.base import (
        REGISTRY,
        BackendUnavailable,
        Separator,
    )
    from pipeline.models.separation.choose import BackendChoice, load_backend
    from pipeline.models.separation.names import AUTO, BACKEND_NAMES, STEMS, SeparationOptions
    from pipeline.models.separation.separation_stream import (
        SeparationPool,
        SeparationStream,
        separate_track,
        stream_track,
    )
    from pipeline.models.separation.stem_levels import StemFold

_HOMES = {
    "AUTO": "names",
    "BACKEND_NAMES": "names",
    "REGISTRY": "choose",  # which loads every backend
    "STEMS": "names",
    "BackendUnavailable": "base",
    "BackendChoice": "choose",
    "SeparationOptions": "names",
    "SeparationPool": "separation_stream",
    "SeparationStream": "separation_stream",
    "Separator": "base",
    "StemFold": "stem_levels",
    "load_backend": "choose",
    "separate_track": "separation_stream",
    "stream_track": "separation_stream",
}

__all__ = [
    "AUTO",
    "BACKEND_NAMES",
    "REGISTRY",
    "STEMS",
    "BackendChoice",
    "BackendUnavailable",
    "SeparationOptions",
    "SeparationPool",
    "SeparationStream",
    "Separator",
    "StemFold",
    "load_backend",
    "separate_track",
    "stream_track",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
