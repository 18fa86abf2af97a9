"""Descriptors of the shape of the spectrum: centroid, bandwidth, rolloff, flatness and contrast."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pyarrow as pa

from pipeline.dsp.frame_sums import crossing_bin, extreme_means, frame_sums
from pipeline.dsp.stft import hann_window
from pipeline.dsp.transpose import transposed
from pipeline.features.base import Extraction, Extractor, Running, column, register
from pipeline.features.running import RunningSummary
from pipeline.features.spectra import SharedSpectra
from pipeline.features.track import TrackInfo
from pipeline.late import torch

_KLAPURI = "Klapuri and Davy, Signal Processing Methods for Music Transcription, 2006, chapter 5"
_DUBNOV = "Dubnov, Generalization of spectral flatness measure for non-Gaussian linear processes, 2004"
_JIANG = "Jiang et al., Music type classification by spectral contrast feature, 2002"

# What librosa takes for nothing: power in the flatness, magnitude in the contrast.
_LEAST = 1e-10

# Spectral contrast of librosa: octaves from 200 Hz, the band below them, and the strongest and weakest
# fiftieth of the bins of each.
_CONTRAST_LOWEST_HZ = 200.0
_CONTRAST_BANDS = 7
_CONTRAST_QUANTILE = 0.02
_CONTRAST_TOP_DB = 80.0

# Frames at a time: few enough for the cache of a core, enough that the calls themselves do not count, and no
# power of two, at which all bins of a frame would lie in the same few lines of the cache.
_CHUNK_FRAMES = 248


@register
@dataclass(frozen=True)
class Spectral(Extractor):
    """Shape of the magnitude spectrum per frame, as in librosa, summarised over the frames that sound.

    Each frame's values are those of ``librosa.feature.spectral_centroid``, ``spectral_bandwidth``,
    ``spectral_rolloff``, ``spectral_flatness`` and ``spectral_contrast``. A silent frame has no spectrum to
    describe (librosa gives it a centroid of 0 Hz and a flatness of 1) and is left out of all statistics.

    Contrast is ``10 log10`` of a ratio of magnitudes, as librosa has it: half the difference in level. Its
    bands begin at 0, 200, 400, 800, 1600, 3200 and 6400 Hz and the last one ends at half the sample rate;
    below 12.8 kHz sample rate there are fewer. A band no wider than an FFT bin has contrast 0.

    Args:
        n_fft: FFT length, samples.
        hop_length: samples between frames.
        roll_percent: share of the magnitudes of a frame at and below its rolloff.
        silence_dbfs: a frame is silent when its RMS under the window is below this level.
    """

    name: ClassVar[str] = "spectral"
    version: ClassVar[str] = "2"
    views: ClassVar[tuple[str, ...]] = ("mono",)
    description: ClassVar[str] = "centroid, bandwidth, rolloff, flatness and contrast of the spectrum"

    n_fft: int = 2048
    hop_length: int = 512
    roll_percent: float = 0.85
    silence_dbfs: float = -100.0

    def check(self) -> None:
        if self.n_fft < 64:
            raise ValueError(f"n_fft={self.n_fft} must be at least 64")
        if not self.hop_length > 0:
            raise ValueError(f"hop_length={self.hop_length} must be positive")
        if not 0 < self.roll_percent < 1:
            raise ValueError(f"roll_percent={self.roll_percent} must lie between 0 and 1")
        if not -300 <= self.silence_dbfs < 0:
            raise ValueError(f"silence_dbfs={self.silence_dbfs} must lie within -300..0")

    def columns(self) -> tuple[pa.Field, ...]:
        over = f"over the frames with an RMS of at least {self.silence_dbfs:g} dBFS"
        quantities = {
            "centroid": ("mean frequency, weighted by magnitude", _KLAPURI),
            "bandwidth": ("standard deviation of frequency, weighted by magnitude", _KLAPURI),
            "rolloff": (
                f"least frequency with {self.roll_percent:g} of the magnitude at and below it",
                "librosa.feature.spectral_rolloff",
            ),
        }
        words = {"mean": "mean", "std": "standard deviation"}
        return (
            *(
                column(
                    f"spectral_{name}_{s}_hz", pa.float32(), "Hz", f"{definition}: {words[s]} {over}", source
                )
                for name, (definition, source) in quantities.items()
                for s in words
            ),
            column(
                "spectral_flatness_mean",
                pa.float32(),
                "ratio",
                f"geometric over arithmetic mean of the power of the bins, in 0..1: mean {over}",
                _DUBNOV,
            ),
            column(
                "spectral_contrast_mean",
                pa.list_(pa.float32()),
                "dB",
                "strongest over weakest bins, 10 log10 of magnitudes, per band from 0, 200, 400, 800, 1600, "
                f"3200 and 6400 Hz up: mean {over}",
                _JIANG,
            ),
        )

    def start(self, track: TrackInfo) -> Running:
        """Begin a track; all None without samples and for silence."""
        return _SpectralRun(self)


class _SpectralRun(Running):
    def __init__(self, spectral: Spectral) -> None:
        self.spectral = spectral
        self.frequencies = RunningSummary(("mean", "std"))
        self.others = RunningSummary(("mean",))

    def add(self, block: SharedSpectra) -> None:
        spectral = self.spectral
        frames = shared_frames(block, spectral)
        # The range of the contrast ends so far below the strongest bins of the whole track, as in librosa.
        loudest = block.track.fact(
            ("contrast", spectral.n_fft, spectral.hop_length),
            block.number,
            frames.loudest,
            np.maximum,
        )
        sounding = frames.mean_square >= 10.0 ** (spectral.silence_dbfs / 10.0)
        if not sounding.any():
            return
        rows = np.stack([frames.centroid, frames.bandwidth, frames.rolloff])
        self.frequencies.add(rows[:, sounding])
        self.others.add(np.concatenate([frames.flatness[None], frames.contrast(loudest)])[:, sounding])

    def finish(self) -> Extraction:
        values: dict[str, float | np.ndarray | None] = {f.name: None for f in self.spectral.columns()}
        if not self.frequencies.frames:
            return Extraction(values)
        for statistic, found in self.frequencies.values().items():
            for name, value in zip(("centroid", "bandwidth", "rolloff"), found, strict=True):
                values[f"spectral_{name}_{statistic}_hz"] = float(value)
        flatness, *contrast = self.others.values()["mean"]
        values["spectral_flatness_mean"] = float(flatness)
        values["spectral_contrast_mean"] = np.array(contrast, dtype=np.float32)
        return Extraction(values)


@dataclass(frozen=True)
class SpectralFrames:
    """Spectral descriptors of each frame, float64 ``[frames]``; meaningless where a frame is silent.

    Args:
        mean_square: power of the samples under the window; 1 is a full-scale square wave.
        centroid: Hz.
        bandwidth: Hz.
        rolloff: Hz, the centre of a bin.
        flatness: 0..1.
        peak, valley: mean magnitude of the strongest and of the weakest bins, ``[bands, frames]``.
    """

    mean_square: np.ndarray
    centroid: np.ndarray
    bandwidth: np.ndarray
    rolloff: np.ndarray
    flatness: np.ndarray
    peak: np.ndarray
    valley: np.ndarray

    def loudest(self) -> np.ndarray:
        """The largest ``peak`` and the largest ``valley`` of these frames."""
        return np.array([band.max(initial=0.0) for band in (self.peak, self.valley)])

    def contrast(self, loudest: np.ndarray) -> np.ndarray:
        """Contrast, ``[bands, frames]``, dB, in a track whose `loudest` values are given."""
        return _decibels(self.peak, loudest[0]) - _decibels(self.valley, loudest[1])


def shared_frames(block: SharedSpectra, spectral: Spectral) -> SpectralFrames:
    """`describe_frames` of a block with the parameters of an extractor, once for all who ask with the same ones."""
    n_fft, hop_length, roll_percent = spectral.n_fft, spectral.hop_length, spectral.roll_percent
    return block.result(
        ("spectral", n_fft, hop_length, roll_percent),
        lambda asked: describe_frames(asked.power(n_fft, hop_length), asked.sample_rate, n_fft, roll_percent),
    )


def describe_frames(
    power: torch.Tensor, sample_rate: int, n_fft: int, roll_percent: float = 0.85
) -> SpectralFrames:
    """Descriptors of each frame of a power spectrogram, see `Spectral`.

    Args:
        power: ``[n_fft // 2 + 1, frames]``, of frames under a Hann window.
        sample_rate: Hz.
        n_fft: FFT length, samples.
        roll_percent: share of the magnitudes at and below the rolloff.
    """
    bands = contrast_bands(sample_rate, n_fft)
    energy = n_fft * float(hann_window(n_fft).double().square().sum())
    rows = power.new_zeros((5 + 2 * len(bands), power.shape[1]), dtype=torch.float64)
    for start in range(0, power.shape[1], _CHUNK_FRAMES):
        chunk = slice(start, start + _CHUNK_FRAMES)
        sums = frame_sums(transposed(power.T[chunk]), _LEAST)
        # Parseval: the bins of a real signal count twice, the one at 0 Hz once.
        rows[0, chunk] = (2.0 * sums.power - power[0, chunk]) / energy
        rows[1, chunk], rows[2, chunk] = _centroid_and_bandwidth(sums.moments, sample_rate / n_fft)
        rows[3, chunk] = crossing_bin(sums.magnitude, roll_percent * sums.moments[0]) * (sample_rate / n_fft)
        rows[4, chunk] = sums.log.exp() / (sums.floored / len(power))
        for row, (first, stop, count) in enumerate(bands, start=5):
            found = extreme_means(sums.magnitude[first:stop], count)
            rows[row, chunk], rows[row + len(bands), chunk] = found
    values = rows.numpy()
    return SpectralFrames(*values[:5], values[5 : 5 + len(bands)], values[5 + len(bands) :])


def contrast_bands(sample_rate: int, n_fft: int) -> list[tuple[int, int, int]]:
    """The bands of ``librosa.feature.spectral_contrast`` that begin below half the sample rate.

    Returns:
        per band the first bin, the bin after the last one, and how many bins count as strongest or weakest.
    """
    frequencies = np.arange(n_fft // 2 + 1) * (sample_rate / n_fft)
    lower = np.append(0.0, _CONTRAST_LOWEST_HZ * 2.0 ** np.arange(_CONTRAST_BANDS - 1))
    lower = lower[lower < sample_rate / 2]
    bands = []
    for i, low in enumerate(lower):
        # librosa adds the bin below each octave and leaves the highest one, but counts it.
        first = max(int(np.searchsorted(frequencies, low)) - 1, 0)
        if i + 1 < len(lower):
            counted = int(np.searchsorted(frequencies, lower[i + 1], side="right"))
            stop = max(counted - 1, first + 1)
        else:
            counted = stop = len(frequencies)
        bands.append((first, stop, max(1, int(np.rint(_CONTRAST_QUANTILE * (counted - first))))))
    return bands


def _centroid_and_bandwidth(moments: torch.Tensor, bin_hz: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and standard deviation of frequency from `FrameSums.moments`: two of float64 ``[frames]``, Hz."""
    total = moments[0].clamp_min(torch.finfo(torch.float32).tiny)
    centroid = moments[1] / total
    variance = moments[2] / total - centroid.square()
    return centroid * bin_hz, variance.clamp_min(0.0).sqrt() * bin_hz


def _decibels(magnitude: np.ndarray, loudest: float) -> np.ndarray:
    """``librosa.power_to_db`` with its default reference, least value and range; same shape."""
    least = max(_LEAST, float(loudest) * 10.0 ** (-_CONTRAST_TOP_DB / 10.0))
    return 10.0 * np.log10(np.maximum(magnitude, least))
