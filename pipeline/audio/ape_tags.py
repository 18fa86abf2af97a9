"""APEv2 tags behind an MP3, where mp3gain, foobar2000 and Mp3tag write them and FFmpeg passes over them.

Source: APEv2 specification, hydrogenaud.io wiki.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple

_FOOTER_BYTES = 32
_TAG_BYTES, _ITEMS = 1 << 24, 256
_NAME_BYTES = 255
_PICTURE = "cover art"
# Name of an item behind "cover art " → the kind of picture in ID3v2's frame APIC.
_KINDS = {
    "(front)": 3, "(back)": 4, "(leaflet)": 5, "(media)": 6, "(lead artist)": 7, "(artist)": 8, "(conductor)": 9,
    "(band)": 10, "(composer)": 11, "(lyricist)": 12, "(recording location)": 13, "(recording)": 14,
    "(during performance)": 15, "(video capture)": 16, "(fish)": 17, "(illustration)": 18, "(band logotype)": 19,
    "(publisher logotype)": 20, "(icon)": 2, "(png icon)": 1,
}  # fmt: skip


class ApeItem(NamedTuple):
    """An item of a tag: its name in lower case, what it holds, and whether that is text."""

    name: str
    value: bytes
    is_text: bool


class ApePicture(NamedTuple):
    """The bytes of a picture, its kind as a number of ID3v2's frame APIC, and what it is called."""

    data: bytes
    kind: int
    title: str


def ape_items(data: bytes) -> Iterator[ApeItem]:
    """The items of an APEv2 tag at the end of ``data``, or in front of an ID3v1 tag there; none where it is broken."""
    end = len(data) - 128 if data[-128:-125] == b"TAG" else len(data)
    footer = data[end - _FOOTER_BYTES : end] if end >= _FOOTER_BYTES else b""
    if footer[:8] != b"APETAGEX":
        return
    _version, size, count = struct.unpack_from("<III", footer, 8)
    if not _FOOTER_BYTES <= size <= min(end, _TAG_BYTES):
        return
    body, at = data[end - size : end - _FOOTER_BYTES], 0
    for _ in range(min(count, _ITEMS)):
        if at + 8 > len(body):
            return
        length, flags = struct.unpack_from("<II", body, at)
        stop = body.find(b"\0", at + 8, at + 8 + _NAME_BYTES + 1)
        if stop < 0:
            return
        name = body[at + 8 : stop].decode("ascii", "replace").lower()
        yield ApeItem(name, body[stop + 1 : stop + 1 + length], not flags >> 1 & 3)
        at = stop + 1 + length


def ape_tags(data: bytes, most_bytes: int) -> dict[str, str]:
    """The texts of a tag under lower-case names, several values of one name with ``; `` between them.

    Where there is a picture, ``cover art`` is there, too, and empty.

    Args:
        data: a whole file.
        most_bytes: of a text; what is behind is left out.
    """
    found = {}
    for item in ape_items(data):
        if item.is_text:
            found[item.name] = item.value[:most_bytes].replace(b"\0", b"; ").decode("utf-8", "replace")
        elif item.name.startswith(_PICTURE):
            found[_PICTURE] = ""
    return found


def ape_pictures(data: bytes) -> Iterator[ApePicture]:
    """The pictures of a tag: each is a file's name, a zero, and the file."""
    for item in ape_items(data):
        title, zero, picture = item.value.partition(b"\0")
        if item.name.startswith(_PICTURE) and not item.is_text and zero and picture:
            kind = _KINDS.get(item.name.removeprefix(_PICTURE).strip(), 0)
            yield ApePicture(picture, kind, title.decode("utf-8", "replace"))
