"""Tags and pictures as the bytes of each container: ID3v2.4, Vorbis comments, MP4 ``ilst``, RIFF ``INFO``.

Written by hand because FFmpeg's muxers write lyrics and comments of MP3 as free texts, leave out what MP4 has no atom
for, and put no picture into Ogg or WAV. Names of tags are FFmpeg's, as `pipeline.audio.song_tags` reads them.

Sources: ID3v2.4.0 (id3.org, structure and native frames), Vorbis I comment header, RFC 9639 (FLAC, 8.6 and 8.8),
QuickTime file format (metadata) and what iTunes writes, RIFF MCI (1991) ``LIST INFO``.
"""

from __future__ import annotations

import base64
import re
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from pipeline.audio.encode import EncodeError

FRONT_COVER = 3
"""The kind of picture (ID3v2, APIC) that a front cover is."""

_ID3 = {
    "title": b"TIT2", "artist": b"TPE1", "album": b"TALB", "album_artist": b"TPE2", "track": b"TRCK", "disc": b"TPOS",
    "genre": b"TCON", "composer": b"TCOM", "copyright": b"TCOP", "publisher": b"TPUB", "encoded_by": b"TENC",
    "language": b"TLAN", "performer": b"TPE3", "bpm": b"TBPM", "initialkey": b"TKEY", "isrc": b"TSRC",
    "grouping": b"TIT1", "lyricist": b"TEXT", "compilation": b"TCMP", "album-sort": b"TSOA", "artist-sort": b"TSOP",
    "title-sort": b"TSOT", "subtitle": b"TIT3", "album_artist-sort": b"TSO2", "composer-sort": b"TSOC",
}  # fmt: skip
# The text frames of ID3v2.4 (id3v2.4.0-frames, 4.2), and three that everybody writes.
_ID3_FRAMES = frozenset(
    b"TALB TBPM TCOM TCON TCOP TDEN TDLY TDOR TDRC TDRL TDTG TENC TEXT TFLT TIPL TIT1 TIT2 TIT3 TKEY TLAN TLEN TMCL "
    b"TMED TMOO TOAL TOFN TOLY TOPE TOWN TPE1 TPE2 TPE3 TPE4 TPOS TPRO TPUB TRCK TRSN TRSO TSOA TSOP TSOT TSRC TSSE "
    b"TSST TCMP TSO2 TSOC".split()
)
# The timestamps of ID3v2.4, a subset of ISO 8601.
_TIMESTAMP = re.compile(r"\d{4}(-\d\d(-\d\d(T\d\d(:\d\d(:\d\d)?)?)?)?)?")
_VORBIS = {
    "album_artist": "ALBUMARTIST", "track": "TRACKNUMBER", "disc": "DISCNUMBER", "title-sort": "TITLESORT",
    "album-sort": "ALBUMSORT", "artist-sort": "ARTISTSORT", "album_artist-sort": "ALBUMARTISTSORT",
    "composer-sort": "COMPOSERSORT",
}  # fmt: skip
_MP4 = {
    "title": b"\xa9nam", "artist": b"\xa9ART", "album": b"\xa9alb", "album_artist": b"aART", "date": b"\xa9day",
    "genre": b"\xa9gen", "composer": b"\xa9wrt", "comment": b"\xa9cmt", "lyrics": b"\xa9lyr", "copyright": b"cprt",
    "grouping": b"\xa9grp", "album-sort": b"soal", "artist-sort": b"soar", "title-sort": b"sonm",
    "album_artist-sort": b"soaa", "composer-sort": b"soco",
}  # fmt: skip
_MP4_PICTURES = {"image/jpeg": 13, "image/png": 14, "image/bmp": 27}
_PAIR = re.compile(r"(\d{1,5})(?:/(\d{1,5}))?")
_INFO = {
    "title": b"INAM", "artist": b"IART", "album": b"IPRD", "comment": b"ICMT", "date": b"ICRD", "genre": b"IGNR",
    "track": b"IPRT", "copyright": b"ICOP", "language": b"ILNG",
}  # fmt: skip
_FLAC_BLOCK_BYTES = (1 << 24) - 1
_ID3_BYTES = (1 << 28) - 1


