"""The few header fields that decide whether a file is complete, read without any library.

Sources: RIFF/WAVE (Microsoft RIFFNEW), RF64 (EBU Tech 3306), AIFF/AIFF-C (Apple 1989/1991), FLAC (RFC 9639),
Ogg (RFC 3533), MPEG audio frame headers (ISO/IEC 11172-3, 13818-3), ADTS (ISO/IEC 13818-7), AC-3 and E-AC-3
(ATSC A/52), ASF (Microsoft 2004), ID3v2.4.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import KW_ONLY, dataclass

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
_OF_THE_SOUND = {
    b"fmt ", b"fact", b"ds64", b"data", b"PEAK", b"JUNK", b"PAD ", b"FLLR", b"FVER", b"COMM", b"SSND",
}  # fmt: skip
_EXTENSIBLE = 0xFFFE
_MPEG_TAGS = {0x50, 0x55}  # WAVE_FORMAT_MPEG, WAVE_FORMAT_MPEGLAYER3
# ATSC A/52, table 5.18: kbit/s, two codes each.
_AC3_BIT_RATES = (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384, 448, 512, 576, 640)
_AC3_RATES = (48000, 44100, 32000)


@dataclass(frozen=True)
class PcmHeader:
    """Sizes a WAV or AIFF header declares.

    Args:
        channels, sample_rate: as declared, unchecked.
        declared: bytes of sample data; None where the writer left the size open (a stream).
        available: bytes of sample data in the file.
        block: bytes of one sample frame, at least 1.
        byte_rate: bytes per second, at least 1.
        mpeg: whether the samples are MPEG audio frames.
    """

    channels: int
    sample_rate: int
    declared: int | None
    available: int
    block: int
    _: KW_ONLY
    byte_rate: float
    mpeg: bool = False


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


def is_untagged(data: bytes) -> bool:
    """Whether a WAV or AIFF file has none but the chunks of the sound, which hold no tags."""
    order = "<" if data[:4] in (b"RIFF", b"RF64") else ">"
    return all(name in _OF_THE_SOUND for name, _, _ in _chunks(data, order))


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
            if fmt[0] == _EXTENSIBLE and size >= 40 and body + 26 <= len(data):
                # The tag is then the beginning of the sub-format's GUID.
                fmt = (*struct.unpack_from(order + "H", data, body + 24), *fmt[1:])
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
    return PcmHeader(
        channels,
        rate,
        declared,
        available,
        max(1, block),
        byte_rate=max(1, byte_rate),
        mpeg=tag in _MPEG_TAGS,
    )


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
                channels, rate, declared, available, max(1, declared // max(1, frames)), byte_rate=byte_rate
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


def flac_bits(streaminfo: bytes) -> int | None:
    """Bits per sample in a STREAMINFO block without its head; None where it is cut short."""
    return ((streaminfo[12] & 1) << 4 | streaminfo[13] >> 4) + 1 if len(streaminfo) >= 14 else None


def flac_audio_start(data: bytes) -> int:
    """Offset of the first frame of a native FLAC file, behind its metadata."""
    offset, last = 4, False
    while not last and offset + 4 <= len(data):
        last = bool(data[offset] & 0x80)
        offset += 4 + int.from_bytes(data[offset + 1 : offset + 4], "big")
    return offset if last else len(data)


def asf_seconds(data: bytes) -> float | None:
    """Play duration in the File Properties object of an ASF file; None for a broadcast, or without one."""
    at = data.find(_ASF_FILE_PROPERTIES, 0, 1 << 16)
    if at < 0 or at + 92 > len(data):
        return None
    play, _send, preroll, flags = struct.unpack_from("<QQQI", data, at + 64)
    # Play duration counts 100 ns and includes the preroll, which counts ms.
    return None if flags & 1 else max(0.0, play / 1e7 - preroll / 1e3)


def ogg_audio_start(data: bytes) -> int:
    """Offset of the first page that ends a packet of samples: what is in front of it are headers and tags."""
    offset = 0
    while data[offset : offset + 4] == b"OggS" and offset + 27 <= len(data):
        if struct.unpack_from("<q", data, offset + 6)[0] > 0:
            return offset
        table = data[offset + 27 : offset + 27 + data[offset + 26]]
        offset += 27 + len(table) + sum(table)
    return len(data)


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


@dataclass(frozen=True)
class Ac3Frame:
    """An AC-3 or E-AC-3 syncframe: its length in bytes, and whether it is E-AC-3."""

    length: int
    enhanced: bool


def ac3_frame(data: bytes, offset: int) -> Ac3Frame | None:
    """The syncframe at ``offset``, or None. ATSC A/52, 5.3.1, 5.3.2 and E.1.2."""
    head = data[offset : offset + 6]
    if len(head) < 6 or head[:2] != b"\x0b\x77":
        return None
    version = head[5] >> 3
    if 11 <= version <= 16:
        return Ac3Frame(2 * (((head[2] & 7) << 8 | head[3]) + 1), True)
    rate, size = head[4] >> 6, head[4] & 63
    if version > 10 or rate == 3 or size >= 2 * len(_AC3_BIT_RATES):
        return None
    # 1536 samples a frame, in words of 16 bits; where that does not come out even every other frame is one longer.
    words = 96000 * _AC3_BIT_RATES[size >> 1] // _AC3_RATES[rate] + (size & 1 if rate == 1 else 0)
    return Ac3Frame(2 * words, False)


def ac3_stream(data: bytes, start: int) -> Ac3Frame | None:
    """The syncframe at ``start``, if two like it follow (or the end of the file)."""
    first, offset = ac3_frame(data, start), start
    frame = first
    for _ in range(2):
        if frame is None or frame.enhanced != first.enhanced:
            return None
        offset += frame.length
        if offset >= len(data):
            return first
        frame = ac3_frame(data, offset)
    return first if frame is not None and frame.enhanced == first.enhanced else None


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
