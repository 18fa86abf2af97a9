"""Energy in frequency bands: levels, and how the energy divides among the bands."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import pyarrow as pa

from pipeline.dsp.stft import hann_window
from pipeline.errors import Fallback
from pipeline.features.base import Extraction, Extractor, Running, blob_columns, column, register
from pipeline.features.running import Grid, GroupMeans, RunningSummary
from pipeline.features.spectra import SharedSpectra
from pipeline.features.statistics import decibels_above, frames_per_group
from pipeline.features.track import TrackInfo
from pipeline.late import torch

_STATISTICS = ("mean", "std", "median")
_SOURCE = "mel scale: Slaney, Auditory Toolbox, 1998; librosa.mel_frequencies"

# Of a long track, medians are exact within this, up to 200 dB above full scale.
_QUANTILE_STEP_DB = 0.01
_HIGHEST_DB = 200.0

# Slaney's mel scale: linear to 1 kHz, logarithmic above.
_HZ_PER_MEL = 200.0 / 3.0
_BREAK_HZ = 1000.0
_LOG_STEP = math.log(6.4) / 27.0


@register
@dataclass(frozen=True)
class BandEnergy(Extractor):
    """Level per band and frame, its statistics, and the share of each band in the energy of the track.

    K edges make K - 1 bands, band ``i`` from edge ``i`` to edge ``i + 1``. An FFT bin stands for the
    frequencies up to half a bin to either side of its centre, and where an edge cuts through that range the
    bin's power is divided in proportion. Bands that touch therefore share a bin without counting it twice, a
    sine exactly on an edge is half in either band, and no band is empty, however narrow.

    0 dB is a full-scale sine inside a band, all of its bins together. (The mel extractor has the same
    reference for a single bin, of which the Hann window lights three: 1.76 dB more in all.)

    Args:
        n_fft: FFT length, samples.
        hop_length: samples between frames.
        edges_hz: at least two edges, rising, Hz. Empty: ``n_bands`` bands of equal width in mel.
        n_bands: number of bands between ``fmin`` and ``fmax``; of no effect where ``edges_hz`` is given.
        fmin: lowest mel-spaced edge, Hz.
        fmax: highest mel-spaced edge, Hz; 0 is half the sample rate.
        floor_db: the least level; digital silence reads it.
        series_rate_hz: frames per second of the matrix, to the nearest whole number of frames averaged.

    Edges beyond half the sample rate are cut to it, which is recorded; bands that lie wholly above are left
    out. ``band_edges_hz`` has the edges in use. Of a track of several blocks the medians are right within 0.01 dB.
    """

    name: ClassVar[str] = "band_energy"
    version: ClassVar[str] = "2"
    views: ClassVar[tuple[str, ...]] = ("mono",)
    description: ClassVar[str] = "level and share of energy per frequency band"

    n_fft: int = 2048
    hop_length: int = 512
    edges_hz: list[float] = field(default_factory=list)
    n_bands: int = 10
    fmin: float = 0.0
    fmax: float = 0.0
    floor_db: float = -100.0
    series_rate_hz: float = 2.0

    def check(self) -> None:
        for parameter in ("hop_length", "n_bands", "series_rate_hz"):
            value = getattr(self, parameter)
            if not value > 0:
                raise ValueError(f"{parameter}={value} must be positive")
        if self.n_fft < 16:
            raise ValueError(f"n_fft={self.n_fft} must be at least 16")
        edges = np.asarray(self.edges_hz, dtype=np.float64)
        rising = np.isfinite(edges).all() and (edges >= 0).all() and (np.diff(edges) > 0).all()
        if edges.size == 1 or not rising:
            raise ValueError(f"edges_hz={list(self.edges_hz)} must be two or more, rising, none negative")
        if self.fmin < 0:
            raise ValueError(f"fmin={self.fmin} must not be negative")
        if self.fmax != 0 and not self.fmax > self.fmin:
            raise ValueError(f"fmax={self.fmax} must exceed fmin={self.fmin} or be 0, half the sample rate")
        if not -300 <= self.floor_db < 0:
            raise ValueError(f"floor_db={self.floor_db} must lie within -300..0")

    def columns(self) -> tuple[pa.Field, ...]:
        real = pa.list_(pa.float32())
        words = {"mean": "mean", "std": "standard deviation", "median": "median"}
        over = f"over the frames, per band, at least {self.floor_db:g} dB; 0 dB is a full-scale sine"
        return (
            column("band_edges_hz", real, "Hz", "edges of the bands, one more than there are bands", _SOURCE),
            *(
                column(f"band_energy_{s}_db", real, "dB", f"level of the band: {words[s]} {over}")
                for s in _STATISTICS
            ),
            column(
                "band_energy_share",
                real,
                "ratio",
                "energy of each band over that of all bands, sum 1; undefined for silence",
            ),
            *blob_columns(
                "band_energy",
                "dB",
                f"band levels [bands, time], power averaged to about {self.series_rate_hz:g} frames/s",
            ),
        )

    def start(self, track: TrackInfo) -> Running:
        """Begin a track; all None without samples, shares None for silence.

        Raises:
            ValueError: the lowest edge is not below half the sample rate.
        """
        return _BandEnergyRun(self, track)

    def edges_in_use(self, sample_rate: int) -> tuple[np.ndarray, list[Fallback]]:
        """Edges in Hz, none above half of ``sample_rate``, and what was cut."""
        nyquist = sample_rate / 2
        parameters, lowest, highest = ("fmin", "fmax"), self.fmin, self.fmax or nyquist
        if self.edges_hz:
            parameters, lowest, highest = ("edges_hz", "edges_hz"), self.edges_hz[0], self.edges_hz[-1]
        if lowest >= nyquist:
            wrong = f"band_energy.{parameters[0]}={lowest:g}"
            raise ValueError(f"{wrong} is not below half the sample rate, {nyquist:g} Hz")
        top = min(highest, nyquist)
        if self.edges_hz:
            edges = np.array([*(e for e in self.edges_hz if e < top), top], dtype=np.float64)
        else:
            edges = mel_frequencies(self.n_bands + 1, lowest, top)
        if top == highest:
            return edges, []
        reason = f"half the sample rate is {nyquist:g} Hz"
        return edges, [
            Fallback("features", f"band_energy.{parameters[1]} to {highest:g}", f"{top:g}", reason)
        ]


class _BandEnergyRun(Running):
    def __init__(self, bands: BandEnergy, track: TrackInfo) -> None:
        self.bands = bands
        self.edges, self.fallbacks = bands.edges_in_use(track.sample_rate)
        self.weights = torch.from_numpy(band_weights(self.edges, track.sample_rate, bands.n_fft)).float()
        # The bins of a sine of amplitude 1 add up to n_fft * sum(window ** 2) / 4.
        self.reference = bands.n_fft * float(hann_window(bands.n_fft).double().square().sum()) / 4.0
        self.levels = RunningSummary(_STATISTICS, Grid(bands.floor_db, _HIGHEST_DB, _QUANTILE_STEP_DB))
        group = frames_per_group(track.sample_rate, bands.hop_length, bands.series_rate_hz)
        self.series = GroupMeans(group)
        self.energy = np.zeros(len(self.edges) - 1)

    def add(self, block: SharedSpectra) -> None:
        power = block.power(self.bands.n_fft, self.bands.hop_length)
        energy = (self.weights @ power).numpy() / np.float32(self.reference)
        self.levels.add(decibels_above(energy, self.bands.floor_db))
        self.series.add(block.axis.frames(self.bands.hop_length).start, energy)
        self.energy += energy.sum(axis=1, dtype=np.float64)

    def finish(self) -> Extraction:
        values = {f.name: None for f in self.bands.columns()[: len(_STATISTICS) + 2]}
        if not self.levels.frames:
            return Extraction(values, fallbacks=self.fallbacks)
        values["band_edges_hz"] = self.edges.astype(np.float32)
        for statistic, levels in self.levels.values().items():
            values[f"band_energy_{statistic}_db"] = levels.astype(np.float32)
        if self.energy.any():
            values["band_energy_share"] = (self.energy / self.energy.sum()).astype(np.float32)
        series = decibels_above(self.series.means(), self.bands.floor_db).astype(np.float32)
        return Extraction(values, {"band_energy": series}, self.fallbacks)


def mel_frequencies(n: int, fmin: float, fmax: float) -> np.ndarray:
    """``n`` frequencies in Hz, equally spaced in Slaney's mel from ``fmin`` to ``fmax``, both included."""
    mels = np.linspace(_hz_to_mel(fmin), _hz_to_mel(fmax), n)
    linear = mels * _HZ_PER_MEL
    logarithmic = _BREAK_HZ * np.exp(_LOG_STEP * (mels - _BREAK_HZ / _HZ_PER_MEL))
    frequencies = np.where(linear < _BREAK_HZ, linear, logarithmic)
    # To and fro through the logarithm may end a rounding error beyond half the sample rate.
    frequencies[0], frequencies[-1] = fmin, fmax
    return frequencies


def _hz_to_mel(frequency: float) -> float:
    if frequency < _BREAK_HZ:
        return frequency / _HZ_PER_MEL
    return _BREAK_HZ / _HZ_PER_MEL + math.log(frequency / _BREAK_HZ) / _LOG_STEP


def band_weights(edges: np.ndarray, sample_rate: int, n_fft: int) -> np.ndarray:
    """The part of each FFT bin's range that lies in each band.

    The range of a bin is its centre ± half a bin, within 0 Hz and half the sample rate: the bins at these two
    ends have half a range, which is right for a one-sided spectrum, where all others stand for two.

    Args:
        edges: rising, ``[K]``, Hz.
        sample_rate: Hz.
        n_fft: FFT length, samples.

    Returns:
        float64 ``[K - 1, n_fft // 2 + 1]`` in 0..1.
    """
    bin_hz = sample_rate / n_fft
    centre = np.arange(n_fft // 2 + 1) * bin_hz
    lower = np.maximum(centre - bin_hz / 2, 0.0)
    upper = np.minimum(centre + bin_hz / 2, sample_rate / 2)
    overlap = np.minimum(edges[1:, None], upper) - np.maximum(edges[:-1, None], lower)
    return np.maximum(overlap, 0.0) / bin_hz
