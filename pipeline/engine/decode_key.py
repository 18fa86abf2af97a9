"""The key of decoding; those of products are in the declarations of their stages."""

from __future__ import annotations

from pipeline.audio.choice import FIRST, Choice
from pipeline.features.base import stable_key


def decode_key(choice: Choice = FIRST) -> str:
    """Of decoding: a file that it failed on is not tried again before it changes.

    Args:
        choice: which of several sound tracks is taken. Rows of any but the first have this key among those of their
            extractors, so that another choice computes them anew, see `chosen_stream`.
    """
    key = stable_key({"name": "decode", "version": "2"})
    return key if choice == FIRST else f"{key}/{choice}"


def chosen_stream(key: str | None) -> str:
    """The choice in a `decode_key`; empty for the first sound track, and for None."""
    return (key or "").partition("/")[2]
