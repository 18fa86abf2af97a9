"""A search index that is none, for tests of what waits for one: it merges as real ones do."""

from __future__ import annotations

import copy
import threading

from pipeline.service.search import SearchAway, SearchRefused
from pipeline.service.spool import Spool

NEVER = threading.Event()


def merged(found: dict, update: dict) -> dict:
    """What an index makes of a partial update; ``tests/service/test_spool_entry.py`` compares it with real ones."""
    result = dict(found)
    for name, value in update.items():
        before = result.get(name)
        both = isinstance(before, dict) and isinstance(value, dict)
        result[name] = merged(before, value) if both else copy.deepcopy(value)
    return result


class MergingIndex:
    """In the place of a search index: merges as one does, and is away or refuses when it is told to."""

    def __init__(self) -> None:
        self.songs: dict[str, dict] = {}
        self.order: list[str] = []
        self.away_after: int | None = None
        self.refuses: set[str] = set()
        self.stumbles: set[str] = set()
        self.during = lambda video_id: None

    def update(self, video_id: str, document: dict) -> None:
        self.during(video_id)
        if video_id in self.refuses:
            raise SearchRefused("400 mapper_parsing_exception: no")
        if video_id in self.stumbles:
            raise SearchAway("409 version_conflict_engine_exception", only_this=True)
        if self.away_after is not None and len(self.order) >= self.away_after:
            raise SearchAway("nobody there")
        self.order.append(video_id)
        self.songs[video_id] = merged(self.songs.get(video_id, {}), document)


def drained(spool: Spool) -> dict[str, dict]:
    """What the index has after everything has been sent to an empty one."""
    index = MergingIndex()
    spool.drain(index, NEVER)
    assert spool.waiting() == 0
    return index.songs
