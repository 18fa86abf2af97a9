"""Decoding through FFmpeg (PyAV): the sound track of containers that libsndfile does not read."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, BinaryIO

import av
import numpy as np

from pipeline.audio import headers
from pipeline.audio.choice import FIRST, Choice, chosen_audio
from pipeline.audio.sniff import Kind
from pipeline.audio.tags import container_tags
from pipeline.audio.validate import (
    CorruptAudio,
    EmptyAudio,
    Limits,
    TruncatedAudio,
    check_header,
    truncated,
)

# Demuxers whose duration is written in the file. Elsewhere FFmpeg estimates it from the bit rate.
_DECLARE_DURATION = {"mov", "flac", "aiff", "caf", "au", "w64", "wv", "ape", "tta", "dsf"}
# Streams of bare frames: junk between frames (tags, joints) is skipped by every player, and by us.
_BARE_FRAMES = {"mp3", "aac", "amr", "ac3", "eac3", "mpeg", "mpegts"}
# In these, too, MPEG audio is bytes in which frames are found; others give every packet its length. What is left of
# a frame at the end of either is junk: whether the file is whole is for its header to say.
_MPEG_CODECS = {"mp1", "mp2", "mp3"}
_AC3 = {"ac3", "eac3"}
_UNFRAMED = {"wav", "w64", "aiff", "avi"}
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


def codec_name(stream: av.AudioStream) -> str:
    """FFmpeg's name of the codec (not of the decoder: ``mp3``, not ``mp3float``)."""
    return stream.codec_context.codec.canonical_name


_PCM_BITS = re.compile(r"pcm_[suf](\d+)")
_LOSSLESS = {"ape", "mlp", "tak", "truehd", "wavpack", "wmalossless"}


def bits_per_sample(codec: str, setup: bytes, form: av.AudioFormat | None) -> int | None:
    """Of lossless audio; None of any other, and where it may be 24 or 32.

    Args:
        codec: FFmpeg's name.
        setup: its set-up header, which FFmpeg calls extradata.
        form: of the samples that come out of the decoder.
    """
    match = _PCM_BITS.match(codec)
    if match is not None:
        return int(match[1])
    if codec == "flac":
        return headers.flac_bits(setup)
    if codec in ("alac", "tta"):
        # ALACSpecificConfig behind an atom's head of 12 bytes; the 16 bits in front of the sample rate of TTA1.
        bits = setup[17:18] if codec == "alac" else setup[8:9]
        return bits[0] if bits and 1 <= bits[0] <= 32 else None
    return 16 if codec in _LOSSLESS and form is not None and form.bytes == 2 else None


def ffmpeg_reason(error: av.FFmpegError) -> str:
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
        choice: which of several sound tracks.

    ``codec``, ``sample_rate``, ``channels``, ``streams``, ``stream`` and ``tags`` are known with the first block;
    ``damaged`` counts packets, ``bytes`` is what they hold.
    """

    def __init__(self, file: BinaryIO, data: bytes, kind: Kind, choice: Choice = FIRST) -> None:
        self.file = file
        self.data = data
        self.kind = kind
        self.choice = choice
        self.streams = 1
        self.stream = 0
        self.bits: int | None = None
        self.bytes = 0
        self.tags: dict[str, Any] = {}
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
        self._last_packet = b""

    def blocks(self, limits: Limits) -> Iterator[np.ndarray]:
        """Float32 ``[channels, n]`` blocks.

        Raises:
            DecodeError: one of its subclasses, as `pipeline.audio.decode.decode` documents; those about the
                end of the track after its last block.
        """
        try:
            with open_container(self.file, self.kind) as container:
                yield from self._track(container, chosen_audio(container, self.choice), limits)
        except av.FFmpegError as error:
            raise CorruptAudio(f"FFmpeg: {ffmpeg_reason(error)}") from error

    def _track(
        self, container: av.container.InputContainer, stream: av.AudioStream, limits: Limits
    ) -> Iterator[np.ndarray]:
        context = stream.codec_context
        context.thread_count = 1
        self.codec = codec_name(stream)
        self.streams = len(container.streams.audio)
        self.stream = container.streams.audio.index(stream)
        self.bits = bits_per_sample(self.codec, bytes(context.extradata or b""), context.format)
        with suppress(Exception):  # whatever is wrong with tags, the sound is there
            self.tags = container_tags(container, stream, self.data)
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
        self.bytes += packet.size
        if packet.size and self.kind.demuxer in _AC3:
            self._last_packet = bytes(packet)
        try:
            frames = packet.decode()
        except av.FFmpegError as error:
            self.damaged += 1
            self.damaged_at_end += 1
            self.first_error = self.first_error or f"{ffmpeg_reason(error)} at {self.end_s:.3f} s"
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
        unframed = self.codec in _MPEG_CODECS and self.kind.demuxer in _UNFRAMED
        bare = self.kind.demuxer in _BARE_FRAMES or unframed
        last = headers.ac3_frame(self._last_packet, 0)
        # The decoder makes up what is missing.
        if last is not None and last.length > len(self._last_packet):
            raise TruncatedAudio(f"the sound track ends inside a frame after {self.end_s:.3f} s")
        if self.damaged_at_end and self.kind.demuxer != "mp3" and not unframed:
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
