"""Ids of millions of rows in little memory: 16 bytes each, in numpy arrays that grow by chunks."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import numpy as np

DIGEST = np.dtype("S16")


def digests(texts: Iterable[str | None]) -> np.ndarray:
    """16-byte digests of strings, ``S16 [n]``. Two of 10 million ids are equal with a chance below 1e-24."""
    found = b"".join(hashlib.blake2b((t or "").encode(), digest_size=16).digest() for t in texts)
    return np.frombuffer(found, dtype=DIGEST)


class Columns:
    """Parallel columns of plain numbers and digests, appended to chunk by chunk.

    Args:
        dtypes: column → numpy dtype; the sum of their sizes is what a row takes.
    """

    def __init__(self, **dtypes: str | np.dtype) -> None:
        self._dtype = np.dtype([(name, np.dtype(kind)) for name, kind in dtypes.items()])
        self._chunks: list[np.ndarray] = []

    def append(self, rows: int, **values: np.ndarray | int) -> None:
        """Add ``rows`` rows; a single number stands for all of them."""
        chunk = np.empty(rows, dtype=self._dtype)
        for name, value in values.items():
            chunk[name] = value
        self._chunks.append(chunk)

    def table(self) -> np.ndarray:
        """All rows as one structured array."""
        if len(self._chunks) != 1:
            self._chunks = [np.concatenate(self._chunks) if self._chunks else np.empty(0, self._dtype)]
        return self._chunks[0]


class Lookup:
    """Rows by digest: a sorted copy of a column and its order, 24 bytes a row."""

    def __init__(self, keys: np.ndarray) -> None:
        self.order = np.argsort(keys, kind="stable")
        self._sorted = keys[self.order]
        self.nbytes = self.order.nbytes + self._sorted.nbytes

    def rows(self, key: bytes) -> np.ndarray:
        """Numbers of the rows that have ``key``."""
        wanted = np.array(key, dtype=DIGEST)
        low, high = (int(np.searchsorted(self._sorted, wanted, side)) for side in ("left", "right"))
        return self.order[low:high]

    def count(self, keys: np.ndarray) -> np.ndarray:
        """How many rows have each of ``keys``."""
        return np.searchsorted(self._sorted, keys, "right") - np.searchsorted(self._sorted, keys, "left")

    def running(self, marks: np.ndarray) -> np.ndarray:
        """Running count of ``marks`` (one per row) in the order of the keys, for `marked`: 4 bytes a row."""
        return np.concatenate([[0], np.cumsum(marks[self.order])]).astype(np.uint32)

    def marked(self, keys: np.ndarray, running: np.ndarray) -> np.ndarray:
        """How many marked rows have each of ``keys``."""
        high, low = (np.searchsorted(self._sorted, keys, side) for side in ("right", "left"))
        return running[high] - running[low]

    def repeated(self) -> np.ndarray:
        """The keys that more than one row has, each once."""
        same = self._sorted[1:] == self._sorted[:-1]
        return np.unique(self._sorted[1:][same])
