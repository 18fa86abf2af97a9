"""Where the samples of a song go: one sink per format, each with its encoder, its tags and what its end needs."""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Iterator
from fractions import Fraction
from typing import BinaryIO, Protocol

import av
import numpy as np
import soundfile

from pipeline.audio import headers
from pipeline.audio.dither import Quantizer
from pipeline.audio.encode import EncodeError
from pipeline.audio.song_dialects import flac_blocks, id3v2, mp4_user_data, vorbis_comments
from pipeline.audio.song_formats import LAYOUTS, SongFormat
from pipeline.audio.song_ogg import OggRewriter
from pipeline.audio.song_tags import SongTags
from pipeline.audio.song_wav import WavSink

_VENDOR = b"soundmill"
_LAMBDA = 118
"""FFmpeg's unit of quality, FF_QP2LAMBDA."""

_LAME_DELAY = 576


class Sink(Protocol):
    """Takes a track in chunks of ``block`` samples, of which only the last is shorter."""

    block: int
    lead: int
    """Zeros in front of the track, which the file then says are none of it."""

    def write(self, chunk: np.ndarray) -> None:
        """Float32 ``[channels, n]``, finite, good until the call returns."""

    def finish(self, samples: int) -> None:
        """Complete the file of a track of that length, which is above 0 but for wav."""

    def abandon(self) -> None:
        """Let go of the encoder; the file is of no use."""


class Part:
    """The rest of a file from its current position on, as a file of its own."""

    def __init__(self, out: BinaryIO) -> None:
        self._out = out
        self._start = out.tell()

    def write(self, data: bytes) -> int:
        return self._out.write(data)

    def read(self, size: int = -1) -> bytes:
        return self._out.read(size)

    def tell(self) -> int:
        return self._out.tell() - self._start

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._out.seek(offset + self._start if whence == 0 else offset, whence) - self._start


class FFmpegEncoder:
    """An encoder of FFmpeg; without a muxer ``encode`` returns bare packets."""

    def __init__(self, codec: str, sample_rate: int, channels: int, form: str) -> None:
        self.form, self.layout, self.sample_rate = form, LAYOUTS[channels], sample_rate
        self.codec = codec
        self.position = 0

    def prepared(self, context: av.AudioCodecContext, options: dict[str, str]) -> None:
        context.thread_count = 1
        context.options = {"flags": "+bitexact", **options}
        context.open()

    def frame(self, values: np.ndarray) -> av.AudioFrame:
        """``[channels, n]`` of the type of ``form``."""
        planes = values if self.form.endswith("p") else values.T.reshape(1, -1)
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(planes), format=self.form, layout=self.layout)
        frame.sample_rate, frame.time_base = self.sample_rate, Fraction(1, self.sample_rate)
        frame.pts = self.position
        self.position += values.shape[1]
        return frame


class _Muxed:
    """An encoder of FFmpeg with a muxer of FFmpeg behind it."""

    lead = 0

    def __init__(
        self,
        out: object,
        muxer: tuple[str, dict[str, str]],
        encoder: FFmpegEncoder,
        options: dict[str, str],
        bit_rate: int,
    ) -> None:
        name, muxer_options = muxer
        self.encoder = encoder
        # Without "bitexact" muxers write random ids and their version.
        self.container = av.open(
            out, "w", format=name, container_options={"fflags": "+bitexact", **muxer_options}
        )
        self.stream = self.container.add_stream(
            encoder.codec, rate=encoder.sample_rate, layout=encoder.layout
        )
        self.stream.format = encoder.form
        if bit_rate:
            self.stream.bit_rate = bit_rate
        encoder.prepared(self.stream.codec_context, options)
        self.block = self.stream.codec_context.frame_size

    def write(self, chunk: np.ndarray) -> None:
        self.container.mux(self.stream.encode(self.encoder.frame(chunk)))

    def end(self) -> None:
        self.container.mux(self.stream.encode(None))
        self.container.close()

    def abandon(self) -> None:
        with contextlib.suppress(av.FFmpegError, OSError, ValueError):
            self.container.close()


class Mp3Sink(_Muxed):
    """LAME, joint stereo, behind an ID3v2.4 tag and a frame with a LAME header."""

    def __init__(
        self, out: BinaryIO, form: SongFormat, sample_rate: int, channels: int, tags: SongTags
    ) -> None:
        out.write(id3v2(tags.texts, tags.pictures))
        self.part = Part(out)
        options = {"joint_stereo": "1"}
        if form.quality is not None:
            options |= {"flags": "+bitexact+qscale", "global_quality": str(round(form.quality * _LAMBDA))}
        rate = 0 if form.quality is not None else form.bits_per_second(sample_rate, channels)
        encoder = FFmpegEncoder("libmp3lame", sample_rate, channels, "fltp")
        super().__init__(
            self.part, ("mp3", {"id3v2_version": "0", "write_id3v1": "0"}), encoder, options, rate
        )

    def finish(self, samples: int) -> None:
        self.end()
        end = self.part.tell()
        self.part.seek(0)
        frame = self.part.read(4096)
        self.part.seek(0)
        self.part.write(with_padding(frame, samples))
        self.part.seek(end)


