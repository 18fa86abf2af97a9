"""What is asked for: a song, and what its master shall be."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.mastering.wish import VERSION, Wish
from pipeline.service.listening.sources import Source

_ID = 24


@dataclass(frozen=True)
class Wanted:
    """What a master shall be, as it was understood.

    Args:
        wish: for the plan.
        references: paths and URLs of songs that it shall sound like; none in the adaptive mode.
        fingerprint: whether the plan goes by the song's fingerprint, too.
    """

    wish: Wish
    references: tuple[str, ...] = ()
    fingerprint: bool = False


@dataclass(frozen=True)
class Asked:
    """A master that somebody wants to hear.

    Args:
        source: the song.
        references: that it shall sound like.
        wanted: what it shall be.
        said: as it was asked for.
        bits: of the samples that are sent.
    """

    source: Source
    references: tuple[Source, ...]
    wanted: Wanted
    said: Mapping[str, Any]
    bits: int

    @property
    def id(self) -> str:
        """The same for the same sound: of the contents of the files, not of their names, and of the wish."""
        parts = [
            self.source.content,
            [reference.content for reference in self.references],
            self.wanted.wish.to_dict(),
            self.wanted.fingerprint,
            self.bits,
            VERSION,
        ]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:_ID]
