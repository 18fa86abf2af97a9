"""PCM to the bytes of an audio file: saved stems, demo signals, tests."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator
from fractions import Fraction
from typing import BinaryIO

import av
import numpy as np
import soundfile

from pipeline.audio.reader import AudioReader, blocks

BLOCK = 1 << 16
"""Sample frames per write: libsndfile's Vorbis encoder keeps a whole write on the stack."""

# container -> (libsndfile format, default subtype)
_SOUNDFILE = {
    "wav": ("WAV", "PCM_16"),
    "flac": ("FLAC", "PCM_16"),
    "ogg": ("OGG", "VORBIS"),
    "mp3": ("MP3", "MPEG_LAYER_III"),
    "aiff": ("AIFF", "PCM_16"),
}
# container -> (FFmpeg muxer, encoder, sample format or "" for the encoder's own)
_FFMPEG = {
    "m4a": ("ipod", "aac", ""),
    "mp4": ("mp4", "aac", ""),
    "aac": ("adts", "aac", ""),
    "opus": ("ogg", "libopus", "flt"),
    "webm": ("webm", "libopus", "flt"),
    "mkv": ("matroska", "flac", "s32"),
    "wma": ("asf", "wmav2", ""),
}
# Vorbis has its own channel order (Vorbis I specification, 4.3.9), which libsndfile leaves to its caller.
_VORBIS_ORDER = {3: (0, 2, 1), 5: (0, 2, 1, 3, 4), 6: (0, 2, 1, 4, 5, 3), 8: (0, 2, 1, 6, 7, 4, 5, 3)}
_LAYOUTS = {1: "mono", 2: "stereo", 6: "5.1", 8: "7.1"}

CONTAINERS = (*_SOUNDFILE, *_FFMPEG)


class EncodeError(ValueError):
    """The container is unknown, or cannot hold this rate, channel count or these values. One line."""


def encode(
    samples: np.ndarray, sample_rate: int, container: str, *, subtype: str = "", bit_rate: int = 192_000
) -> bytes:
    """Encode ``samples`` as a file in memory.

    The same input gives the same bytes, except in ``ogg``, where libsndfile draws a random serial number.

    Args:
        samples: float ``[channels, samples]``, full scale ±1, surround in WAV order; integer formats clip.
        sample_rate: Hz. Opus takes 8, 12, 16, 24 and 48 kHz only.
        container: one of `CONTAINERS`.
        subtype: libsndfile subtype of wav, flac and aiff, such as ``PCM_24``; by default 16 bits.
        bit_rate: bits per second of aac, opus and wma; mp3 and ogg use libsndfile's default quality.

    Raises:
        EncodeError: see there.
    """
    samples = np.asarray(samples, dtype=np.float32)
    if samples.ndim != 2 or samples.shape[0] == 0:
        raise EncodeError(f"samples are [channels, samples], not {samples.shape}")
    if not np.isfinite(samples).all():
        raise EncodeError("samples hold NaN or infinity")
    if container in _SOUNDFILE:
        data = _with_soundfile(samples, sample_rate, container, subtype)
    elif container in _FFMPEG:
        data = _with_ffmpeg(samples, sample_rate, container, bit_rate)
    else:
        raise EncodeError(f"unknown container {container!r}; known: {', '.join(CONTAINERS)}")
    if not data:
        # Some encoders write their header with the first block, and nothing where there is none.
        raise EncodeError(f"{container} cannot hold a track without samples")
    return data


def write_flac24(audio: AudioReader, peak: float, sample_rate: int, out: BinaryIO) -> float:
    """24-bit FLAC that never clips, of a track of any length in bounded memory: peaks above full scale are scaled down.

    Args:
        audio: the track, at most 8 channels.
        peak: its largest magnitude, which `Spool` knows once it is written.
        sample_rate: Hz, at most 655350.
        out: binary file, seekable.

    Returns:
        the gain that was applied in dB: 0.0 if untouched, negative otherwise.

    Raises:
        EncodeError: NaN or infinity in the track, no samples, or more channels or a higher rate than FLAC holds.
    """
    if not np.isfinite(peak):
        raise EncodeError("samples hold NaN or infinity")
    if not audio.samples:
        raise EncodeError("flac cannot hold a track without samples")
    # The largest 24-bit code is one step below full scale.
    gain = (1.0 - 2.0**-23) / peak if peak > 1.0 else 1.0
    with (
        _explained("flac", sample_rate, audio.channels),
        soundfile.SoundFile(out, "w", sample_rate, audio.channels, format="FLAC", subtype="PCM_24") as file,
    ):
        for block in blocks(audio, BLOCK):
            scaled = block if gain == 1.0 else (block.astype(np.float64) * gain).astype(np.float32)
            file.write(scaled.T)
    return 20.0 * float(np.log10(gain))