def with_padding(frame: bytes, samples: int) -> bytes:
    """The first frame of an MP3 whose LAME header says how much the encoder added behind ``samples``.

    FFmpeg counts no more padding than one frame's, and LAME may add nearly two. Source: LAME, ``VbrTag.c``.

    Raises:
        EncodeError: it has no such header.
    """
    found = headers.mpeg_frame(frame, 0)
    mono, first_version = frame[3] >> 6 == 3, frame[1] >> 3 & 3 == 3
    side = ((17 if mono else 32) if first_version else (9 if mono else 17)) + 4
    if found is None or frame[side : side + 4] not in (b"Xing", b"Info") or len(frame) < side + 156:
        raise EncodeError("FFmpeg wrote no LAME header into the mp3: choose m4a, ogg or flac")
    frames = struct.unpack_from(">I", frame, side + 8)[0]
    padding = frames * (1152 if first_version else 576) - _LAME_DELAY - samples
    if not 0 <= padding < 4096:
        raise EncodeError(
            f"mp3 cannot say that {padding} samples of its {frames} frames are padding: choose flac"
        )
    head = bytearray(frame)
    head[side + 141 : side + 144] = (_LAME_DELAY << 12 | padding).to_bytes(3, "big")
    head[side + 154 : side + 156] = _crc16(bytes(head[: side + 154])).to_bytes(2, "big")
    return bytes(head)


def _crc16(data: bytes) -> int:
    crc = 0
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0xA001 if crc & 1 else 0)
    return crc


class OpusSink(_Muxed):
    """Opus in Ogg; the pre-skip and the last granule position cut it to the length of the track."""

    def __init__(
        self, out: BinaryIO, form: SongFormat, sample_rate: int, channels: int, tags: SongTags
    ) -> None:
        self.pages = OggRewriter(out, lambda vendor: vorbis_comments(tags.texts, tags.pictures, vendor))
        encoder = FFmpegEncoder("libopus", sample_rate, channels, "flt")
        super().__init__(self.pages, ("ogg", {}), encoder, {}, form.bits_per_second(sample_rate, channels))

    def finish(self, samples: int) -> None:
        self.end()
        self.pages.finish()


class M4aSink(_Muxed):
    """AAC in MP4; the edit list says where the track begins and how long it is.

    FFmpeg's decoder takes its beginning from there, and not its end: it hands out the last frame whole. Where the
    length is known from the start, zeros go in front of the track so that it ends with a frame, and the edit list cuts
    them off. FFmpeg loses a track that is shorter than a frame if it lies behind zeros; such a one gets none.
    """

    def __init__(
        self,
        out: BinaryIO,
        form: SongFormat,
        sample_rate: int,
        channels: int,
        tags: SongTags,
        *,
        samples: int | None,
    ) -> None:
        self.out, self.tags = out, tags
        self.part = Part(out)
        encoder = FFmpegEncoder("aac", sample_rate, channels, "fltp")
        # In the default clock of milliseconds an edit list is not exact.
        muxer = ("ipod", {"movie_timescale": str(sample_rate)})
        super().__init__(self.part, muxer, encoder, {}, form.bits_per_second(sample_rate, channels))
        if samples is not None and samples >= self.block:
            self.lead = -samples % self.block
            encoder.position = -self.lead

    def finish(self, samples: int) -> None:
        self.end()
        data = mp4_user_data(self.tags.texts, self.tags.pictures)
        end = self.part.seek(0, 2)
        at, size = _last_atom(self.part, end)
        if size + len(data) >= 1 << 32:
            raise EncodeError(
                "the tags and the index of an m4a are 4 GiB at most: leave pictures out, or choose flac"
            )
        self.part.seek(at)
        self.part.write(struct.pack(">I", size + len(data)))
        self.part.seek(end)
        self.part.write(data)


def _last_atom(part: Part, end: int) -> tuple[int, int]:
    """Offset and size of the ``moov`` atom, which FFmpeg writes last."""
    at, size, name = 0, 0, b""
    while at + 8 <= end:
        part.seek(at)
        size, name = struct.unpack(">I4s", part.read(8))
        length = struct.unpack(">Q", part.read(8))[0] if size == 1 else size
        if length < 8 or at + length >= end:
            break
        at += length
    if name != b"moov" or at + size != end:
        raise EncodeError("FFmpeg did not end the m4a with its index: choose mp3, ogg or flac")
    return at, size


