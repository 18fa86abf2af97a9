"""What the tests of the result cache put into it, and where that lies."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from pipeline.dataset.cache.entry import Entry

ASSET, KEY = "ab" * 32, "0123456789ab"


def entry(number: float = 1.0, size: int = 0) -> Entry:
    """A result with one value, and an array of ``size`` times the same if it is not 0."""
    return Entry({"x": number}, {"a": np.full(size, number, np.float32)} if size else {})


def shards(folder: Path) -> list[Path]:
    """The cache's files with results, the oldest first."""
    return sorted((folder / "shards").glob("*.shard"))
