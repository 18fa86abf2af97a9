"""Decoding through FFmpeg (PyAV): the sound track of containers that libsndfile does not read."""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO

import av
import numpy as np

from pipeline.audio import headers
from pipeline.audio.sniff import Kind
from pipeline.audio.validate import (
    CorruptAudio,
    EmptyAudio,
    Limits,
    NoAudioStream,
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


def open_container(file: BinaryIO, kind: Kind) -> av.container.InputContainer:
    """Open ``file`` with exactly the demuxer of ``kind``. Raises ``av.FFmpegError``."""
    return av.open(file, format=kind.demuxer, metadata_errors="replace")


def first_audio(container: av.container.InputContainer) -> av.AudioStream:
    """The first sound track. Raises `NoAudioStream`, or `UnrecognizedFormat` if nothing can decode it."""
    if not container.streams.audio:
        raise NoAudioStream("the container has no sound track")
    stream = container.streams.audio[0]
    if stream.codec_context is None:
        raise UnrecognizedFormat(
            "the FFmpeg that PyAV carries has no decoder for the sound track; an FFmpeg that has one converts it: "
            "ffmpeg -i IN OUT.flac"
        )
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


class TrackReader:
    """Packets of the first sound track to samples, with an account of what did not decode.

    Pictures are never decoded.

    Args:
        file: positioned at its beginning.
        data: the bytes of the file, for its headers.
        kind: what `pipeline.audio.sniff.sniff` found.

    ``codec``, ``sample_rate`` and ``channels`` are known with the first block; ``damaged`` counts packets.
    """

    def __init__(self, file: BinaryIO, data: bytes, kind: Kind) -> None:
        self.file = file
        self.data = data
        self.kind = kind
        self.codec = ""
        self.sample_rate = 0
        self.channels = 0
        self.frames = 0
        self.converter: _Converter | None = None
        self.declared: float | None = None
        self.start_s = 0.0
        self.end_s = 0.0
        self.packets = 0
        self.damaged = 0
        self.damaged_at_end = 0
        self.first_error = ""

    def blocks(self, limits: Limits) -> Iterator[np.ndarray]:
        """Float32 ``[channels, n]`` blocks.

        Raises:
            DecodeError: one of its subclasses, as `pipeline.audio.decode.decode` documents; those about the
                end of the track after its last block.
        """
        try:
            with open_container(self.file, self.kind) as container:
                yield from self._track(container, first_audio(container), limits)
        except av.FFmpegError as error:
            raise CorruptAudio(f"FFmpeg: {reason(error)}") from error

    def _track(
        self, container: av.container.InputContainer, stream: av.AudioStream, limits: Limits
    ) -> Iterator[np.ndarray]:
        context = stream.codec_context
        context.thread_count = 1
        self.codec = codec_name(stream)
        self.declared = declared_seconds(container, stream, self.kind, self.data)
        self.start_s = float((stream.start_time or 0) * stream.time_base) if stream.time_base else 0.0
        if context.sample_rate and context.channels:
            check_header(context.channels, context.sample_rate)
            declared_frames = int((self.declared or 0) * context.sample_rate)
            limits.check(declared_frames, context.channels, context.sample_rate)
        for packet in container.demux(stream):
            yield from self._packet(packet)
        yield from self._counted(self.converter.flush() if self.converter else [])
        self._judge()

    def _packet(self, packet: av.Packet) -> Iterator[np.ndarray]:
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
            yield from self._frame(frame)

    def _frame(self, frame: av.AudioFrame) -> Iterator[np.ndarray]:
        if self.converter is None:
            self.channels, self.sample_rate = frame.layout.nb_channels, frame.sample_rate
            check_header(self.channels, self.sample_rate)
            self.converter = _Converter(frame)
        yield from self._counted(self.converter.convert(frame))
        self.end_s = max(self.end_s, self.frames / self.sample_rate)
        # By the clock of the container where it has one: a track may pause without being cut short.
        if frame.pts is not None and frame.time_base:
            end = float(frame.pts * frame.time_base) + frame.samples / max(1, frame.sample_rate)
            self.end_s = max(self.end_s, end - self.start_s)

    def _counted(self, blocks: list[np.ndarray]) -> Iterator[np.ndarray]:
        for block in blocks:
            self.frames += block.shape[1]
            yield block

    def _judge(self) -> None:
        """Raise if the track is empty, cut short or damaged."""
        declared = self.declared or 0.0
        if not self.frames:
            if self.damaged:
                raise CorruptAudio(f"FFmpeg: {self.first_error}")
            if declared:
                raise truncated(declared, 0.0)
            raise EmptyAudio("the sound track holds no samples")
        # Containers round durations to their clock, and encoders count or leave out their own padding.
        if declared - self.end_s > 0.1 + 0.005 * declared:
            raise truncated(declared, self.end_s)
        decoded_s = self.frames / self.sample_rate
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
