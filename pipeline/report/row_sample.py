"""A sample of vectors that depends on the contents only, not on their order or on how they lie in parts."""

from __future__ import annotations

import numpy as np


class Sample:
    """The vectors of the ``most`` contents whose identities are the smallest.

    Identities are hashes, so this is a random sample, and the same one each time; the first n of it are a random
    sample too. Each content is held once. Memory: up to twice ``most`` vectors.

    Args:
        most: contents that are kept.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self.seen = 0
        self.size: int | None = None
        self._ids: list[np.ndarray] = []
        self._vectors: list[np.ndarray] = []
        self._limit = np.uint64(2**64 - 1)
        self._settled = False

    def add(self, ids: np.ndarray, vectors: np.ndarray) -> None:
        """Take in rows: identities, uint64 ``[n]``, and vectors, float32 ``[n, size]``."""
        self.seen += len(ids)
        if not len(ids):
            return
        self.size = vectors.shape[1]
        kept = ids <= self._limit
        self._settled = False
        self._ids.append(ids[kept])
        self._vectors.append(vectors[kept])
        if sum(map(len, self._ids)) > 2 * self.most:
            self._settle()

    def _settle(self) -> None:
        if self._settled:
            return
        ids, first = np.unique(np.concatenate(self._ids), return_index=True)
        first = first[: self.most]
        self._ids, self._vectors = [ids[: self.most]], [np.concatenate(self._vectors)[first]]
        self._settled = True
        if len(self._ids[0]) == self.most:
            self._limit = self._ids[0][-1]

    def result(self) -> tuple[np.ndarray, np.ndarray]:
        """Identities, ascending, and their vectors."""
        if not self._ids:
            return np.empty(0, np.uint64), np.empty((0, self.size or 0), np.float32)
        self._settle()
        return self._ids[0], self._vectors[0]
