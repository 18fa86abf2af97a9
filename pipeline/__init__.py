"""Soundmill: a bucket of audio files in, tables people can work with out.

The floors, lowest first; a module imports only from its own floor and lower ones (tests/test_layers.py):
``commands`` → ``errors`` → ``audio`` → ``features``, ``models``, ``karaoke`` → ``dataset`` → ``engine`` →
``report``, ``service`` → ``workflows`` → ``jobs`` → the command ``soundmill``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.extract_function import extract

__version__ = "0.1.0"
__all__ = ["extract"]


def __getattr__(name: str) -> Any:
    """`extract`, when it is first asked for: whoever imports a module of this package does not wait for it."""
    if name != "extract":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from pipeline.extract_function import extract

    globals()[name] = extract
    return extract