@dataclass(frozen=True)
class Picture:
    """A cover, or another picture of a song.

    Args:
        data: the bytes of an image file.
        mime: ``image/jpeg``, ``image/png``, ...
        kind: what it shows, as ID3v2 numbers it: 3 is the front cover.
        description: of what is on it.
    """

    data: bytes
    mime: str
    kind: int = FRONT_COVER
    description: str = ""


def id3v2(texts: Mapping[str, str], pictures: Iterable[Picture]) -> bytes:
    """An ID3v2.4 tag in UTF-8; nothing where there is nothing to say. Raises `EncodeError` beyond 256 MiB."""
    frames = b"".join(_id3_text(name, text) for name, text in texts.items())
    for picture in pictures:
        head = b"\x03" + picture.mime.encode("ascii", "replace") + b"\0" + bytes([picture.kind])
        frames += _id3_frame(b"APIC", head + picture.description.encode() + b"\0" + picture.data)
    if len(frames) > _ID3_BYTES:
        raise EncodeError(
            f"tags of {len(frames)} bytes do not fit into ID3, which holds 256 MiB: leave pictures out"
        )
    if not frames:
        return b""
    return b"ID3\x04\0\0" + _syncsafe(len(frames)) + frames


def _id3_text(name: str, text: str) -> bytes:
    value = text.encode()
    if name == "comment":
        return _id3_frame(b"COMM", b"\x03XXX\0" + value)
    if name == "lyrics":
        return _id3_frame(b"USLT", b"\x03XXX\0" + value)
    if name == "date" and _TIMESTAMP.fullmatch(text):
        return _id3_frame(b"TDRC", b"\x03" + value)
    if name in _ID3:
        return _id3_frame(_ID3[name], b"\x03" + value)
    if name.upper().encode() in _ID3_FRAMES:
        # A frame that FFmpeg has no name for.
        return _id3_frame(name.upper().encode(), b"\x03" + value)
    return _id3_frame(b"TXXX", b"\x03" + name.encode() + b"\0" + value)


def _id3_frame(name: bytes, body: bytes) -> bytes:
    return name + _syncsafe(len(body)) + b"\0\0" + body


def _syncsafe(size: int) -> bytes:
    return bytes(size >> shift & 127 for shift in (21, 14, 7, 0))


def vorbis_comments(texts: Mapping[str, str], pictures: Iterable[Picture], vendor: bytes) -> bytes:
    """A comment header without its packet's head and framing bit; pictures in base64, as Ogg has them."""
    entries = [_comment_name(name) + b"=" + text.encode() for name, text in texts.items()]
    entries += [b"METADATA_BLOCK_PICTURE=" + base64.b64encode(flac_picture(p)) for p in pictures]
    body = b"".join(struct.pack("<I", len(entry)) + entry for entry in entries)
    return struct.pack("<I", len(vendor)) + vendor + struct.pack("<I", len(entries)) + body


def _comment_name(name: str) -> bytes:
    # 0x20 to 0x7D without "="; anything else would end or break the name.
    named = _VORBIS.get(name, name.upper())
    return re.sub(r"[^ -<>-}]", "_", named).encode("ascii")


def flac_picture(picture: Picture) -> bytes:
    """The body of a PICTURE block. Its size in pixels and colours is left open, as the format allows."""
    mime, description = picture.mime.encode("ascii", "replace"), picture.description.encode()
    head = (
        struct.pack(">II", picture.kind, len(mime)) + mime + struct.pack(">I", len(description)) + description
    )
    return head + struct.pack(">IIIII", 0, 0, 0, 0, len(picture.data)) + picture.data


