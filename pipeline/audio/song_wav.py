"""32-bit float WAV of any length, written by hand: its header is small, and no encoder is needed."""

from __future__ import annotations

import struct
from typing import BinaryIO

import numpy as np

from pipeline.audio.song_dialects import riff_chunks
from pipeline.audio.song_formats import SongFormat
from pipeline.audio.song_tags import SongTags

# What the 32 bits of a RIFF file's size hold.
_LARGEST_RIFF = 0xFFFFFFFF


class WavSink:
    """32-bit float WAV; from 4 GiB on it is RF64 (EBU Tech 3306), for which room is left in front."""

    lead = 0
    block = 1 << 14

    def __init__(
        self, out: BinaryIO, form: SongFormat, sample_rate: int, channels: int, tags: SongTags
    ) -> None:
        self.out, self.start, self.frame = out, out.tell(), 4 * channels
        rate = struct.pack("<IIHH", sample_rate, sample_rate * self.frame, self.frame, 32)
        if channels <= 2:
            fmt = struct.pack("<HH", 3, channels) + rate + b"\0\0"
        else:
            # WAVE_FORMAT_EXTENSIBLE with KSDATAFORMAT_SUBTYPE_IEEE_FLOAT; the mask is that of the usual layout.
            guid = bytes.fromhex("0300000000001000800000aa00389b71")
            mask = {3: 0x7, 4: 0x33, 5: 0x37, 6: 0x3F, 7: 0x70F, 8: 0x63F}.get(channels, 0)
            fmt = struct.pack("<HH", 0xFFFE, channels) + rate + struct.pack("<HHI", 22, 32, mask) + guid
        out.write(b"RIFF\0\0\0\0WAVE" + b"JUNK" + struct.pack("<I", 28) + bytes(28))
        out.write(b"fmt " + struct.pack("<I", len(fmt)) + fmt)
        self.fact = out.tell() + 8
        out.write(
            b"fact" + struct.pack("<II", 4, 0) + riff_chunks(tags.texts, tags.pictures) + b"data\0\0\0\0"
        )
        self.data = out.tell()

    def write(self, chunk: np.ndarray) -> None:
        self.out.write(np.ascontiguousarray(chunk.T, dtype="<f4").data)

    def finish(self, samples: int) -> None:
        end, size = self.data + samples * self.frame, samples * self.frame
        whole = end - self.start - 8
        if whole > _LARGEST_RIFF:
            self._put(
                self.start,
                b"RF64\xff\xff\xff\xffWAVEds64" + struct.pack("<IQQQI", 28, whole, size, samples, 0),
            )
            self._put(self.fact, b"\xff\xff\xff\xff")
            self._put(self.data - 4, b"\xff\xff\xff\xff")
        else:
            self._put(self.start + 4, struct.pack("<I", whole))
            self._put(self.fact, struct.pack("<I", samples))
            self._put(self.data - 4, struct.pack("<I", size))
        self.out.seek(end)

    def _put(self, at: int, data: bytes) -> None:
        self.out.seek(at)
        self.out.write(data)

    def abandon(self) -> None:
        """Nothing is held."""
