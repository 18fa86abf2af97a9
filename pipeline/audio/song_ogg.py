"""Ogg pages on their way from an encoder to a file: with our comments and pictures, and a serial number that is fixed.

libsndfile draws the serial number at random, and neither it nor FFmpeg writes pictures. Pages of samples pass through
as they are, but for their number, serial number and checksum. Source: RFC 3533; RFC 7845 and Vorbis I for the headers.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from typing import BinaryIO

_SERIAL = 1
_HEAD = 27
_REVERSED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


class OggRewriter(io.RawIOBase):
    """A binary file to write Ogg to, which hands it on with another comment header.

    Args:
        out: where the file goes, from its current position on.
        comments: the body of a comment header, made of the vendor in the encoder's own.
    """

    def __init__(self, out: BinaryIO, comments: Callable[[bytes], bytes]) -> None:
        self._out = out
        self._comments = comments
        self._pending = bytearray()
        self._headers: list[bytes] = []
        self._packet = bytearray()
        self._awaited: int | None = None
        self._page = 0
        self._taken = 0

    def writable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return False

    def tell(self) -> int:
        """Bytes that were taken."""
        return self._taken

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Where writing goes on: only at the end."""
        if (whence == io.SEEK_SET and offset == self._taken) or (whence != io.SEEK_SET and offset == 0):
            return self._taken
        raise OSError("Ogg is written from its beginning to its end")

    def write(self, data: bytes) -> int:  # type: ignore[override]
        self._pending += data
        self._taken += len(data)
        while (page := self._whole_page()) is not None:
            self._rewrite(page)
        return len(data)

    def finish(self) -> None:
        """Raise `ValueError` if what was written does not end with a page."""
        if self._pending or self._awaited is None or self._awaited:
            raise ValueError("the encoder did not end its last Ogg page")

    def _whole_page(self) -> bytes | None:
        head = self._pending
        if len(head) < _HEAD or len(head) < _HEAD + head[26]:
            return None
        size = _HEAD + head[26] + sum(head[_HEAD : _HEAD + head[26]])
        if len(head) < size:
            return None
        page = bytes(head[:size])
        del self._pending[:size]
        return page

    def _rewrite(self, page: bytes) -> None:
        if self._awaited == 0:
            self._pass_on(page)
            return
        at = _HEAD + page[26]
        for length in page[_HEAD:at]:
            self._packet += page[at : at + length]
            at += length
            if length < 255:
                self._header(bytes(self._packet))
                self._packet.clear()

    def _header(self, packet: bytes) -> None:
        if self._awaited is None:
            opus = packet.startswith(b"OpusHead")
            self._awaited = 2 if opus else 3
        self._headers.append(packet)
        self._awaited -= 1
        if self._awaited:
            return
        first, comment, *setup = self._headers
        kind = 8 if comment.startswith(b"OpusTags") else 7
        length = struct.unpack_from("<I", comment, kind)[0]
        vendor = comment[kind + 4 : kind + 4 + length]
        # Vorbis ends its header with a bit that is set.
        ours = comment[:kind] + self._comments(vendor) + (b"\x01" if kind == 7 else b"")
        self._out.write(self._numbered(0x02, 0, _lacing(len(first)), first))
        self._write_packets([ours, *setup])

    def _write_packets(self, packets: list[bytes]) -> None:
        """Headers on pages of their own, behind the first; the sound begins on a new page."""
        lacing, body = b"".join(_lacing(len(packet)) for packet in packets), b"".join(packets)
        at = 0
        for start in range(0, len(lacing), 255):
            table = lacing[start : start + 255]
            size = sum(table)
            continued = start > 0 and lacing[start - 1] == 255
            # A page on which no packet ends has no position.
            position = 0 if any(length < 255 for length in table) else -1
            self._out.write(self._numbered(int(continued), position, table, body[at : at + size]))
            at += size

    def _pass_on(self, page: bytes) -> None:
        position = struct.unpack_from("<q", page, 6)[0]
        end = _HEAD + page[26]
        self._out.write(self._numbered(page[5], position, page[_HEAD:end], page[end:]))

    def _numbered(self, flags: int, position: int, lacing: bytes, body: bytes) -> bytes:
        head = b"OggS" + struct.pack("<BBqIII", 0, flags, position, _SERIAL, self._page, 0)
        page = head + bytes([len(lacing)]) + lacing + body
        self._page += 1
        return page[:22] + struct.pack("<I", checksum(page)) + page[26:]


def _lacing(size: int) -> bytes:
    return b"\xff" * (size // 255) + bytes([size % 255])


def checksum(page: bytes) -> int:
    """CRC-32 of Ogg: the polynomial of zlib, but the highest bit first, and neither begun nor ended with ones."""
    mirrored = zlib.crc32(page.translate(_REVERSED), 0xFFFFFFFF) ^ 0xFFFFFFFF
    return int(f"{mirrored:032b}"[::-1], 2)
