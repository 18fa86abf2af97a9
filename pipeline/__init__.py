"""Soundmill: a bucket of audio files in, tables people can work with out.

The floors, lowest first; a module imports only from its own floor and lower ones (tests/test_layers.py):
``commands`` → ``errors`` → ``audio`` → ``features``, ``models``, ``karaoke``, ``speech``, ``mastering`` → ``dataset`` →
``engine`` → ``stages`` → ``report``, ``service`` → ``workflows`` → ``jobs`` → the command ``soundmill``.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.extract_function import extract
    from pipeline.mastering.distance import distance as master_distance

__version__ = "0.1.0"
__all__ = ["extract", "master_distance"]

_WHERE = {
    "extract": ("pipeline.extract_function", "extract"),
    "master_distance": ("pipeline.mastering.distance", "distance"),
}


def __getattr__(name: str) -> Any:
    """What is in `__all__`, when it is first asked for: who imports a module does not wait for it."""
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, own = _WHERE[name]
    found = globals()[name] = getattr(import_module(module), own)
    return found
