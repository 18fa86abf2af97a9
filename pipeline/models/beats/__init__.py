"""Beats, downbeats and tempo of music, by the networks of BeatNet and a decoder of bars.

What is named here is loaded when it is first asked for: processes that only need the names do not pay for torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.models.beats.names import BeatOptions
    from pipeline.models.beats.rhythm import Beats
    from pipeline.models.beats.tracker import BeatTracker, track_beats

_HOMES = {"BeatOptions": "names", "Beats": "rhythm", "BeatTracker": "tracker", "track_beats": "tracker"}

__all__ = ["BeatOptions", "BeatTracker", "Beats", "track_beats"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
