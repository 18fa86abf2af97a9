"""Memory that two processes share without a name: nothing is left behind when either is killed. Linux only.

It is used again and again: most of what sharing costs is the first touch of a page.
"""

from __future__ import annotations

import ctypes
import fcntl
import math
import mmap
import os
import weakref
from collections.abc import Iterable

import numpy as np

KEPT_BYTES = 256 << 20
"""Memory that a `Lender` keeps for later while none of it is in use."""

# From linux/fcntl.h; Python's fcntl has none of them.
_ADD_SEALS, _SEAL_SHRINK, _SEAL_GROW = 1033, 2, 4
_WORTH_GIVING_BACK = 64 << 20


class Segment:
    """A file without a name, mapped for reading here and for writing by the other process.

    Only what is written to takes memory. Nobody who is handed ``fd`` can change the size, so reading the map cannot
    fail, whatever the other process does.
    """

    def __init__(self, size: int) -> None:
        self.fd = os.memfd_create("soundmill", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        weakref.finalize(self, os.close, self.fd)
        os.ftruncate(self.fd, size)
        fcntl.fcntl(self.fd, _ADD_SEALS, _SEAL_SHRINK | _SEAL_GROW)
        self.size = size
        self.map = mmap.mmap(self.fd, size, access=mmap.ACCESS_READ)

    @property
    def resident_bytes(self) -> int:
        """Memory that it takes."""
        return os.fstat(self.fd).st_blocks * 512


class Lender:
    """Hands out arrays in a `Segment` one after the other, and begins anew once all of them are gone.

    Args:
        largest: bytes that one writer may need; a segment has three times as much.
    """

    def __init__(self, largest: int) -> None:
        self._size = 3 * largest
        self._end = 0
        self._lent: list[weakref.ref] = []
        self._owner = os.getpid()
        self.segment = Segment(self._size)

    def start(self) -> int:
        """Where in ``segment`` the next writer may begin."""
        self._lent = [lent for lent in self._lent if lent() is not None]
        if not self._lent:
            self._end = 0
        too_large = not self._lent and self.segment.resident_bytes > KEPT_BYTES
        # After a fork the segment is the other process's.
        if self._end > self._size // 3 or too_large or self._owner != os.getpid():
            self.replace()
        return self._end

    def replace(self) -> None:
        """Take a new segment; arrays that are out keep the old one."""
        self._end, self._lent, self._owner, self.segment = 0, [], os.getpid(), Segment(self._size)

    def lend(self, places: Iterable[tuple[int, tuple[int, int]]]) -> list[np.ndarray]:
        """Read-only float32 arrays in the segment, without a copy.

        Args:
            places: (offset, shape) of each.

        Raises:
            ValueError: one lies outside of what the writer was given, or not where an array can begin.
        """
        places = list(places)
        start, end = self._end, self._end
        for offset, shape in places:
            if offset < start or offset % mmap.PAGESIZE or min(shape) <= 0:
                raise ValueError("an array that begins or measures less than it can")
            end = max(end, offset + 4 * math.prod(shape))
        if end > self.segment.size:
            raise ValueError("an array that ends behind the shared memory")
        whole = np.frombuffer(self.segment.map, np.float32, (end - start) // 4, start)
        self._lent.append(weakref.ref(whole))
        self._end = _page_end(end)
        # Slices hold on to the array they are of.
        return [whole[(offset - start) // 4 :][: math.prod(shape)].reshape(shape) for offset, shape in places]


class Arena:
    """The writer's side of a `Segment`: arrays one after the other, each on pages of its own."""

    def __init__(self, fd: int) -> None:
        self._map = mmap.mmap(fd, 0)
        self._address = np.frombuffer(self._map, np.uint8).ctypes.data
        self._start = self._end = 0
        self._offsets: dict[int, int] = {}

    def begin(self, start: int) -> None:
        """Write behind ``start`` from now on; what lies before can only be read, even by mistake."""
        if start != self._start:
            _protect(self._address, start, mmap.PROT_READ)
            _protect(self._address + start, len(self._map) - start, mmap.PROT_READ | mmap.PROT_WRITE)
        self._start = self._end = start
        self._offsets = {}

    def allocate(self, shape: tuple[int, ...]) -> np.ndarray:
        """An `Allocator`. Raises `MemoryError` where the segment is full."""
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
        """Where in the segment ``array`` begins; it is copied there unless it lies there already."""
        known = self._offsets.get(array.ctypes.data)
        if known is None or not array.flags.c_contiguous:
            copy = self.allocate(array.shape)
            copy[...] = array
            known = self._offsets[copy.ctypes.data]
        return known

    def give_back_gaps(self, ranges: Iterable[tuple[int, int]]) -> None:
        """Return large parts of what was allocated to the system, except these (offset, bytes)."""
        start = self._start
        for offset, size in [*sorted(ranges), (self._end, 0)]:
            if offset - start >= _WORTH_GIVING_BACK:
                self._map.madvise(mmap.MADV_REMOVE, start, offset - start)
            start = _page_end(offset + size)


def _page_end(offset: int) -> int:
    return -(-offset // mmap.PAGESIZE) * mmap.PAGESIZE


def _protect(address: int, size: int, how: int) -> None:
    if size and ctypes.CDLL(None, use_errno=True).mprotect(
        ctypes.c_void_p(address), ctypes.c_size_t(size), ctypes.c_int(how)
    ):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