def flac_blocks(texts: Mapping[str, str], pictures: Iterable[Picture], vendor: bytes) -> bytes:
    """The metadata blocks behind STREAMINFO, the last of them marked so."""
    blocks = [(4, vorbis_comments(texts, (), vendor)), *((6, flac_picture(p)) for p in pictures)]
    blocks = [(kind, body) for kind, body in blocks if len(body) <= _FLAC_BLOCK_BYTES]
    if not blocks:
        blocks = [(4, vorbis_comments({}, (), vendor))]
    last = len(blocks) - 1
    heads = (
        bytes([kind | 0x80 * (n == last)]) + len(body).to_bytes(3, "big")
        for n, (kind, body) in enumerate(blocks)
    )
    return b"".join(head + body for head, (_, body) in zip(heads, blocks, strict=True))


def mp4_user_data(texts: Mapping[str, str], pictures: Iterable[Picture]) -> bytes:
    """A ``udta`` atom with ``meta`` and ``ilst`` as iTunes writes them; nothing where there is nothing to say."""
    items = b"".join(_mp4_text(name, text) for name, text in texts.items())
    covers = b"".join(_mp4_data(_MP4_PICTURES[p.mime], p.data) for p in pictures if p.mime in _MP4_PICTURES)
    items += _atom(b"covr", covers) if covers else b""
    if not items:
        return b""
    handler = _atom(b"hdlr", bytes(8) + b"mdirappl" + bytes(9))
    return _atom(b"udta", _atom(b"meta", bytes(4) + handler + _atom(b"ilst", items)))


def _mp4_text(name: str, text: str) -> bytes:
    pair = _PAIR.fullmatch(text) if name in ("track", "disc") else None
    if pair and int(pair[1]) <= 0xFFFF and int(pair[2] or 0) <= 0xFFFF:
        numbers = struct.pack(">HHH", 0, int(pair[1]), int(pair[2] or 0))
        # The number of a disc lacks the two bytes that follow that of a track.
        return (
            _atom(b"trkn", _mp4_data(0, numbers + bytes(2)))
            if name == "track"
            else _atom(b"disk", _mp4_data(0, numbers))
        )
    if name == "compilation" and text in ("0", "1"):
        return _atom(b"cpil", _mp4_data(21, bytes([int(text)])))
    value = _mp4_data(1, text.encode())
    if name in _MP4:
        return _atom(_MP4[name], value)
    mean, called = (_atom(b"mean", bytes(4) + b"com.apple.iTunes"), _atom(b"name", bytes(4) + name.encode()))
    return _atom(b"----", mean + called + value)


def _mp4_data(kind: int, value: bytes) -> bytes:
    return _atom(b"data", struct.pack(">II", kind, 0) + value)


def _atom(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", 8 + len(body)) + name + body


def riff_chunks(texts: Mapping[str, str], pictures: Iterable[Picture]) -> bytes:
    """``LIST INFO`` in UTF-8 with the few names it has, then everything once more as ``id3 ``, which has them all."""
    info = b"".join(
        _chunk(_INFO[name], text.encode() + b"\0") for name, text in texts.items() if name in _INFO
    )
    tag = id3v2(texts, pictures)
    # libsndfile does not skip the byte behind an unknown chunk of odd length in RF64.
    tag += bytes(len(tag) & 1)
    return (_chunk(b"LIST", b"INFO" + info) if info else b"") + (_chunk(b"id3 ", tag) if tag else b"")


def _chunk(name: bytes, body: bytes) -> bytes:
    return name + struct.pack("<I", len(body)) + body + bytes(len(body) & 1)


def left_out(texts: Mapping[str, str], pictures: Iterable[Picture], container: str) -> list[str]:
    """What the dialect of ``container`` cannot hold, a line each; empty where it holds everything."""
    lines = []
    pictures = list(pictures)
    if container == "m4a":
        known = ", ".join(_MP4_PICTURES)
        lines += [f"picture of {p.mime}: m4a holds {known}" for p in pictures if p.mime not in _MP4_PICTURES]
    if container == "flac":
        over = [p for p in pictures if len(flac_picture(p)) > _FLAC_BLOCK_BYTES]
        lines += [f"picture of {len(p.data)} bytes: a block of FLAC holds 16 MiB less its head" for p in over]
        if len(vorbis_comments(texts, (), b"")) > _FLAC_BLOCK_BYTES - 64:
            lines.append("all texts: together they are longer than a block of FLAC, 16 MiB")
    return lines
