"""WAV files that are sent before they are whole: their length is known, and so is every byte of their header."""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass

import numpy as np

from pipeline.audio.dither import Quantizer

BITS = (16, 24, 32)
"""Of a sample; 32 are floats."""

_INTEGER, _FLOAT, _EXTENSIBLE = 1, 3, 0xFFFE
# KSDATAFORMAT_SUBTYPE_PCM and _IEEE_FLOAT but for their first two bytes, which are the format's number.
_GUID = bytes.fromhex("000000001000800000aa00389b71")
# Loudspeakers of the usual layouts.
_MASKS = {3: 0x7, 4: 0x33, 5: 0x37, 6: 0x3F, 7: 0x70F, 8: 0x63F}
_LARGEST_RIFF = 0xFFFFFFFF
_RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})")


@dataclass(frozen=True)
class WavForm:
    """What a WAV file holds.

    Args:
        sample_rate: Hz.
        channels: number of channels.
        samples: per channel.
        bits: of `BITS`.
    """

    sample_rate: int
    channels: int
    samples: int
    bits: int = 16

    @property
    def frame(self) -> int:
        """Bytes of a sample of all channels."""
        return self.channels * self.bits // 8

    def header(self) -> bytes:
        """All that comes before the samples; from 4 GiB on as RF64 (EBU Tech 3306)."""
        size = self.samples * self.frame
        kind = _FLOAT if self.bits == 32 else _INTEGER
        rate = struct.pack("<IIHH", self.sample_rate, self.sample_rate * self.frame, self.frame, self.bits)
        if self.channels <= 2:
            fmt = struct.pack("<HH", kind, self.channels) + rate
        else:
            more = struct.pack("<HHIH", 22, self.bits, _MASKS.get(self.channels, 0), kind) + _GUID
            fmt = struct.pack("<HH", _EXTENSIBLE, self.channels) + rate + more
        chunks = b"fmt " + struct.pack("<I", len(fmt)) + fmt
        whole = 4 + len(chunks) + 8 + size + size % 2
        if whole <= _LARGEST_RIFF:
            return b"RIFF" + struct.pack("<I", whole) + b"WAVE" + chunks + b"data" + struct.pack("<I", size)
        long = b"ds64" + struct.pack("<IQQQI", 28, whole + 36, size, self.samples, 0)
        return b"RF64\xff\xff\xff\xffWAVE" + long + chunks + b"data\xff\xff\xff\xff"

    @property
    def bytes(self) -> int:
        """Length of the file."""
        size = self.samples * self.frame
        return len(self.header()) + size + size % 2


class Encoder:
    """Float samples to those of a file, piece after piece.

    Args:
        form: of the file.
    """

    def __init__(self, form: WavForm) -> None:
        self._form, self._done = form, 0
        self._quantizer = None if form.bits == 32 else Quantizer(form.bits)

    def bytes(self, block: np.ndarray) -> bytes:
        """Float32 ``[channels, n]`` as the file has them; behind the last sample comes what makes the length even."""
        self._done += block.shape[1]
        size = self._form.samples * self._form.frame
        odd = b"\0" if self._done == self._form.samples and size % 2 else b""
        if self._quantizer is None:
            return np.ascontiguousarray(block.T, dtype="<f4").tobytes() + odd
        whole = np.ascontiguousarray(self._quantizer.integers(block).T, dtype="<i4")
        if self._form.bits == 16:
            return whole.astype("<i2").tobytes() + odd
        return whole.view(np.uint8).reshape(-1, 4)[:, :3].tobytes() + odd


def wanted_bytes(header: str | None, size: int) -> tuple[int, int] | None:
    """First byte of a ``Range`` and the one behind its last; None for all, where it asks for none that is understood.

    Raises:
        ValueError: no such bytes are there.
    """
    found = _RANGE.fullmatch(header.replace(" ", "")) if header else None
    if found is None or found.group() == "bytes=-":
        return None
    first, last = found.groups()
    if not first:
        start, stop = max(0, size - int(last)), size
    elif last and int(last) < int(first):
        return None  # not a range: RFC 9110, 14.1.1
    else:
        start, stop = int(first), min(size, int(last) + 1) if last else size
    if start >= stop:
        raise ValueError(f"bytes {header} of {size}")
    return start, stop
