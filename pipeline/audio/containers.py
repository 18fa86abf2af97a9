"""Decoding through FFmpeg (PyAV): the sound track of containers that libsndfile does not read."""

from __future__ import annotations

import io
from dataclasses import dataclass

import av
import numpy as np

from pipeline.audio import headers
from pipeline.audio.sniff import Kind
from pipeline.audio.validate import (
    CorruptAudio,
    EmptyAudio,
    Limits,
    NoAudioStream,
    SampleBuffer,
    TruncatedAudio,
    UnrecognizedFormat,
    check_header,
    truncated,
)

# Demuxers whose duration is written in the file. Elsewhere FFmpeg estimates it from the bit rate.
_DECLARE_DURATION = {"mov", "flac", "aiff", "caf", "au", "w64", "wv", "ape", "tta", "dsf"}
# Streams of bare frames: junk between frames (tags, joints) is skipped by every player, and by us.
_BARE_FRAMES = {"mp3", "aac", "amr", "mpeg", "mpegts"}
# (offset, divisor) to full scale 1.
_SCALE = {
    "u8": (128.0, 128.0),
    "s16": (0.0, 2.0**15),
    "s32": (0.0, 2.0**31),
    "s64": (0.0, 2.0**63),
    "flt": (0.0, 1.0),
    "dbl": (0.0, 1.0),
}


@dataclass(frozen=True)
class Track:
    """The decoded sound track: float32 ``[channels, samples]``, its rate, codec and what was repaired."""

    samples: np.ndarray
    sample_rate: int
    codec: str
    replaced_samples: int
    damaged_packets: int


def decode_track(data: bytes, kind: Kind, limits: Limits) -> Track:
    """Decode the first sound track; pictures are never decoded.

    Raises:
        DecodeError: one of its subclasses, as `pipeline.audio.decode.decode` documents.
    """
    try:
        with open_container(data, kind) as container:
            stream = first_audio(container)
            return _Reader(data, kind, limits).read(container, stream)
    except av.FFmpegError as error:
        raise CorruptAudio(f"FFmpeg: {reason(error)}") from error


def open_container(data: bytes, kind: Kind) -> av.container.InputContainer:
    """Open ``data`` with exactly the demuxer of ``kind``. Raises ``av.FFmpegError``."""
    return av.open(io.BytesIO(data), format=kind.demuxer, metadata_errors="replace")


def first_audio(container: av.container.InputContainer) -> av.AudioStream:
    """The first sound track. Raises `NoAudioStream`, or `UnrecognizedFormat` if nothing can decode it."""
    if not container.streams.audio:
        raise NoAudioStream("the container has no sound track")
    stream = container.streams.audio[0]
    if stream.codec_context is None:
        raise UnrecognizedFormat("FFmpeg has no decoder for the sound track")
    return stream


def codec_name(stream: av.AudioStream) -> str:
    """FFmpeg's name of the codec (not of the decoder: ``mp3``, not ``mp3float``)."""
    return stream.codec_context.codec.canonical_name


def reason(error: av.FFmpegError) -> str:
    """FFmpeg's words, without the error number and the file name."""
    return error.strerror or type(error).__name__


def declared_seconds(
    container: av.container.InputContainer, stream: av.AudioStream, kind: Kind, data: bytes
) -> float | None:
    """The track's duration where the file itself states a positive one."""
    if kind.demuxer == "asf":
        # FFmpeg corrects it by the size of what is left of the file.
        return headers.asf_seconds(data)
    if kind.demuxer in _DECLARE_DURATION and (stream.duration or 0) > 0 and stream.time_base:
        return float(stream.duration * stream.time_base)
    if kind.demuxer != "matroska":
        return None
    tag = stream.metadata.get("DURATION", "").split(":")
    if len(tag) == 3 and all(part.replace(".", "", 1).isdigit() for part in tag):
        return 3600 * float(tag[0]) + 60 * float(tag[1]) + float(tag[2])
    # The segment's duration is that of its longest track. With a known bit rate it may be a guess.
    if len(container.streams) == 1 and not stream.codec_context.bit_rate and (container.duration or 0) > 0:
        return container.duration / av.time_base
    return None


