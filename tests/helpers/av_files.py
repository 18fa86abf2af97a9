"""Files of any codec and container that FFmpeg's encoders make, with several sound tracks, tags and pictures."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence

import av
import numpy as np

RATE = 44100


def tone(hz: float, seconds: float = 1.0, rate: int = RATE, channels: int = 2) -> np.ndarray:
    """A sine, float32 ``[channels, samples]``."""
    wave = 0.3 * np.sin(2 * np.pi * hz * np.arange(round(seconds * rate)) / rate)
    return np.tile(wave, (channels, 1)).astype(np.float32)


def loudest_hz(samples: np.ndarray, rate: int) -> float:
    """Where the spectrum of the first channel is largest."""
    spectrum = np.abs(np.fft.rfft(samples[0] * np.hanning(samples.shape[1])))
    return float(np.argmax(spectrum) * rate / samples.shape[1])


def av_file(
    muxer: str,
    codec: str,
    tracks: Sequence[np.ndarray],
    *,
    rate: int = RATE,
    form: str = "",
    tags: Mapping[str, str] | None = None,
    languages: Sequence[str] = (),
    options: Mapping[str, str] | None = None,
) -> bytes:
    """A file of one sound track for each of ``tracks``, float32 ``[channels, samples]``.

    Args:
        form: sample format, where it is not the encoder's first.
        languages: of the tracks.
        options: of the muxer.
    """
    out = io.BytesIO()
    with av.open(out, "w", format=muxer, options=dict(options or {})) as file:
        file.metadata.update(tags or {})
        streams = []
        for number, samples in enumerate(tracks):
            stream = file.add_stream(codec, rate=rate, layout="mono" if len(samples) == 1 else "stereo")
            stream.codec_context.options = {"strict": "-2"}  # FFmpeg's own Vorbis encoder is an experiment
            if form:
                stream.format = form
            if languages:
                stream.metadata["language"] = languages[number]
            streams.append(stream)
        for stream, samples in zip(streams, tracks, strict=True):
            for frame in _frames(samples, rate, stream):
                file.mux(stream.encode(frame))
        for stream in streams:
            file.mux(stream.encode(None))
    return out.getvalue()


def _frames(samples: np.ndarray, rate: int, stream: av.AudioStream) -> list[av.AudioFrame]:
    stream.codec_context.open(strict=False)
    frame = av.AudioFrame.from_ndarray(samples, format="fltp", layout=stream.layout.name)
    frame.sample_rate, frame.pts = rate, 0
    resampler = av.AudioResampler(
        format=stream.format,
        layout=stream.layout.name,
        rate=rate,
        frame_size=stream.codec_context.frame_size or 1024,
    )
    return [*resampler.resample(frame), *resampler.resample(None)]
