"""APEv2 tags as other programs write them behind an MP3."""

from __future__ import annotations

import struct

BINARY = 2
"""The flags of an item that is no text."""


def ape(*items: tuple[str, bytes, int]) -> bytes:
    """A tag with header and footer, of names, values and flags."""
    body = b"".join(
        struct.pack("<II", len(value), flags) + name.encode() + b"\0" + value for name, value, flags in items
    )
    head = struct.pack("<III", 2000, len(body) + 32, len(items))
    return (
        b"APETAGEX" + head + struct.pack("<I", 0xA0000000) + bytes(8)
        + body + b"APETAGEX" + head + struct.pack("<I", 0x80000000) + bytes(8)
    )  # fmt: skip
