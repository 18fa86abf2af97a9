"""The few header fields that decide whether a file is complete, read without any library.

Sources: RIFF/WAVE (Microsoft RIFFNEW), RF64 (EBU Tech 3306), AIFF/AIFF-C (Apple 1989/1991), FLAC (RFC 9639),
Ogg (RFC 3533), MPEG audio frame headers (ISO/IEC 11172-3, 13818-3), ADTS (ISO/IEC 13818-7), ASF (Microsoft
2004), ID3v2.4.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

MPEG_SEARCH = 1 << 16
"""How far junk before the first MPEG frame is skipped, bytes."""

MAX_CHUNKS = 4096
"""A file of zeros is a chunk every eight bytes; real files have a dozen."""

_ASF_FILE_PROPERTIES = bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365")
_BIT_RATES = {
    (1, 1): (32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (1, 2): (32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (1, 3): (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (2, 1): (32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (2, 2): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    (2, 3): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
_MPEG1_RATES = (44100, 48000, 32000)


@dataclass(frozen=True)
class PcmHeader:
    """Sizes a WAV or AIFF header declares.

    Args:
        channels, sample_rate: as declared, unchecked.
        declared: bytes of sample data; None where the writer left the size open (a stream).
        available: bytes of sample data in the file.
        block: bytes of one sample frame, at least 1.
        byte_rate: bytes per second, at least 1.
    """

    channels: int
    sample_rate: int
    declared: int | None
    available: int
    block: int
    byte_rate: float


@dataclass(frozen=True)
class MpegFrame:
    """An MPEG audio or ADTS frame: where it starts, its length in bytes, and whether it is ADTS (AAC)."""

    offset: int
    length: int
    adts: bool
    layer: int = 0
    sample_rate: int = 0


def _chunks(data: bytes, order: str) -> Iterator[tuple[bytes, int, int]]:
    """(id, declared size, offset of the body) of the top-level chunks of a RIFF or IFF file."""
    offset = 12
    for _ in range(MAX_CHUNKS):
        if offset + 8 > len(data):
            return
        size = struct.unpack_from(order + "I", data, offset + 4)[0]
        yield data[offset : offset + 4], size, offset + 8
        offset += 8 + size + (size & 1)


def wav_header(data: bytes) -> PcmHeader | None:
    """Sizes in a RIFF, RIFX or RF64 header; None where it has no ``fmt`` before its ``data`` chunk."""
    order = ">" if data[:4] == b"RIFX" else "<"
    fmt: tuple[int, ...] | None = None
    long_size: int | None = None
    for name, size, body in _chunks(data, order):
        if name == b"ds64" and body + 16 <= len(data):
            long_size = struct.unpack_from("<Q", data, body + 8)[0]
        elif name == b"fmt " and body + 16 <= len(data):
            fmt = struct.unpack_from(order + "HHIIHH", data, body)
        elif name == b"data":
            if fmt is None:
                return None
            return _wav_sizes(fmt, _wav_data_size(data, size, long_size), len(data) - body)
    return None


def _wav_data_size(data: bytes, size: int, long_size: int | None) -> int | None:
    if data[:4] == b"RF64" and size == 0xFFFFFFFF:
        return long_size
    # Sizes that writers to a pipe leave behind: FFmpeg 0xFFFFFFFF, SoX 0x7FFFF000, arecord 0x7FFFFFFF or
    # 0x80000000, and 0 with an equally open RIFF size.
    if size >= 0xFFFFFF00 or size in (0x7FFFF000, 0x7FFFFFFF, 0x80000000):
        return None
    if size == 0 and struct.unpack_from("<I", data, 4)[0] in (0, 8, 0xFFFFFFFF):
        return None
    return size


def _wav_sizes(fmt: tuple[int, ...], declared: int | None, available: int) -> PcmHeader:
    tag, channels, rate, byte_rate, block, bits = fmt
    # PCM, float, A-law and u-law: the average byte rate is redundant there and often wrong.
    if tag in (1, 3, 6, 7) and block == channels * ((bits + 7) // 8):
        byte_rate = block * rate
    return PcmHeader(channels, rate, declared, available, max(1, block), max(1, byte_rate))


def aiff_header(data: bytes) -> PcmHeader | None:
    """Sizes in an AIFF or AIFF-C header; None without a ``COMM`` chunk before the sound data."""
    comm: tuple[int, int, int] | None = None
    for name, size, body in _chunks(data, ">"):
        if name == b"COMM" and body + 18 <= len(data):
            channels, frames, _bits, exponent, mantissa = struct.unpack_from(">HIhHQ", data, body)
            # 80-bit extended float; 64 bits of mantissa below a 15-bit exponent.
            shift = (exponent & 0x7FFF) - 16383 - 63
            rate = int(mantissa * 2.0**shift) if -63 <= shift <= 0 else 0
            comm = (channels, rate, frames)
        elif name == b"SSND" and comm is not None:
            channels, rate, frames = comm
            declared, available = max(0, size - 8), max(0, len(data) - body - 8)
            seconds = frames / rate if rate else 0.0
            byte_rate = declared / seconds if seconds else 1.0
            return PcmHeader(
                channels, rate, declared, available, max(1, declared // max(1, frames)), byte_rate
            )
    return None


def flac_total(data: bytes) -> int:
    """Samples per channel in the STREAMINFO of a native FLAC file; 0 where unknown."""
    return int.from_bytes(data[18:26], "big") & ((1 << 36) - 1) if len(data) >= 26 else 0


def flac_is_empty(data: bytes) -> bool:
    """Whether a native FLAC file of undeclared length ends with its metadata."""
    if flac_total(data):
        return False
    offset, last = 4, False
    while not last and offset + 4 <= len(data):
        last = bool(data[offset] & 0x80)
        offset += 4 + int.from_bytes(data[offset + 1 : offset + 4], "big")
    return last and offset == len(data)


def asf_seconds(data: bytes) -> float | None:
    """Play duration in the File Properties object of an ASF file; None for a broadcast, or without one."""
    at = data.find(_ASF_FILE_PROPERTIES, 0, 1 << 16)
    if at < 0 or at + 92 > len(data):
        return None
    play, _send, preroll, flags = struct.unpack_from("<QQQI", data, at + 64)
    # Play duration counts 100 ns and includes the preroll, which counts ms.
    return None if flags & 1 else max(0.0, play / 1e7 - preroll / 1e3)


def ogg_ends_inside_page(data: bytes) -> bool:
    """Whether the last Ogg page is cut short."""
    last = data.rfind(b"OggS")
    if last < 0 or last + 27 > len(data):
        return last >= 0
    table = data[last + 27 : last + 27 + data[last + 26]]
    return len(table) < data[last + 26] or last + 27 + len(table) + sum(table) > len(data)


def skip_id3(data: bytes) -> int:
    """Offset behind the ID3v2 tags a file begins with; 0 if there are none."""
    offset = 0
    while data[offset : offset + 3] == b"ID3" and offset + 10 <= len(data):
        a, b, c, d = data[offset + 6 : offset + 10]
        footer = 10 if data[offset + 5] & 0x10 else 0
        offset += 10 + footer + ((a & 127) << 21 | (b & 127) << 14 | (c & 127) << 7 | d & 127)
    return offset


def mpeg_frame(data: bytes, offset: int) -> MpegFrame | None:
    """The frame whose header is at ``offset``, or None."""
    head = data[offset : offset + 7]
    if len(head) < 6 or head[0] != 0xFF or head[1] & 0xE0 != 0xE0:
        return None
    if head[1] & 0xF6 == 0xF0:
        length = (head[3] & 3) << 11 | head[4] << 3 | head[5] >> 5
        return MpegFrame(offset, length, True) if length > 7 and head[2] >> 2 & 15 < 13 else None
    version, layer = head[1] >> 3 & 3, 4 - (head[1] >> 1 & 3)
    rate_index, bits_index, padding = head[2] >> 2 & 3, head[2] >> 4, head[2] >> 1 & 1
    if version == 1 or layer == 4 or rate_index == 3 or not 1 <= bits_index <= 14:
        return None
    rate = _MPEG1_RATES[rate_index] >> {3: 0, 2: 1, 0: 2}[version]
    bits = 1000 * _BIT_RATES[1 if version == 3 else 2, layer][bits_index - 1]
    if layer == 1:
        return MpegFrame(offset, (12 * bits // rate + padding) * 4, False, layer, rate)
    samples = 576 if layer == 3 and version != 3 else 1152
    return MpegFrame(offset, samples // 8 * bits // rate + padding, False, layer, rate)


def find_mpeg_frame(data: bytes, start: int) -> MpegFrame | None:
    """The first frame that two like it follow (or the end of the file), within 64 KiB of ``start``."""
    offset = data.find(b"\xff", start)
    while 0 <= offset < start + MPEG_SEARCH:
        frame = mpeg_frame(data, offset)
        if frame is not None and _chained(data, frame):
            return frame
        offset = data.find(b"\xff", offset + 1)
    return None


def _chained(data: bytes, first: MpegFrame) -> bool:
    frame = first
    for _ in range(2):
        end = frame.offset + frame.length
        if end == len(data):
            return True
        following = mpeg_frame(data, end)
        if following is None or (following.adts, following.layer, following.sample_rate) != (
            first.adts,
            first.layer,
            first.sample_rate,
        ):
            return False
        frame = following
    return True


def xing_covers(data: bytes, frame: MpegFrame) -> bool:
    """Whether a Xing or Info header in ``frame`` counts the frames of (nearly) all bytes behind it.

    Files joined end to end keep the header of their first part, which counts that part only.
    """
    body = data[frame.offset : frame.offset + frame.length]
    at = max(body.find(b"Xing", 4, 64), body.find(b"Info", 4, 64))
    if at < 0 or at + 16 > len(body):
        return False
    flags, _frames, size = struct.unpack_from(">III", body, at + 4)
    if not flags & 1:
        return False
    return not flags & 2 or len(data) - frame.offset <= 1.01 * size + 4096
