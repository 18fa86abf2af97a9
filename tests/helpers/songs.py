"""Finished songs in memory, and what three decoders make of them."""

from __future__ import annotations

import io
from typing import Any

import av
import numpy as np
import soundfile

from pipeline.audio.decode import decode
from pipeline.audio.song_encoder import SongEncoder
from pipeline.audio.song_formats import SongFormat
from pipeline.audio.song_tags import NO_TAGS, SongTags

DEMUXERS = {"opus": "ogg", "m4a": "mov"}


def noise(samples: int, channels: int = 2, seed: int = 0) -> np.ndarray:
    """Low noise, whose cross-correlation has one sharp maximum; float32 ``[channels, samples]``."""
    white = np.random.default_rng(seed).standard_normal(samples + 8)
    smooth = np.convolve(white, np.hanning(9) / 4, mode="valid")[:samples]
    return (0.1 * smooth * np.linspace(1.0, 0.5, channels)[:, None]).astype(np.float32)


def encoded(
    x: np.ndarray,
    sample_rate: int,
    form: SongFormat,
    *,
    tags: SongTags = NO_TAGS,
    piece: int = 1 << 14,
    **more: Any,
) -> bytes:
    """``x`` as a file, written in pieces, its length announced."""
    out = io.BytesIO()
    with SongEncoder(out, form, sample_rate, len(x), tags=tags, **{"samples": x.shape[1], **more}) as encoder:
        for start in range(0, x.shape[1], piece):
            encoder.write(x[:, start : start + piece])
    return out.getvalue()


def by_ffmpeg(data: bytes, name: str) -> np.ndarray:
    """Float ``[channels, samples]``, scaled as FFmpeg hands them out."""
    pieces = []
    with av.open(io.BytesIO(data), format=DEMUXERS.get(name, name)) as container:
        for frame in container.decode(audio=0):
            values = frame.to_ndarray()
            if not frame.format.is_planar:
                values = values.reshape(-1, frame.layout.nb_channels).T
            pieces.append(values.astype(np.float64))
    return np.concatenate(pieces, axis=1) if pieces else np.zeros((1, 0))


def by_libsndfile(data: bytes, _name: str) -> np.ndarray:
    return soundfile.read(io.BytesIO(data), always_2d=True)[0].T


def by_pipeline(data: bytes, _name: str) -> np.ndarray:
    return decode(data).samples


DECODERS = {"FFmpeg": by_ffmpeg, "libsndfile": by_libsndfile, "pipeline": by_pipeline}


def decoders_of(name: str) -> dict[str, Any]:
    """Those that read the format: libsndfile knows no MP4."""
    return {who: how for who, how in DECODERS.items() if name != "m4a" or who != "libsndfile"}


def lag(x: np.ndarray, y: np.ndarray) -> int:
    """Samples by which ``y`` comes later than ``x``, from the maximum of their cross-correlation (first channels)."""
    size = 1 << (len(x[0]) + len(y[0]) - 1).bit_length()
    product = np.fft.rfft(y[0], size) * np.conj(np.fft.rfft(x[0], size))
    at = int(np.argmax(np.fft.irfft(product, size)))
    return at if at <= size // 2 else at - size
