"""Technical faults, bandwidth and the stereo image, on the native channels."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pyarrow as pa

from pipeline.dsp.stft import hann_window, squared_magnitude
from pipeline.dsp.transpose import transposed
from pipeline.features.base import Extraction, Extractor, Running, column, register
from pipeline.features.spectra import ChannelLevels, SharedSpectra
from pipeline.features.statistics import decibels, percentiles
from pipeline.features.track import Axis, TrackInfo
from pipeline.late import torch

# The bandwidth is judged by so many windows of so many samples, spread over the track; a clip of less than
# the shortest window has too few bins to speak of.
_BANDWIDTH_WINDOWS = 256
_BANDWIDTH_WINDOW = 4096
_BANDWIDTH_SHORTEST = 256
# Windows per transform: they stay in the cache of a core.
_BANDWIDTH_CHUNK = 32
_BANDWIDTH_PERCENTILE = 90.0
_BANDWIDTH_SILENT_DB = -60.0

# Samples of two channels that stay in the cache of a core as float64.
_CROSS_CHUNK = 1 << 14


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
            farther than this below that of the strongest octave, see `Bandwidth`.
    """

    name: ClassVar[str] = "quality"
    version: ClassVar[str] = "3"
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

    def context_seconds(self, sample_rate: int) -> float:
        """A frame that begins in a block may end after it."""
        return 2.0 + self.frame_seconds

    def start(self, track: TrackInfo) -> Running:
        """Begin a track; all None without samples."""
        return _QualityRun(self, track)


class _QualityRun(Running):
    def __init__(self, quality: Quality, track: TrackInfo) -> None:
        self.quality, self.track = quality, track
        self.levels: ChannelLevels | None = None
        self.clipped = [ClippedRuns(quality.clip_level, quality.clip_run) for _ in range(track.channels)]
        self.silent, self.frames = 0, 0
        self.cross = 0.0
        self.bandwidth: Bandwidth | None = None

    def add(self, block: SharedSpectra) -> None:
        # How long the track is decides where its bandwidth is judged.
        samples = block.track.length()
        levels = block.levels()
        if levels is None:
            return
        self.levels = levels if self.levels is None else self.levels + levels
        for runs, channel, peak in zip(self.clipped, block.native_block, levels.peak, strict=True):
            runs.add(channel, float(peak))
        power = block.frame_power(self.quality.frame_seconds)
        self.silent += int((power < 10.0 ** (self.quality.silence_dbfs / 10.0)).sum())
        self.frames += len(power)
        if self.bandwidth is None:
            self.bandwidth = Bandwidth(samples)
        self.bandwidth.add(block.native, block.native_axis)
        if len(block.native) >= 2:
            self.cross += pair_energy(block)

    def finish(self) -> Extraction:
        values: dict[str, float | None] = {f.name: None for f in self.quality.columns()}
        levels = self.levels
        if levels is None:
            return Extraction(values)
        peak = float(levels.peak.max())
        values["quality_dc_offset"] = float(levels.mean[np.argmax(np.abs(levels.mean))])
        clipped = sum(runs.total() for runs in self.clipped)
        values["quality_clipping_ratio"] = clipped / (levels.samples * len(levels.peak))
        rms_db = decibels(float(levels.mean_square.mean()))
        if rms_db is not None:
            values["quality_crest_factor_db"] = 20.0 * math.log10(peak) - rms_db
        values["quality_silence_ratio"] = self.silent / self.frames
        values["quality_bandwidth_hz"] = self.bandwidth.hertz(
            self.track.native_rate, self.quality.bandwidth_range_db
        )
        if len(levels.peak) >= 2:
            left, right = levels.square[:2]
            width, correlation = stereo_image(float(left), float(right), self.cross)
            values["quality_stereo_width"], values["quality_phase_correlation"] = width, correlation
        return Extraction(values, backend="numpy")


