"""What a file is, from its bytes: never from its name, and never by letting a demuxer guess.

FFmpeg's own probing is not used on purpose. It would take a text file for a playlist and open the files and
URLs named in it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from pipeline.audio import headers


@dataclass(frozen=True)
class Kind:
    """A recognised format.

    Args:
        container: conventional lower-case name (``wav``, ``flac``, ``m4a``, ``matroska``, ...).
        demuxer: the FFmpeg demuxer that reads it.
        soundfile: whether libsndfile reads this file completely and correctly; if not, FFmpeg does.
    """

    container: str
    demuxer: str
    soundfile: bool = False


# (offset, magic bytes, kind); formats that need a closer look are in `sniff`.
_MAGIC: tuple[tuple[int, bytes, Kind], ...] = (
    (0, b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", Kind("asf", "asf")),
    (0, b"caff", Kind("caf", "caf")),
    (0, b".snd", Kind("au", "au")),
    (0, b"riff\x2e\x91\xcf\x11", Kind("w64", "w64")),
    (0, b"NIST_1A", Kind("nist", "nistsphere")),
    (0, b"#!AMR", Kind("amr", "amr")),
    (0, b"FLV\x01", Kind("flv", "flv")),
    (0, b"wvpk", Kind("wavpack", "wv")),
    (0, b"MAC ", Kind("ape", "ape")),
    (0, b"TTA1", Kind("tta", "tta")),
    (0, b"DSD ", Kind("dsf", "dsf")),
    (0, b"MPCK", Kind("musepack", "mpc8")),
    (0, b"MP+", Kind("musepack", "mpc")),
    (0, b"\x00\x00\x01\xba", Kind("mpeg", "mpeg")),
    (4, b"moov", Kind("mov", "mov")),
    (4, b"mdat", Kind("mov", "mov")),
    (4, b"wide", Kind("mov", "mov")),
)


def sniff(data: bytes) -> Kind | None:
    """The format of ``data``, or None for anything that is not audio or video."""
    start = headers.skip_id3(data)
    head = data[start : start + 64]
    kind = _by_magic(data, start, head)
    if kind is not None:
        return kind
    frame = headers.find_mpeg_frame(data, start)
    if frame is not None:
        return _mpeg(data, frame)
    # A tag without a recognisable frame behind it: let the decoder say what is wrong.
    return Kind("mp3", "mp3") if start else None


def _by_magic(data: bytes, start: int, head: bytes) -> Kind | None:
    if head[:4] in (b"RIFF", b"RF64", b"RIFX"):
        return _riff(head)
    if head[:4] == b"FORM" and head[8:12] in (b"AIFF", b"AIFC"):
        return Kind("aiff", "aiff", soundfile=True)
    if head[:4] == b"fLaC":
        # libsndfile cannot read a stream of unknown length; a tag before the magic confuses it too.
        return Kind("flac", "flac", soundfile=start == 0 and headers.flac_total(data) > 0)
    if head[:4] == b"OggS":
        return Kind("ogg", "ogg", soundfile=start == 0 and _plain_ogg(data))
    if head[4:8] == b"ftyp":
        return Kind(_mp4_brand(head[8:12]), "mov")
    if head[:4] == b"\x1a\x45\xdf\xa3":
        return Kind("webm" if b"webm" in head else "matroska", "matroska")
    ac3 = headers.ac3_stream(data, start)
    if ac3 is not None:
        name = "eac3" if ac3.enhanced else "ac3"
        return Kind(name, name)
    if data[start : start + 377 : 188] == b"\x47\x47\x47":
        return Kind("mpegts", "mpegts")
    for offset, magic, kind in _MAGIC:
        if head[offset : offset + len(magic)] == magic:
            return kind
    return None


def _riff(head: bytes) -> Kind | None:
    if head[8:12] == b"WAVE":
        return Kind("wav", "wav", soundfile=True)
    return Kind("avi", "avi") if head[8:12] == b"AVI " else None


def _mp4_brand(brand: bytes) -> str:
    if brand in (b"M4A ", b"M4B ", b"M4P "):
        return "m4a"
    return "mov" if brand == b"qt  " else "mp4"


def _plain_ogg(data: bytes) -> bool:
    """Whether this is one Vorbis stream of one or two channels, or one FLAC stream.

    libsndfile reads only the first link of a chained file, and hands Vorbis surround out in Vorbis's own
    channel order; FFmpeg does both right.
    """
    first = data[28:48]
    vorbis = first[:7] == b"\x01vorbis" and first[11:12] in (b"\x01", b"\x02")
    if not vorbis and first[:5] != b"\x7fFLAC":
        return False
    return len(re.findall(rb"OggS\x00[\x02\x06]", data)) == 1


def _mpeg(data: bytes, frame: headers.MpegFrame) -> Kind:
    if frame.adts:
        return Kind("aac", "aac")
    # Without a frame count in a Xing or Info header libsndfile guesses one from the first frame's bit rate
    # and stops there: a variable-bit-rate file would silently lose most of its audio.
    return Kind("mp3", "mp3", soundfile=headers.xing_covers(data, frame))
