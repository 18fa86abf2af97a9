"""Technical faults, bandwidth and the stereo image, on the native channels."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pyarrow as pa
import torch

from pipeline.features.base import Extraction, Extractor, column, register
from pipeline.features.spectra import SharedSpectra
from pipeline.features.statistics import decibels
from pipeline.features.stft import hann_window

# The bandwidth is judged by so many windows of so many samples, spread over the track; a clip of less than
# the shortest window has too few bins to speak of.
_BANDWIDTH_WINDOWS = 256
_BANDWIDTH_WINDOW = 4096
_BANDWIDTH_SHORTEST = 256
_BANDWIDTH_PERCENTILE = 90.0
_BANDWIDTH_SILENT_DB = -60.0


@register
@dataclass(frozen=True)
class Quality(Extractor):
    """DC offset, clipping, crest factor, silence, bandwidth, and width and correlation of the stereo image.

    Args:
        clip_level: a sample clips at this absolute value and above. The default is just below 32767 / 32768,
            the largest 16-bit sample; the tip of an unclipped sine at full scale rarely stays above it for
            three samples.
        clip_run: so many consecutive samples of one channel and one sign must clip to count.
        frame_seconds: length of the frames of ``quality_silence_ratio``, which do not overlap.
        silence_dbfs: a frame is silent when its RMS over all channels is below this level.
        bandwidth_range_db: ``quality_bandwidth_hz`` is the highest frequency whose level per octave lies no
            farther than this below that of the strongest octave, see `effective_bandwidth`.
    """

    name: ClassVar[str] = "quality"
    version: ClassVar[str] = "2"
    views: ClassVar[tuple[str, ...]] = ("native",)
    description: ClassVar[str] = "DC offset, clipping, crest factor, silence, bandwidth and stereo image"

    clip_level: float = 0.99996
    clip_run: int = 3
    frame_seconds: float = 0.05
    silence_dbfs: float = -60.0
    bandwidth_range_db: float = 50.0

    def check(self) -> None:
        if not self.clip_level > 0:
            raise ValueError(f"clip_level={self.clip_level} must be positive")
        if self.clip_run < 1:
            raise ValueError(f"clip_run={self.clip_run} must be at least 1")
        if not 0.001 <= self.frame_seconds <= 10:
            raise ValueError(f"frame_seconds={self.frame_seconds} must lie within 0.001..10")
        if not self.silence_dbfs < 0:
            raise ValueError(f"silence_dbfs={self.silence_dbfs} must be negative")
        if not 10 <= self.bandwidth_range_db <= 120:
            raise ValueError(f"bandwidth_range_db={self.bandwidth_range_db} must lie within 10..120")

    def columns(self) -> tuple[pa.Field, ...]:
        real = pa.float32()
        pair = "first two channels; undefined for mono and silence"
        return (
            column(
                "quality_dc_offset",
                real,
                "1",
                "mean sample of the channel where it is farthest from zero, with its sign; 1 is full scale",
            ),
            column(
                "quality_clipping_ratio",
                real,
                "ratio",
                f"share of the samples in runs of at least {self.clip_run} of one sign at or above "
                f"{self.clip_level:g} of full scale",
            ),
            column(
                "quality_crest_factor_db",
                real,
                "dB",
                "largest sample over the RMS of all channels; a sine has 3.01; undefined for silence",
            ),
            column(
                "quality_silence_ratio",
                real,
                "ratio",
                f"share of frames of {self.frame_seconds:g} s with an RMS below {self.silence_dbfs:g} dBFS",
            ),
            column(
                "quality_bandwidth_hz",
                real,
                "Hz",
                f"highest frequency whose level per octave is within {self.bandwidth_range_db:g} dB of the "
                "largest, at the native rate; undefined for silence and under 256 samples",
                "after Bakhturina et al., Hi-Fi Multi-Speaker English TTS Dataset, 2021",
            ),
            column(
                "quality_stereo_width",
                real,
                "ratio",
                f"energy of (L-R)/2 over that of (L-R)/2 and (L+R)/2: 0 is mono, 1 is out of phase; {pair}",
            ),
            column(
                "quality_phase_correlation",
                real,
                "1",
                f"sum of L R over the root of the energies of L and R, in [-1, 1]; {pair} in either channel",
            ),
        )

    def extract(self, spectra: SharedSpectra) -> Extraction:
        """Compute the columns of one track; all None without samples."""
        values: dict[str, float | None] = {f.name: None for f in self.columns()}
        levels = spectra.levels()
        if levels is None:
            return Extraction(values)
        peak = float(levels.peak.max())
        values["quality_dc_offset"] = float(levels.mean[np.argmax(np.abs(levels.mean))])
        clipped = 0
        if peak >= self.clip_level:
            clipped = sum(clipped_samples(x, self.clip_level, self.clip_run) for x in spectra.native)
        values["quality_clipping_ratio"] = clipped / spectra.native.size
        rms_db = decibels(float(levels.mean_square.mean()))
        if rms_db is not None:
            values["quality_crest_factor_db"] = 20.0 * math.log10(peak) - rms_db
        silent = spectra.frame_power(self.frame_seconds) < 10.0 ** (self.silence_dbfs / 10.0)
        values["quality_silence_ratio"] = float(silent.mean())
        values["quality_bandwidth_hz"] = effective_bandwidth(
            spectra.native, spectra.native_rate, self.bandwidth_range_db
        )
        if len(spectra.native) >= 2:
            samples = spectra.native.shape[1]
            left, right = levels.mean_square[:2] * samples
            cross = sum(float(chunk[0] @ chunk[1]) for chunk in spectra.native_chunks())
            width, correlation = stereo_image(float(left), float(right), cross)
            values["quality_stereo_width"], values["quality_phase_correlation"] = width, correlation
        return Extraction(values, backend="numpy")


def clipped_samples(channel: np.ndarray, level: float, run: int) -> int:
    """How many samples lie in runs of at least ``run`` of one sign, each at ``level`` or beyond.

    Args:
        channel: ``[samples]``.
        level: absolute value from which a sample counts.
        run: least number of consecutive samples.
    """
    side = (channel >= level).astype(np.int8) - (channel <= -level)
    changes = np.flatnonzero(side[1:] != side[:-1]) + 1
    bounds = np.concatenate(([0], changes, [len(side)]))
    lengths = np.diff(bounds)
    return int(lengths[(side[bounds[:-1]] != 0) & (lengths >= run)].sum())


def effective_bandwidth(native: np.ndarray, sample_rate: int, range_db: float) -> float | None:
    """The highest frequency at which a track still has content: where a codec or an old sample rate cut it.

    Per FFT bin the power exceeded in a tenth of the windows, so that a click or a dropout has no say and
    what sounds now and then still has; times the frequency, which makes it the power per octave, so that the
    fall of music and speech towards high frequencies is not taken for a cut. The bandwidth is the highest
    frequency at which this lies within ``range_db`` of its largest value. Windows are 4096 samples under a
    Hann window, at most 256 spread evenly over the track; those 60 dB below the loudest one are left out.

    Bakhturina et al. (2021) take the mean power per Hz instead, which suits speech alone.

    Args:
        native: ``[channels, samples]``; the power of a bin is the sum over the channels.
        sample_rate: Hz.
        range_db: dB.

    Returns:
        Hz, at most half the sample rate; None for silence and under 256 samples.
    """
    samples = native.shape[-1]
    length = min(_BANDWIDTH_WINDOW, samples)
    if length < _BANDWIDTH_SHORTEST:
        return None
    count = min(_BANDWIDTH_WINDOWS, samples // length)
    starts = np.linspace(0, samples - length, count).astype(np.int64)
    window = hann_window(length)
    power = torch.zeros(length // 2 + 1, count)
    for channel in native:
        frames = torch.from_numpy(np.stack([channel[s : s + length] for s in starts]))
        spectrum = torch.fft.rfft(frames * window)
        power += (spectrum.real.square() + spectrum.imag.square()).T
    energy = power.sum(dim=0)
    sounding = power[:, energy > float(energy.max()) * 10.0 ** (_BANDWIDTH_SILENT_DB / 10.0)]
    if sounding.shape[1] == 0:
        return None
    exceeded = np.percentile(sounding.double().numpy(), _BANDWIDTH_PERCENTILE, axis=1)
    per_octave = exceeded * np.arange(len(exceeded))
    if not per_octave.any():
        return None
    highest = np.flatnonzero(per_octave >= per_octave.max() * 10.0 ** (-range_db / 10.0))[-1]
    return float(highest) * sample_rate / length


def stereo_image(left: float, right: float, cross: float) -> tuple[float | None, float | None]:
    """Width and correlation of a pair of channels, from their energies and the sum of their products.

    Returns:
        width in [0, 1], None where both channels are silent; correlation in [-1, 1], None where one is.
    """
    if left + right <= 0.0:
        return None, None
    # Side energy (L-R)²/4 over side plus mid, (L²+R²)/2; rounding may step out of the range.
    width = min(max(0.5 - cross / (left + right), 0.0), 1.0)
    if left <= 0.0 or right <= 0.0:
        return width, None
    return width, min(max(cross / math.sqrt(left) / math.sqrt(right), -1.0), 1.0)
