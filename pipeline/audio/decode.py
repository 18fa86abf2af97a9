"""`decode`: the bytes of an audio file in, PCM out, or one `DecodeError` that says what is wrong.

libsndfile reads WAV, FLAC, Ogg Vorbis, MP3 and AIFF; FFmpeg (through PyAV) reads the sound track of MP4/M4A,
AAC, Opus, WMA, WebM, Matroska and others, and is the second attempt where libsndfile refuses to open a file.

Encoder delay and padding are as these libraries leave them. They are removed where the file says how much
there is: MP3 with a LAME header, Ogg (granule positions), Opus (pre-skip), MP4 (edit list; the padding of
the last AAC frame remains, at most 1023 samples). Bare ADTS, WMA and MP3 without such a header keep them.
Pauses in the clock of a container are not filled with silence.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import KW_ONLY, dataclass
from typing import BinaryIO

import av
import numpy as np
import soundfile

from pipeline.audio import containers
from pipeline.audio.choice import chosen_audio
from pipeline.audio.sniff import Kind
from pipeline.audio.stream import PcmStream, SeekableBytes, codec, open_bytes, recognise
from pipeline.audio.validate import (
    MAX_SAMPLES,
    Allocator,
    AudioTooLong,
    CorruptAudio,
    DecodeError,
    EmptyAudio,
    Limits,
    NoAudioStream,
    NoSuchAudioStream,
    SampleBuffer,
    TruncatedAudio,
    UnrecognizedFormat,
    check_header,
    private_memory,
)

__all__ = [
    "AudioTooLong",
    "CorruptAudio",
    "DecodeError",
    "Decoded",
    "EmptyAudio",
    "NoAudioStream",
    "NoSuchAudioStream",
    "Probe",
    "TruncatedAudio",
    "UnrecognizedFormat",
    "decode",
    "gather",
    "probe",
    "probe_head",
]


@dataclass(frozen=True, eq=False)
class Decoded:
    """A decoded file.

    Args:
        samples: float32 ``[channels, samples]``, C-contiguous, full scale ±1, at the file's own rate.
        container: ``wav``, ``flac``, ``ogg``, ``mp3``, ``aiff``, ``m4a``, ``mp4``, ``mov``, ``webm``,
            ``matroska``, ``asf``, ``aac``, ...
        codec: FFmpeg's codec name: ``pcm_s16le``, ``flac``, ``vorbis``, ``mp3``, ``aac``, ``opus``, ...
        sample_rate: Hz.
        channels: number of channels, in WAV order for surround.
        duration_s: samples per channel over the rate, seconds.
        replaced_samples: samples that were NaN, infinite or beyond ±2**31, and are 0 now.
        damaged_packets: junk packets skipped in a stream of bare MP3 or AAC frames.
    """

    samples: np.ndarray
    container: str
    codec: str
    sample_rate: int
    channels: int
    _: KW_ONLY
    duration_s: float
    replaced_samples: int = 0
    damaged_packets: int = 0


@dataclass(frozen=True)
class Probe:
    """What the header says, unverified, of the first sound track. ``duration_s`` is an estimate for bare MP3 and AAC,
    or None; ``audio_streams`` is how many sound tracks there are."""

    container: str
    codec: str
    sample_rate: int
    channels: int
    duration_s: float | None
    _: KW_ONLY
    audio_streams: int = 1


def decode(
    data: bytes | memoryview,
    name: str = "",
    *,
    max_seconds: float | None = None,
    max_samples: int | None = MAX_SAMPLES,
) -> Decoded:
    """Decode a whole file. The format is told from the bytes alone.

    Peak memory beyond ``data`` is the result where the header states its length (WAV, AIFF, FLAC, Vorbis),
    and up to twice that otherwise. A ``bytes`` object is read in place; anything else is copied once.

    Args:
        data: the bytes of the file.
        name: its name or URI; only its extension is used, and only in error messages.
        max_seconds: longest audio accepted, or None.
        max_samples: largest channels x samples accepted, or None.

    Raises:
        UnrecognizedFormat: not an audio format, whatever the extension.
        EmptyAudio: no bytes, or no samples.
        TruncatedAudio: fewer samples than declared, or the end inside a packet or page.
        NoAudioStream: a container without a sound track.
        AudioTooLong: declared or decoded audio exceeds a limit; a declared length is checked before
            anything is allocated.
        CorruptAudio: an impossible header (0 or more than 64 channels, a rate outside 1..768000 Hz), or the
            decoder gave up.
    """
    data = data if isinstance(data, bytes) else bytes(data)
    limits = Limits(max_seconds, max_samples)
    with open_bytes(data, name, limits) as stream:
        return gather(stream, len(data), limits)


def gather(
    stream: PcmStream,
    size: int,
    limits: Limits,
    allocate: Allocator = private_memory,
    progress: Callable[[int], None] = lambda frames: None,
) -> Decoded:
    """All samples of an open file. Raises `DecodeError`, as `decode` does.

    Args:
        stream: at its beginning.
        size: of the file, bytes.
        limits: how much is accepted.
        allocate: where the samples lie.
        progress: called with the sample frames of every block.
    """
    expected = stream.expected_frames
    buffer = SampleBuffer(stream.channels, stream.sample_rate, expected, size, limits, allocate=allocate)
    for block in stream:
        buffer.append(block)
        progress(block.shape[1])
    samples = buffer.finish()
    channels, count = samples.shape
    return Decoded(
        samples,
        stream.kind.container,
        stream.codec,
        stream.sample_rate,
        channels,
        duration_s=count / stream.sample_rate,
        replaced_samples=stream.replaced_samples,
        damaged_packets=stream.damaged_packets,
    )


def probe(data: bytes | memoryview, name: str = "") -> Probe:
    """Read the header only. Raises the subclasses of `DecodeError` that `decode` raises before decoding."""
    data = data if isinstance(data, bytes) else bytes(data)
    return probe_head(data, len(data), lambda: SeekableBytes(data), name)


def probe_head(head: bytes, size: int, opened: Callable[[], BinaryIO], name: str = "") -> Probe:
    """`probe` of a file that is not in memory: what its header refers to is read through ``opened``.

    Args:
        head: its first bytes, 64 KiB or all of them.
        size: of the file, bytes.
        opened: the file, anew each time.
        name: as for `probe`.

    Raises:
        DecodeError: as `probe`.
        OSError: ``opened`` cannot be read.
    """
    kind = recognise(head, name, size)
    # libsndfile walks through an MP3 to its end to count its frames; FFmpeg believes what the file says.
    if kind.soundfile and (kind.container != "mp3" or len(head) >= size):
        # Where libsndfile refuses, FFmpeg has the last word, as in `decode`.
        with suppress(soundfile.LibsndfileError), soundfile.SoundFile(opened()) as file:
            check_header(file.channels, file.samplerate)
            seconds = file.frames / file.samplerate
            return Probe(kind.container, codec(file, head), file.samplerate, file.channels, seconds)
    try:
        with containers.open_container(opened(), kind) as container:
            return _probe_container(container, kind, head)
    except av.FFmpegError as error:
        raise CorruptAudio(f"FFmpeg: {containers.ffmpeg_reason(error)}") from error


def _probe_container(container: av.container.InputContainer, kind: Kind, data: bytes) -> Probe:
    stream = chosen_audio(container)
    context = stream.codec_context
    check_header(context.channels, context.sample_rate)
    seconds = containers.declared_seconds(container, stream, kind, data)
    if seconds is None and (container.duration or 0) > 0:
        seconds = container.duration / av.time_base
    return Probe(
        kind.container,
        containers.codec_name(stream),
        context.sample_rate,
        context.channels,
        seconds,
        audio_streams=len(container.streams.audio),
    )
