"""What a decoder makes of a lossy encode, as it is encoded: nothing is written, and nothing is kept."""

from __future__ import annotations

from fractions import Fraction

import av
import numpy as np

from pipeline.audio.song_formats import SongFormat
from pipeline.audio.song_sinks import FFmpegEncoder, explained

# By format: encoder, its sample format, and decoder.
_CODECS = {
    "mp3": ("libmp3lame", "fltp", "mp3float"),
    "m4a": ("aac", "fltp", "aac"),
    "opus": ("libopus", "flt", "opus"),
}
TRIAL_FORMATS = tuple(_CODECS)


class TrialEncode:
    """An encode with FFmpeg's own settings, as ``ffmpeg -i song -b:a`` has them, and its decoder behind it.

    What comes out is not clipped, and by the codec's delay later and longer than what went in.

    Args:
        form: one of `TRIAL_FORMATS`, with its bit rate.
        sample_rate: Hz, one that the format holds.
        channels: 1 or 2.
        later: frames of the encoder by which the song begins later, 0 to 1. A codec decides frame by frame, so another
            grid gives other peaks.

    Raises:
        EncodeError: the format does not hold that.
    """

    def __init__(self, form: SongFormat, sample_rate: int, channels: int, *, later: float = 0.0) -> None:
        form.check(sample_rate, channels)
        self.form, self.sample_rate, self.channels = form, sample_rate, channels
        encoder, kind, decoder = _CODECS[form.name]
        self._frames = FFmpegEncoder(encoder, sample_rate, channels, kind)
        with explained(form, sample_rate, channels):
            self._encoder = av.CodecContext.create(encoder, "w")
            self._encoder.sample_rate, self._encoder.time_base = sample_rate, Fraction(1, sample_rate)
            self._encoder.layout, self._encoder.format = self._frames.layout, kind
            self._encoder.bit_rate = form.bits_per_second(sample_rate, channels)
            self._encoder.open()
            self._decoder = av.CodecContext.create(decoder, "r")
            if self._encoder.extradata:
                self._decoder.extradata = self._encoder.extradata
        self._lead = np.zeros((channels, round(later * self._encoder.frame_size)), np.float32)

    def push(self, samples: np.ndarray) -> np.ndarray:
        """What is decoded by now, float32 ``[channels, m]``, of the next samples, float ``[channels, n]``."""
        lead, self._lead = self._lead, self._lead[:, :0]
        samples = np.concatenate([lead, samples], axis=1, dtype=np.float32)
        if not samples.shape[1]:
            return samples
        with explained(self.form, self.sample_rate, self.channels):
            return self._decoded(self._encoder.encode(self._frames.frame(samples)))

    def finish(self) -> np.ndarray:
        """The rest; nothing may follow."""
        with explained(self.form, self.sample_rate, self.channels):
            return self._decoded([*self._encoder.encode(None), None])

    def _decoded(self, packets: list[av.Packet | None]) -> np.ndarray:
        frames = [frame for packet in packets for frame in self._decoder.decode(packet)]
        # All three decoders hand out planes of floats.
        parts = [frame.to_ndarray() for frame in frames]
        return np.concatenate([np.zeros((self.channels, 0), np.float32), *parts], axis=1)
