"""`PcmStream`: the samples of a file block by block, in memory that does not grow with the file.

libsndfile reads WAV, FLAC, Ogg Vorbis, MP3 and AIFF; FFmpeg (through PyAV) reads the sound track of MP4/M4A,
AAC, Opus, WMA, WebM, Matroska and others, and is the second attempt where libsndfile refuses to open a file.
"""

from __future__ import annotations

import io
import mmap
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import BinaryIO

import av
import numpy as np
import soundfile

from pipeline.audio import headers
from pipeline.audio.choice import FIRST, Choice, chosen_audio
from pipeline.audio.containers import TrackReader, bits_per_sample, ffmpeg_reason, open_container
from pipeline.audio.sniff import Kind, sniff
from pipeline.audio.tags import FileFacts, read_tags
from pipeline.audio.validate import (
    CorruptAudio,
    EmptyAudio,
    Limits,
    TruncatedAudio,
    UnrecognizedFormat,
    check_header,
    cleaned,
    truncated,
)

NO_SAMPLES = "the header is complete, but there are no samples"
MOST_REPLACED = 0.5
"""Share of samples of no value, from which on a file with 0 in their place would be one of silence."""

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


class SeekableBytes(io.BytesIO):
    """Seeks like C's ``fseek``: a damaged header may ask for a position before the start, and is refused."""

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return super().seek(offset, whence) if offset >= 0 or whence != io.SEEK_SET else self.tell()


