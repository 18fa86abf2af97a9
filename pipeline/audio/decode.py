"""`decode`: the bytes of an audio file in, PCM out, or one `DecodeError` that says what is wrong.

libsndfile reads WAV, FLAC, Ogg Vorbis, MP3 and AIFF; FFmpeg (through PyAV) reads the sound track of MP4/M4A,
AAC, Opus, WMA, WebM, Matroska and others, and is the second attempt where libsndfile refuses to open a file.

Encoder delay and padding are as these libraries leave them. They are removed where the file says how much
there is: MP3 with a LAME header, Ogg (granule positions), Opus (pre-skip), MP4 (edit list; the padding of
the last AAC frame remains, at most 1023 samples). Bare ADTS, WMA and MP3 without such a header keep them.
Pauses in the clock of a container are not filled with silence.
"""

from __future__ import annotations

import io
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import PurePosixPath

import av
import numpy as np
import soundfile

from pipeline.audio import containers, headers
from pipeline.audio.sniff import Kind, sniff
from pipeline.audio.validate import (
    MAX_SAMPLES,
    AudioTooLong,
    CorruptAudio,
    DecodeError,
    EmptyAudio,
    Limits,
    NoAudioStream,
    SampleBuffer,
    TruncatedAudio,
    UnrecognizedFormat,
    check_header,
    truncated,
)

__all__ = [
    "AudioTooLong",
    "CorruptAudio",
    "DecodeError",
    "Decoded",
    "EmptyAudio",
    "NoAudioStream",
    "Probe",
    "TruncatedAudio",
    "UnrecognizedFormat",
    "decode",
    "probe",
]

NO_SAMPLES = "the header is complete, but there are no samples"
BLOCK = 1 << 14
"""Sample frames per read."""

_CODECS = {
    "PCM_S8": "pcm_s8",
    "PCM_U8": "pcm_u8",
    "PCM_16": "pcm_s16",
    "PCM_24": "pcm_s24",
    "PCM_32": "pcm_s32",
    "FLOAT": "pcm_f32",
    "DOUBLE": "pcm_f64",
    "ULAW": "pcm_mulaw",
    "ALAW": "pcm_alaw",
    "IMA_ADPCM": "adpcm_ima_wav",
    "MS_ADPCM": "adpcm_ms",
    "GSM610": "gsm_ms",
    "MPEG_LAYER_I": "mp1",
    "MPEG_LAYER_II": "mp2",
    "MPEG_LAYER_III": "mp3",
}


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
    duration_s: float
    replaced_samples: int = 0
    damaged_packets: int = 0


@dataclass(frozen=True)
class Probe:
    """What the header says, unverified. ``duration_s`` is an estimate for bare MP3 and AAC, or None."""

    container: str
    codec: str
    sample_rate: int
    channels: int
    duration_s: float | None


class _Bytes(io.BytesIO):
    """Seeks like C's ``fseek``: a damaged header may ask for a position before the start, and is refused."""

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return super().seek(offset, whence) if offset >= 0 or whence != io.SEEK_SET else self.tell()


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
    kind = _recognise(data, name)
    if not kind.soundfile:
        return _through_ffmpeg(data, kind, limits)
    stream = _Bytes(data)
    try:
        file = soundfile.SoundFile(stream)
    except soundfile.LibsndfileError as refused:
        return _second_attempt(data, kind, limits, refused)
    with file:
        return _through_soundfile(file, stream, data, kind, limits)


def probe(data: bytes | memoryview, name: str = "") -> Probe:
    """Read the header only. Raises the subclasses of `DecodeError` that `decode` raises before decoding."""
    data = data if isinstance(data, bytes) else bytes(data)
    kind = _recognise(data, name)
    if kind.soundfile:
        # Where libsndfile refuses, FFmpeg has the last word, as in `decode`.
        with suppress(soundfile.LibsndfileError), soundfile.SoundFile(_Bytes(data)) as file:
            check_header(file.channels, file.samplerate)
            seconds = file.frames / file.samplerate
            return Probe(kind.container, _codec(file, data), file.samplerate, file.channels, seconds)
    try:
        with containers.open_container(data, kind) as container:
            return _probe_container(container, kind, data)
    except av.FFmpegError as error:
        raise CorruptAudio(f"FFmpeg: {containers.reason(error)}") from error


def _probe_container(container: av.container.InputContainer, kind: Kind, data: bytes) -> Probe:
    stream = containers.first_audio(container)
    context = stream.codec_context
    check_header(context.channels, context.sample_rate)
    seconds = containers.declared_seconds(container, stream, kind, data)
    if seconds is None and (container.duration or 0) > 0:
        seconds = container.duration / av.time_base
    return Probe(
        kind.container, containers.codec_name(stream), context.sample_rate, context.channels, seconds
    )