def write_npy(audio: AudioReader, out: BinaryIO) -> None:
    """A track of any length as a ``.npy`` file, float32 ``[channels, samples]`` in C order, in bounded memory."""
    header = {"descr": "<f4", "fortran_order": False, "shape": (audio.channels, audio.samples)}
    np.lib.format.write_array_header_1_0(out, header)
    for channel in range(audio.channels):
        for block in blocks(audio):
            out.write(np.ascontiguousarray(block[channel], dtype="<f4").data)


@contextlib.contextmanager
def _explained(container: str, sample_rate: int, channels: int) -> Iterator[None]:
    try:
        yield
    except (soundfile.LibsndfileError, ValueError) as error:
        words = getattr(error, "error_string", str(error))
        raise EncodeError(f"{container} at {sample_rate} Hz, {channels} channels: {words}") from error


def _with_soundfile(samples: np.ndarray, sample_rate: int, container: str, subtype: str) -> bytes:
    format_, default = _SOUNDFILE[container]
    order = _VORBIS_ORDER.get(samples.shape[0]) if container == "ogg" else None
    samples = samples if order is None else samples[list(order)]
    out = io.BytesIO()
    with (
        _explained(container, sample_rate, samples.shape[0]),
        soundfile.SoundFile(
            out, "w", sample_rate, samples.shape[0], format=format_, subtype=subtype or default
        ) as file,
    ):
        for start in range(0, samples.shape[1], BLOCK):
            file.write(samples[:, start : start + BLOCK].T)
    return out.getvalue()


def _with_ffmpeg(samples: np.ndarray, sample_rate: int, container: str, bit_rate: int) -> bytes:
    muxer, encoder, sample_format = _FFMPEG[container]
    layout = _LAYOUTS.get(samples.shape[0])
    if layout is None:
        raise EncodeError(
            f"{container} takes {', '.join(map(str, _LAYOUTS))} channels, not {samples.shape[0]}"
        )
    out = io.BytesIO()
    try:
        # Without "bitexact" the muxers write random ids and their version.
        with av.open(out, "w", format=muxer, container_options={"fflags": "+bitexact"}) as file:
            stream = file.add_stream(encoder, rate=sample_rate, layout=layout)
            stream.codec_context.thread_count = 1
            stream.codec_context.options = {"flags": "+bitexact"}
            if sample_format:
                stream.format = sample_format
            if container != "mkv":
                stream.bit_rate = bit_rate
            stream.codec_context.open()
            for frame in _frames(samples, sample_rate, layout, stream):
                file.mux(stream.encode(frame))
            file.mux(stream.encode(None))
    except (av.FFmpegError, ValueError) as error:
        words = getattr(error, "strerror", None) or str(error)
        raise EncodeError(f"{container} at {sample_rate} Hz, {layout}: {words}") from error
    return out.getvalue()


def _frames(
    samples: np.ndarray, sample_rate: int, layout: str, stream: av.AudioStream
) -> list[av.AudioFrame]:
    """``samples`` in the format and frame size the encoder wants."""
    if not samples.shape[1]:
        return []
    packed = np.ascontiguousarray(samples.T).reshape(1, -1)
    frame = av.AudioFrame.from_ndarray(packed, format="flt", layout=layout)
    frame.sample_rate, frame.pts, frame.time_base = sample_rate, 0, Fraction(1, sample_rate)
    resampler = av.AudioResampler(
        format=stream.format,
        layout=layout,
        rate=sample_rate,
        frame_size=stream.codec_context.frame_size or 4096,
    )
    return [*resampler.resample(frame), *resampler.resample(None)]
