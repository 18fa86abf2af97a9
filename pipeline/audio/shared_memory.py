"""Memory that two processes share without a name: nothing is left behind when either is killed. Linux only."""

from __future__ import annotations

import fcntl
import math
import mmap
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import numpy as np

# From linux/fcntl.h; Python's fcntl has none of them.
_ADD_SEALS, _SEAL_SHRINK, _SEAL_GROW = 1033, 2, 4


@contextmanager
def anonymous_file(size: int, content: bytes = b"") -> Iterator[int]:
    """The descriptor of ``size`` bytes of memory that begin with ``content``.

    Only what is written to takes memory. Nobody who is handed it can change its size, so reading a map of it
    cannot fail, whatever the other process does.
    """
    fd = os.memfd_create("soundmill", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        rest = memoryview(content)
        while rest:
            rest = rest[os.write(fd, rest) :]
        os.ftruncate(fd, size)
        fcntl.fcntl(fd, _ADD_SEALS, _SEAL_SHRINK | _SEAL_GROW)
        yield fd
    finally:
        os.close(fd)


def read_all(fd: int) -> bytes:
    """What the file holds."""
    with open(fd, "rb", buffering=0, closefd=False) as file:
        file.seek(0)
        return file.read()


class Arena:
    """Arrays in a file of `anonymous_file`, one after the other; each begins on a page of its own."""

    def __init__(self, fd: int) -> None:
        self._map = mmap.mmap(fd, 0)
        self._end = 0
        self._offsets: dict[int, int] = {}

    def allocate(self, shape: tuple[int, ...]) -> np.ndarray:
        """An `Allocator`. Raises `MemoryError` where the file is full."""
        count = math.prod(shape)
        if self._end + 4 * count > len(self._map):
            raise MemoryError(f"the views need more than the {len(self._map)} bytes set aside for them")
        if not count:
            return np.empty(shape, np.float32)
        array = np.frombuffer(self._map, np.float32, count, self._end).reshape(shape)
        self._offsets[array.ctypes.data] = self._end
        self._end = _page_end(self._end + 4 * count)
        return array

    def offset_of(self, array: np.ndarray) -> int:
        """Where in the file ``array`` begins; it is copied there unless it lies there already."""
        known = self._offsets.get(array.ctypes.data)
        if known is None or not array.flags.c_contiguous:
            copy = self.allocate(array.shape)
            copy[...] = array
            known = self._offsets[copy.ctypes.data]
        return known

    def keep_only(self, ranges: Iterable[tuple[int, int]]) -> None:
        """Give the memory outside of these (offset, bytes) back to the system."""
        start = 0
        for offset, size in [*sorted(ranges), (self._end, 0)]:
            if offset > start:
                self._map.madvise(mmap.MADV_REMOVE, start, offset - start)
            start = _page_end(offset + size)


def _page_end(offset: int) -> int:
    return -(-offset // mmap.PAGESIZE) * mmap.PAGESIZE


def arrays_of(fd: int, places: Iterable[tuple[int, tuple[int, int]]]) -> list[np.ndarray]:
    """Read-only float32 arrays in a file of `anonymous_file`, without a copy; they keep its memory, not ``fd``.

    Args:
        places: (offset, shape) of each.

    Raises:
        ValueError: one lies outside of the file, or not where an array can begin.
    """
    places = list(places)
    ends = [offset + 4 * math.prod(shape) for offset, shape in places]
    if any(offset < 0 or offset % mmap.PAGESIZE for offset, _ in places) or any(
        min(shape) <= 0 for _, shape in places
    ):
        raise ValueError("an array that begins or measures less than nothing")
    if max(ends, default=0) > os.fstat(fd).st_size:
        raise ValueError("an array that ends behind the shared memory")
    if not ends:
        return []
    shared = mmap.mmap(fd, max(ends), access=mmap.ACCESS_READ)
    return [
        np.frombuffer(shared, np.float32, math.prod(shape), offset).reshape(shape) for offset, shape in places
    ]