def _recognise(data: bytes, name: str) -> Kind:
    if not data:
        raise EmptyAudio("the file has 0 bytes")
    kind = sniff(data)
    if kind is None:
        suffix = PurePosixPath(name).suffix[:12]
        named = f", though its name ends in {suffix}" if suffix else ""
        raise UnrecognizedFormat(f"not an audio file{named}: it begins with {data[:12]!r}")
    if kind.container == "flac" and headers.flac_is_empty(data):
        raise EmptyAudio(NO_SAMPLES)
    header = None
    if kind.container == "wav":
        header = headers.wav_header(data)
    elif kind.container == "aiff":
        header = headers.aiff_header(data)
    if header is None:
        return kind
    _check_pcm_sizes(header)
    # libsndfile takes some of the sizes that stand for "unknown" at their word.
    return replace(kind, soundfile=kind.soundfile and header.declared is not None)


def _check_pcm_sizes(header: headers.PcmHeader) -> None:
    """WAV and AIFF: libsndfile quietly reads what is there, so what is missing is counted here."""
    check_header(header.channels, header.sample_rate)
    if header.declared == 0 or not (header.declared or header.available):
        raise EmptyAudio(NO_SAMPLES)
    if header.declared is not None and header.available // header.block < header.declared // header.block:
        raise truncated(header.declared / header.byte_rate, header.available / header.byte_rate)


def _through_soundfile(
    file: soundfile.SoundFile, stream: io.BytesIO, data: bytes, kind: Kind, limits: Limits
) -> Decoded:
    buffer = SampleBuffer(file.channels, file.samplerate, file.frames, len(data), limits)
    scratch = np.empty((BLOCK, file.channels), np.float32)
    rate = file.samplerate
    while buffer.frames < file.frames:
        try:
            block = file.read(dtype="float32", always_2d=True, out=scratch)
        except soundfile.LibsndfileError as error:
            # The decoder is past the last byte: it did not stumble, it ran out.
            if stream.tell() >= len(data):
                raise truncated(file.frames / rate, buffer.frames / rate) from error
            raise CorruptAudio(f"libsndfile: {error.error_string} at {buffer.frames / rate:.3f} s") from error
        if not len(block):
            break
        buffer.append(block.T)
    _check_complete(file, buffer, data, kind)
    return _decoded(buffer.finish(), rate, kind, _codec(file, data), buffer.replaced)


def _check_complete(file: soundfile.SoundFile, buffer: SampleBuffer, data: bytes, kind: Kind) -> None:
    if not file.frames:
        raise EmptyAudio(NO_SAMPLES)
    # A LAME header may count its own frame, or leave out the decoder's delay.
    tolerance = 2 * 1152 if kind.container == "mp3" else 0
    if file.frames - buffer.frames > tolerance or not buffer.frames:
        raise truncated(file.frames / buffer.sample_rate, buffer.frames / buffer.sample_rate)
    if kind.container == "ogg" and headers.ogg_ends_inside_page(data):
        raise TruncatedAudio(
            f"the file ends inside an Ogg page after {buffer.frames / buffer.sample_rate:.3f} s"
        )


def _second_attempt(data: bytes, kind: Kind, limits: Limits, refused: soundfile.LibsndfileError) -> Decoded:
    try:
        return _through_ffmpeg(data, kind, limits)
    except CorruptAudio as error:
        raise CorruptAudio(f"libsndfile: {refused.error_string}; {error}") from refused


def _through_ffmpeg(data: bytes, kind: Kind, limits: Limits) -> Decoded:
    track = containers.decode_track(data, kind, limits)
    if kind.container == "ogg" and headers.ogg_ends_inside_page(data):
        seconds = track.samples.shape[1] / track.sample_rate
        raise TruncatedAudio(f"the file ends inside an Ogg page after {seconds:.3f} s")
    return _decoded(
        track.samples, track.sample_rate, kind, track.codec, track.replaced_samples, track.damaged_packets
    )


def _decoded(
    samples: np.ndarray, rate: int, kind: Kind, codec: str, replaced: int, damaged: int = 0
) -> Decoded:
    channels, count = samples.shape
    return Decoded(samples, kind.container, codec, rate, channels, count / rate, replaced, damaged)


def _codec(file: soundfile.SoundFile, data: bytes) -> str:
    if file.format == "FLAC":
        return "flac"
    codec = _CODECS.get(file.subtype, file.subtype.lower())
    if codec[:5] not in ("pcm_s", "pcm_f") or codec == "pcm_s8":
        return codec
    big = data[:4] == b"RIFX" or (file.format == "AIFF" and b"sowt" not in data[:4096])
    return codec + ("be" if big else "le")
