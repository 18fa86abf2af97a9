"""What the networks hear: a spectrum of 136 bands, and how much each has risen since the frame before.

Frames of 1411 samples every 441 at 22,050 Hz, 50 a second, frame ``t`` centred on sample ``441 t``; the symmetric
Hann window; magnitudes without the last bin; triangular bands, 24 per octave from 30 Hz to 17 kHz as far as the rate
goes, each with weights that sum to 1; ``log10(1 + x)``; and beside that its positive difference to the frame before.

Source: Heydari, Cwitkowitz and Duan, "BeatNet", ISMIR 2021; the bands as in Böck et al., "madmom", ACM MM 2016.
"""

from __future__ import annotations

import functools
import math

import numpy as np

from pipeline.audio.reader import AudioReader, blocks
from pipeline.late import torch
from pipeline.models.beats.names import SAMPLE_RATE

HOP = 441
FRAME = 1411
FRAMES_PER_SECOND = SAMPLE_RATE / HOP
BINS = FRAME // 2
BANDS = 136
INPUTS = 2 * BANDS
LEVEL_DBFS, MOST_GAIN_DB = -24.0, 40.0
_BEFORE = FRAME // 2  # samples of a frame before its centre; as many follow
# Frames per FFT call: they and their spectrum stay within the cache of a core.
_CHUNK = 64


def frame_count(samples: int) -> int:
    """Frames of a track: one for each 20 ms that has begun."""
    return -(-samples // HOP)


@functools.cache
def filterbank() -> np.ndarray:
    """Weights from FFT bins to bands, float32 ``[BINS, BANDS]``.

    The centres are those bins that are nearest to a quarter tone (of A440), each once; a band reaches from the centre
    before to the centre behind.
    """
    # As if the transform had an even length: so the networks were trained.
    frequencies = np.arange(BINS) * SAMPLE_RATE / (2 * BINS)
    steps = np.arange(np.floor(24 * np.log2(30 / 440)), np.ceil(24 * np.log2(17000 / 440)))
    tones = 440 * 2 ** (steps / 24)
    tones = tones[(tones >= 30) & (tones <= 17000)]
    above = np.clip(np.searchsorted(frequencies, tones), 1, BINS - 1)
    nearer_below = tones - frequencies[above - 1] < frequencies[above] - tones
    centres = np.unique(above - nearer_below)
    bank = np.zeros((BINS, len(centres) - 2), np.float32)
    for band, (low, centre, high) in enumerate(zip(centres, centres[1:], centres[2:], strict=False)):
        if high - low < 2:
            centre, high = low, low + 1
        rising = np.linspace(0, 1, centre - low, endpoint=False)
        falling = np.linspace(1, 0, high - centre, endpoint=False)
        weights = np.concatenate([rising, falling]).astype(np.float32)
        bank[low:high, band] = weights / weights.sum()
    return bank


def even_gain(audio: AudioReader) -> float:
    """The gain at which a track has an RMS level of `LEVEL_DBFS`, at most `MOST_GAIN_DB`; 1 of silence.

    What the networks say depends on how loud they hear it: bars are found best where it is soft, and speech is told
    from music best where it is not too soft.

    Raises:
        ValueError: NaN or infinity in the audio.
    """
    energy = sum(float(np.square(block, dtype=np.float64).sum()) for block in blocks(audio))
    if not math.isfinite(energy):
        raise ValueError("the audio holds NaN or infinity")
    if energy <= 0:
        return 1.0
    wanted_db = LEVEL_DBFS - 10 * math.log10(energy / audio.samples)
    return 10 ** (min(wanted_db, MOST_GAIN_DB) / 20)


class FrontEnd:
    """Cuts frames out of audio and turns them into what the networks take.

    Args:
        device: where it works.
    """

    def __init__(self, device: str | torch.device = "cpu") -> None:
        self.device = torch.device(device)
        # Symmetric, unlike the window of most transforms.
        self._window = torch.hann_window(FRAME, periodic=False, dtype=torch.float64).float().to(self.device)
        self._bank = torch.from_numpy(filterbank()).to(self.device)

    def features(self, audio: AudioReader, first: int, stop: int, gain: float = 1.0) -> torch.Tensor:
        """The inputs of frames ``first`` to ``stop`` of a mono track at `SAMPLE_RATE`.

        Beyond both ends of the track there is silence; the first frame of all has risen by nothing.

        Args:
            gain: that the audio is played with, see `even_gain`.

        Shape: float32 ``[stop - first, INPUTS]``.
        """
        before = max(0, first - 1)  # a frame more, for the difference
        samples = _read(audio, before * HOP - _BEFORE, (stop - 1) * HOP + FRAME - _BEFORE)
        samples *= np.float32(gain)
        frames = torch.from_numpy(samples).to(self.device).unfold(0, FRAME, HOP)
        bands = torch.empty((len(frames), BANDS), device=self.device)
        for start in range(0, len(frames), _CHUNK):
            chunk = slice(start, start + _CHUNK)
            magnitude = torch.fft.rfft(frames[chunk] * self._window).abs()[:, :BINS]
            torch.log10(1 + magnitude @ self._bank, out=bands[chunk])
        risen = torch.zeros_like(bands)
        torch.clamp(bands[1:] - bands[:-1], min=0, out=risen[1:])
        return torch.cat([bands, risen], dim=1)[first - before :]


def _read(audio: AudioReader, start: int, stop: int) -> np.ndarray:
    """Samples ``start`` to ``stop`` of the only channel, with zeros beyond both ends."""
    inner = audio.read(max(0, min(start, audio.samples)), max(0, min(stop, audio.samples)))[0]
    samples = np.zeros(stop - start, np.float32)
    offset = max(0, -start)
    samples[offset : offset + len(inner)] = inner
    return samples