class PcmStream:
    """An open sound file.

    Iterating gives float32 ``[channels, n]`` blocks, full scale ±1, each good until the next one; what is not a
    number in range is 0 and counted. The form of the audio is known from the start; ``replaced_samples`` and
    ``damaged_packets`` are complete at the end.

    Args:
        data: the bytes of the file, or a map of it: headers are read here.
        opened: the same bytes as a file, anew each time.
        name: its name or URI; only its extension is used, and only in error messages.
        limits: how much audio is accepted.

    Raises:
        DecodeError: one of its subclasses, as `pipeline.audio.decode.decode` documents, on opening and while
            iterating; what is wrong with the end of a file is only known there.
    """

    def __init__(
        self,
        data: bytes | mmap.mmap,
        opened: Callable[[], BinaryIO],
        name: str = "",
        limits: Limits | None = None,
        choice: Choice = FIRST,
    ) -> None:
        self.data = data
        self.limits = limits or Limits(None, None)
        self.choice = choice
        self.kind = recognise(data, name)
        self.codec = ""
        self.sample_rate = 0
        self.channels = 0
        self.expected_frames = 0
        self.replaced_samples = self._samples = 0
        self.damaged_packets = 0
        self._frames = 0
        self._reader: TrackReader | None = None
        self._opened = opened
        self._blocks = self._through_soundfile() if self.kind.soundfile else self._through_ffmpeg()
        # The first block tells the form of the audio.
        self._first: np.ndarray | None = next(self._blocks, None)

    def __enter__(self) -> PcmStream:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the file."""
        self._blocks.close()

    def __iter__(self) -> Iterator[np.ndarray]:
        if self._first is not None:
            first, self._first = self._first, None
            yield first
        yield from self._blocks
        if self.replaced_samples > MOST_REPLACED * self._samples:
            raise CorruptAudio(
                f"{self.replaced_samples} of {self._samples} samples are no numbers or beyond ±2**31: that is no sound"
            )

    def facts(self) -> FileFacts:
        """What is known of the file beside its samples, once they have been read to their end."""
        reader = self._reader
        if reader is not None:
            rate = _bit_rate(reader.bytes, reader.frames, reader.sample_rate)
            return FileFacts(reader.streams, reader.stream, rate, reader.bits, reader.tags)
        rate = _bit_rate(_audio_bytes(self.data, self.kind), self._frames, self.sample_rate)
        # STREAMINFO is the first block of a FLAC file, and in Ogg lies behind the heads of page and mapping.
        setup = self.data[45:79] if self.kind.container == "ogg" else self.data[8:42]
        bits = bits_per_sample(self.codec, setup, None)
        if self.kind.container in ("wav", "aiff") and headers.is_untagged(self.data):
            # To open a short one in FFmpeg takes about as long as to decode it.
            tags = {"has_cover": False}
        else:
            tags = read_tags(self._opened, self.kind.demuxer, self.data)
        return FileFacts(1, 0, rate, bits, tags)

    def _require_choice(self) -> None:
        """Of a format that holds one sound track: raise if it is not the one that is asked for."""
        try:
            with self._opened() as file, open_container(file, self.kind) as container:
                chosen_audio(container, self.choice)
        except av.FFmpegError as error:
            raise CorruptAudio(f"FFmpeg: {ffmpeg_reason(error)}") from error

    def _through_soundfile(self) -> Iterator[np.ndarray]:
        if self.choice != FIRST:
            self._require_choice()
        stream = self._opened()
        try:
            file = soundfile.SoundFile(stream)
        except soundfile.LibsndfileError as refused:
            yield from self._second_attempt(refused)
            return
        with file:
            self._describe(codec(file, self.data), file.samplerate, file.channels, file.frames)
            scratch = np.empty((BLOCK, file.channels), np.float32)
            done, rate = 0, file.samplerate
            while done < file.frames:
                try:
                    block = file.read(dtype="float32", always_2d=True, out=scratch)
                except soundfile.LibsndfileError as error:
                    # The decoder is past the last byte: it did not stumble, it ran out.
                    if stream.tell() >= len(self.data):
                        raise truncated(file.frames / rate, done / rate) from error
                    raise CorruptAudio(f"libsndfile: {error.error_string} at {done / rate:.3f} s") from error
                if not len(block):
                    break
                done += len(block)
                self._frames = done
                yield self._clean(block.T)
            self._check_complete(file, done)

    def _check_complete(self, file: soundfile.SoundFile, done: int) -> None:
        if not file.frames:
            raise EmptyAudio(NO_SAMPLES)
        # A LAME header may count its own frame, or leave out the decoder's delay.
        tolerance = 2 * 1152 if self.kind.container == "mp3" else 0
        if file.frames - done > tolerance or not done:
            raise truncated(file.frames / file.samplerate, done / file.samplerate)
        self._check_ogg(done / file.samplerate)

    def _check_ogg(self, seconds: float) -> None:
        if self.kind.container == "ogg" and headers.ogg_ends_inside_page(self.data):
            raise TruncatedAudio(f"the file ends inside an Ogg page after {seconds:.3f} s")

    def _second_attempt(self, refused: soundfile.LibsndfileError) -> Iterator[np.ndarray]:
        try:
            yield from self._through_ffmpeg()
        except CorruptAudio as error:
            raise CorruptAudio(f"libsndfile: {refused.error_string}; {error}") from refused

    def _through_ffmpeg(self) -> Iterator[np.ndarray]:
        reader = self._reader = TrackReader(self._opened(), self.data, self.kind, self.choice)
        with closing(reader.blocks(self.limits)) as blocks:
            for block in blocks:
                if not self.sample_rate:
                    expected = int((reader.declared or 0) * reader.sample_rate)
                    self._describe(reader.codec, reader.sample_rate, reader.channels, expected)
                yield self._clean(block)
        self.damaged_packets = reader.damaged
        self._check_ogg(reader.frames / reader.sample_rate)

    def _describe(self, name: str, sample_rate: int, channels: int, expected: int) -> None:
        check_header(channels, sample_rate)
        self.limits.check(expected, channels, sample_rate)
        self.codec, self.sample_rate, self.channels = name, sample_rate, channels
        self.expected_frames = expected

    def _clean(self, block: np.ndarray) -> np.ndarray:
        block, replaced = cleaned(block)
        self.replaced_samples += replaced
        self._samples += block.size
        return block


def _bit_rate(size: int, frames: int, sample_rate: int) -> int | None:
    """Bits per second of ``size`` bytes that hold so many sample frames."""
    return max(1, round(8 * size * sample_rate / frames)) if size and frames else None


def _audio_bytes(data: bytes | mmap.mmap, kind: Kind) -> int:
    """How many bytes of a file that libsndfile decodes are sound: those of its headers and tags are not."""
    if kind.container in ("wav", "aiff"):
        header = headers.wav_header(data) if kind.container == "wav" else headers.aiff_header(data)
        return 0 if header is None else min(header.available, header.declared or header.available)
    if kind.container == "flac":
        return len(data) - headers.flac_audio_start(data)
    if kind.container == "ogg":
        return len(data) - headers.ogg_audio_start(data)
    frame = headers.find_mpeg_frame(data, headers.skip_id3(data))
    return 0 if frame is None else len(data) - frame.offset


def open_bytes(
    data: bytes, name: str = "", limits: Limits | None = None, choice: Choice = FIRST
) -> PcmStream:
    """A file in memory, read in place."""
    return PcmStream(data, lambda: SeekableBytes(data), name, limits, choice)


def open_file(path: str | Path, limits: Limits | None = None, choice: Choice = FIRST) -> PcmStream:
    """A file on disk, of which no more than a block is in memory."""
    path = Path(path)
    with path.open("rb") as file:
        if not path.stat().st_size:
            raise EmptyAudio("the file has 0 bytes")
        data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    return PcmStream(data, lambda: _SeekableFile(path), path.name, limits, choice)


class _SeekableFile(io.FileIO):
    """As `SeekableBytes`, on disk."""

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return super().seek(offset, whence) if offset >= 0 or whence != io.SEEK_SET else self.tell()


@dataclass(frozen=True)
class AudioFile:
    """A file to be decoded: its bytes, or where they lie.

    Args:
        name: the last part of its URI; only its extension is used, and only in error messages.
        size: bytes.
        data: its content, or None.
        path: of the file, where there is no ``data``.
        choice: which of several sound tracks is decoded.
    """

    name: str
    size: int
    data: bytes | None = None
    path: Path | None = None
    choice: Choice = FIRST

    def open(self, limits: Limits | None = None) -> PcmStream:
        """Its samples, from the beginning. Raises `pipeline.audio.decode.DecodeError`."""
        if self.data is not None:
            return open_bytes(self.data, self.name, limits, self.choice)
        return open_file(self.path, limits, self.choice)


def recognise(data: bytes | mmap.mmap, name: str = "", size: int | None = None) -> Kind:
    """What a file is by its bytes. Raises `EmptyAudio`, `UnrecognizedFormat`, `TruncatedAudio`, `CorruptAudio`.

    Args:
        size: of the file, where ``data`` is only its beginning.
    """
    if not len(data):
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
    if size is not None:
        header = replace(header, available=header.available + max(0, size - len(data)))
    _check_pcm_sizes(header)
    # libsndfile takes some of the sizes that stand for "unknown" at their word, and guesses how long MPEG audio in a
    # WAV file is from its first frame.
    return replace(kind, soundfile=kind.soundfile and header.declared is not None and not header.mpeg)


def _check_pcm_sizes(header: headers.PcmHeader) -> None:
    """WAV and AIFF: libsndfile quietly reads what is there, so what is missing is counted here."""
    check_header(header.channels, header.sample_rate)
    if header.declared == 0 or not (header.declared or header.available):
        raise EmptyAudio(NO_SAMPLES)
    if header.declared is not None and header.available // header.block < header.declared // header.block:
        raise truncated(header.declared / header.byte_rate, header.available / header.byte_rate)


def codec(file: soundfile.SoundFile, data: bytes | mmap.mmap) -> str:
    """FFmpeg's name of what libsndfile decodes."""
    if file.format == "FLAC":
        return "flac"
    name = _CODECS.get(file.subtype, file.subtype.lower())
    if name[:5] not in ("pcm_s", "pcm_f") or name == "pcm_s8":
        return name
    big = data[:4] == b"RIFX" or (file.format == "AIFF" and b"sowt" not in data[:4096])
    return name + ("be" if big else "le")