class ClippedRuns:
    """Counts the samples of one channel in runs of at least ``run`` of one sign, at ``level`` or beyond.

    Args:
        level: absolute value from which a sample counts.
        run: least number of consecutive samples.
    """

    def __init__(self, level: float, run: int) -> None:
        self.level, self.run = level, run
        self._counted = 0
        self._side, self._length = 0, 0

    def add(self, channel: np.ndarray, peak: float) -> None:
        """Take in the next samples; ``peak`` is the largest absolute value among them."""
        beyond = (channel >= self.level) | (channel <= -self.level) if peak >= self.level else ()
        places = np.flatnonzero(beyond)
        if not len(places):
            self._end()
            return
        signs = np.where(channel[places] > 0, 1, -1)
        begins = np.flatnonzero((np.diff(places, prepend=-2) != 1) | (np.diff(signs, prepend=0) != 0))
        lengths, sides = np.diff(np.append(begins, len(places))), signs[begins]
        if places[0] != 0 or sides[0] != self._side:
            self._end()
        lengths[0] += self._length
        # The last run may go on in the next block.
        self._side, self._length = int(sides[-1]), int(lengths[-1])
        self._counted += int(lengths[:-1][lengths[:-1] >= self.run].sum())
        if places[-1] != len(channel) - 1:
            self._end()

    def _end(self) -> None:
        self._counted, self._side, self._length = self.total(), 0, 0

    def total(self) -> int:
        """Samples that count so far."""
        return self._counted + self._length * (self._side != 0 and self._length >= self.run)


class Bandwidth:
    """The highest frequency at which a track still has content: where a codec or an old sample rate cut it.

    Per FFT bin the power exceeded in a tenth of the windows, so that a click or a dropout has no say and
    what sounds now and then still has; times the frequency, which makes it the power per octave, so that the
    fall of music and speech towards high frequencies is not taken for a cut. The bandwidth is the highest
    frequency at which this lies within ``range_db`` of its largest value. Windows are 4096 samples under a
    Hann window, at most 256 spread evenly over the track; those 60 dB below the loudest one are left out.

    Bakhturina et al. (2021) take the mean power per Hz instead, which suits speech alone.

    Args:
        samples: length of the track, per channel.
    """

    def __init__(self, samples: int) -> None:
        self.length = min(_BANDWIDTH_WINDOW, samples)
        count = min(_BANDWIDTH_WINDOWS, samples // self.length) if samples else 0
        self.starts = np.linspace(0, samples - self.length, count).astype(np.int64)
        self.window = hann_window(self.length)
        self._power: list[torch.Tensor] = []

    def add(self, native: np.ndarray, axis: Axis) -> None:
        """Take in the windows that begin in a block, ``[channels, samples]`` with its context.

        The power of a bin is the sum over the channels.
        """
        if self.length < _BANDWIDTH_SHORTEST:
            return
        starts = self.starts[(self.starts >= axis.start) & (self.starts < axis.stop)] - axis.origin
        power = torch.zeros(len(starts), self.length // 2 + 1)
        for first in range(0, len(starts), _BANDWIDTH_CHUNK):
            chunk = slice(first, first + _BANDWIDTH_CHUNK)
            for channel in native:
                frames = torch.from_numpy(np.stack([channel[s : s + self.length] for s in starts[chunk]]))
                spectrum = torch.fft.rfft(frames * self.window)
                power[chunk] += squared_magnitude(spectrum, torch.empty(spectrum.shape))
        self._power.append(power)

    def hertz(self, sample_rate: int, range_db: float) -> float | None:
        """Hz, at most half the sample rate; None for silence and under 256 samples."""
        if not self._power:
            return None
        power = torch.cat(self._power)
        energy = power.sum(dim=1)
        sounding = power[energy > float(energy.max()) * 10.0 ** (_BANDWIDTH_SILENT_DB / 10.0)]
        if len(sounding) == 0:
            return None
        (exceeded,) = percentiles(transposed(sounding).numpy(), [_BANDWIDTH_PERCENTILE])
        per_octave = exceeded * np.arange(len(exceeded))
        if not per_octave.any():
            return None
        highest = np.flatnonzero(per_octave >= per_octave.max() * 10.0 ** (-range_db / 10.0))[-1]
        return float(highest) * sample_rate / self.length


def cross_energy(left: np.ndarray, right: np.ndarray) -> float:
    """Sum of the products of two channels ``[samples]``, in float64."""
    pieces = (slice(start, start + _CROSS_CHUNK) for start in range(0, len(left), _CROSS_CHUNK))
    return sum(float(left[i].astype(np.float64) @ right[i].astype(np.float64)) for i in pieces)


def pair_energy(block: SharedSpectra) -> float:
    """`cross_energy` of the first two channels of a block, summed once for all who ask."""
    return block.result(("cross_energy",), lambda asked: cross_energy(*asked.native_block[:2]))


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