class _Reader:
    """Packets to samples, with an account of what did not decode."""

    def __init__(self, data: bytes, kind: Kind, limits: Limits) -> None:
        self.data = data
        self.kind = kind
        self.limits = limits
        self.buffer: SampleBuffer | None = None
        self.converter: _Converter | None = None
        self.declared: float | None = None
        self.start_s = 0.0
        self.end_s = 0.0
        self.packets = 0
        self.damaged = 0
        self.damaged_at_end = 0
        self.first_error = ""

    def read(self, container: av.container.InputContainer, stream: av.AudioStream) -> Track:
        context = stream.codec_context
        context.thread_count = 1
        self.declared = declared_seconds(container, stream, self.kind, self.data)
        self.start_s = float((stream.start_time or 0) * stream.time_base) if stream.time_base else 0.0
        if context.sample_rate and context.channels:
            check_header(context.channels, context.sample_rate)
            declared_frames = int((self.declared or 0) * context.sample_rate)
            self.limits.check(declared_frames, context.channels, context.sample_rate)
        for packet in container.demux(stream):
            self._packet(packet)
        return self._finish(codec_name(stream))

    def _packet(self, packet: av.Packet) -> None:
        self.packets += 1
        try:
            frames = packet.decode()
        except av.FFmpegError as error:
            self.damaged += 1
            self.damaged_at_end += 1
            self.first_error = self.first_error or f"{reason(error)} at {self.end_s:.3f} s"
            return
        # The empty packet at the end only flushes what the decoder holds.
        if frames and packet.size:
            self.damaged_at_end = 0
        for frame in frames:
            self._frame(frame)

    def _frame(self, frame: av.AudioFrame) -> None:
        if self.buffer is None or self.converter is None:
            channels, rate = frame.layout.nb_channels, frame.sample_rate
            check_header(channels, rate)
            expected = int((self.declared or 0) * rate)
            self.buffer = SampleBuffer(channels, rate, expected, len(self.data), self.limits)
            self.converter = _Converter(frame)
        for block in self.converter.convert(frame):
            self.buffer.append(block)
        decoded_s = self.buffer.frames / self.buffer.sample_rate
        self.end_s = max(self.end_s, decoded_s)
        # By the clock of the container where it has one: a track may pause without being cut short.
        if frame.pts is not None and frame.time_base:
            end = float(frame.pts * frame.time_base) + frame.samples / max(1, frame.sample_rate)
            self.end_s = max(self.end_s, end - self.start_s)

    def _finish(self, codec: str) -> Track:
        for block in self.converter.flush() if self.converter else ():
            self.buffer.append(block)
        self._judge()
        return Track(self.buffer.finish(), self.buffer.sample_rate, codec, self.buffer.replaced, self.damaged)

    def _judge(self) -> None:
        """Raise if the track is empty, cut short or damaged."""
        declared = self.declared or 0.0
        if self.buffer is None or not self.buffer.frames:
            if self.damaged:
                raise CorruptAudio(f"FFmpeg: {self.first_error}")
            if declared:
                raise truncated(declared, 0.0)
            raise EmptyAudio("the sound track holds no samples")
        # Containers round durations to their clock, and encoders count or leave out their own padding.
        if declared - self.end_s > 0.1 + 0.005 * declared:
            raise truncated(declared, self.end_s)
        decoded_s = self.buffer.frames / self.buffer.sample_rate
        # Unlike other containers Ogg has no pauses: a clock that runs ahead has lost a page to its checksum.
        if self.kind.demuxer == "ogg" and self.end_s - decoded_s > 0.1:
            raise CorruptAudio(f"{self.end_s - decoded_s:.3f} s are missing between damaged Ogg pages")
        bare = self.kind.demuxer in _BARE_FRAMES
        if self.damaged_at_end and self.kind.demuxer != "mp3":
            raise TruncatedAudio(f"the sound track ends inside a packet after {self.end_s:.3f} s")
        if self.damaged > (max(2, self.packets // 100) if bare else 0):
            raise CorruptAudio(f"FFmpeg: {self.damaged} of {self.packets} packets: {self.first_error}")


class _Converter:
    """Frames to float32 ``[channels, n]`` blocks in the layout and at the rate of the first frame."""

    def __init__(self, first: av.AudioFrame) -> None:
        self.target = _shape(first)
        self.source = self.target
        self.resampler: av.AudioResampler | None = None

    def convert(self, frame: av.AudioFrame) -> list[np.ndarray]:
        shape = _shape(frame)
        blocks = [] if shape == self.source else self.flush()
        if self.resampler is None and (shape != self.target or _many_planes(frame)):
            _format, layout, rate = self.target
            self.resampler = av.AudioResampler(format="flt", layout=layout, rate=rate)
        self.source = shape
        if self.resampler is None:
            return [*blocks, _to_float(frame)]
        return [*blocks, *map(_to_float, self.resampler.resample(frame))]

    def flush(self) -> list[np.ndarray]:
        """What the resampler still holds; it is done with afterwards."""
        if self.resampler is None:
            return []
        rest = [_to_float(frame) for frame in self.resampler.resample(None)]
        self.resampler = None
        return rest


def _shape(frame: av.AudioFrame) -> tuple[str, str, int]:
    return frame.format.name, frame.layout.name, frame.sample_rate


def _many_planes(frame: av.AudioFrame) -> bool:
    # With eight planes or more PyAV 18 counts one plane too many, and reading it crashes the process.
    return frame.format.is_planar and frame.layout.nb_channels >= 8


def _to_float(frame: av.AudioFrame) -> np.ndarray:
    values = frame.to_ndarray()
    if not frame.format.is_planar:
        values = values.reshape(-1, frame.layout.nb_channels).T
    offset, divisor = _SCALE[frame.format.packed.name]
    if divisor == 1.0:
        return values.astype(np.float32, copy=False)
    return ((values - offset) / divisor).astype(np.float32)