class FlacSink:
    """FLAC as the specification has it: STREAMINFO, comments and pictures, then the encoder's frames."""

    lead = 0

    def __init__(
        self, out: BinaryIO, form: SongFormat, sample_rate: int, channels: int, tags: SongTags
    ) -> None:
        bits = form.bits or 24
        self.quantizer = Quantizer(bits)
        # FFmpeg takes 24 bits as the upper ones of 32.
        self.shift, self.type = (8, np.int32) if bits == 24 else (0, np.int16)
        self.encoder = FFmpegEncoder("flac", sample_rate, channels, "s32" if bits == 24 else "s16")
        self.context = av.CodecContext.create("flac", "w")
        self.context.sample_rate, self.context.time_base = sample_rate, Fraction(1, sample_rate)
        self.context.layout, self.context.format = self.encoder.layout, self.encoder.form
        self.encoder.prepared(self.context, {})
        self.block = self.context.frame_size
        self.out, self.start, self.info = out, out.tell(), b""
        out.write(b"fLaC" + b"\0\0\0\x22" + bytes(34) + flac_blocks(tags.texts, tags.pictures, _VENDOR))

    def write(self, chunk: np.ndarray) -> None:
        integers = (self.quantizer.integers(chunk) << self.shift).astype(self.type)
        self._put(self.context.encode(self.encoder.frame(integers)))

    def _put(self, packets: list[av.Packet]) -> None:
        for packet in packets:
            # Length and MD5 of the samples come with the last packet; the encoder's own extradata has no MD5.
            for side in packet.iter_sidedata():
                if side.data_type == "new_extradata":
                    self.info = bytes(side)
            if packet.size:
                self.out.write(bytes(packet))

    def finish(self, samples: int) -> None:
        self._put(self.context.encode(None))
        end = self.out.tell()
        if len(self.info) != 34:
            raise EncodeError("FFmpeg's encoder of flac left no STREAMINFO: choose wav")
        self.out.seek(self.start + 8)
        self.out.write(self.info)
        self.out.seek(end)

    def abandon(self) -> None:
        """Nothing is held."""


class VorbisSink:
    """Vorbis in Ogg by libsndfile."""

    lead = 0
    # libsndfile's encoder keeps a whole write on the stack.
    block = 1 << 14

    def __init__(
        self, out: BinaryIO, form: SongFormat, sample_rate: int, channels: int, tags: SongTags
    ) -> None:
        self.pages = OggRewriter(out, lambda vendor: vorbis_comments(tags.texts, tags.pictures, vendor))
        quality = 7.0 if form.quality is None else form.quality
        # libsndfile's scale runs the other way.
        self.file = soundfile.SoundFile(
            self.pages, "w", sample_rate, channels, format="OGG", subtype="VORBIS",
            compression_level=1.0 - quality / 10.0,
        )  # fmt: skip

    def write(self, chunk: np.ndarray) -> None:
        self.file.write(chunk.T)

    def finish(self, samples: int) -> None:
        self.file.close()
        self.pages.finish()

    def abandon(self) -> None:
        with contextlib.suppress(soundfile.LibsndfileError, OSError, ValueError):
            self.file.close()


@contextlib.contextmanager
def explained(form: SongFormat, sample_rate: int, channels: int) -> Iterator[None]:
    """What an encoder refuses, as `EncodeError`; what the disk refuses stays `OSError`."""
    try:
        yield
    except EncodeError:
        raise
    except (av.FFmpegError, soundfile.LibsndfileError, ValueError) as error:
        words = getattr(error, "strerror", None) or getattr(error, "error_string", None) or str(error)
        held = f"{form.name} at {sample_rate} Hz with {channels} channels"
        raise EncodeError(f"{held}: {words}; choose another rate, or wav") from error


def opened_sink(
    out: BinaryIO, form: SongFormat, sample_rate: int, channels: int, tags: SongTags, *, samples: int | None
) -> Sink:
    """The sink of ``form``, with all that stands in front of the samples written. Raises `EncodeError`."""
    with explained(form, sample_rate, channels):
        if form.name == "m4a":
            return M4aSink(out, form, sample_rate, channels, tags, samples=samples)
        sinks = {"mp3": Mp3Sink, "opus": OpusSink, "flac": FlacSink, "ogg": VorbisSink, "wav": WavSink}
        return sinks[form.name](out, form, sample_rate, channels, tags)
