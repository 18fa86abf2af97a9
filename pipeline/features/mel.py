"""Mel spectrogram in dB relative to full scale."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pyarrow as pa

from pipeline.errors import Fallback
from pipeline.features.base import Extraction, Extractor, Running, blob_columns, column, register
from pipeline.features.running import GroupMeans, RunningSummary
from pipeline.features.spectra import SharedSpectra, hann_window
from pipeline.features.statistics import decibels_above, frames_per_group
from pipeline.features.track import TrackInfo

CHANNELS = ("mix", "each")

_STATISTICS = ("mean", "std", "min", "max")
_SOURCE = "Slaney, Auditory Toolbox, 1998; librosa.feature.melspectrogram"


@register
@dataclass(frozen=True)
class Mel(Extractor):
    """Mel spectrogram: statistics per band over all frames, and the matrix at a low frame rate.

    The power spectrum is divided by ``(sum(window) / 2) ** 2``, so that a full-scale sine at the centre of an
    FFT bin has 0 dB in that bin, and then weighted by the Slaney mel filters, whose area is 1. A
    full-scale sine at the centre of FFT bin ``k`` therefore reads ``10 log10(w[k] + (w[k-1] + w[k+1]) / 4)``
    dB in the band whose weights are ``w``: between -13 and -14 dB below 1 kHz at the
    defaults and 22050 Hz, less in the wider bands above. Nothing is clipped at the top. This is
    ``librosa.power_to_db(librosa.feature.melspectrogram(...), top_db=None)`` less the constant
    ``20 log10(sum(window) / 2)``, 54.19 dB for ``n_fft=2048``.

    Args:
        n_fft: FFT length, samples.
        hop_length: samples between frames.
        n_mels: mel bands.
        fmin: lower edge of the lowest band, Hz.
        fmax: upper edge of the highest band, Hz; 0 is half the sample rate, and more than that is cut to it.
        floor_db: the least value; digital silence reads it.
        series_rate_hz: frames per second of the matrix, to the nearest whole number of frames averaged.
        channels: ``mix`` is the mean of all channels; ``each`` gives the statistics of the first channel, then
            those of the next, and a matrix ``[channels, n_mels, time]``.
    """

    name: ClassVar[str] = "mel"
    version: ClassVar[str] = "3"
    description: ClassVar[str] = "mel spectrogram in dB relative to full scale, per band"

    n_fft: int = 2048
    hop_length: int = 512
    n_mels: int = 128
    fmin: float = 0.0
    fmax: float = 0.0
    floor_db: float = -100.0
    series_rate_hz: float = 2.0
    channels: str = "mix"

    @property
    def views(self) -> tuple[str, ...]:  # type: ignore[override]
        """The mono mix, or every channel at the DSP rate."""
        return ("mono",) if self.channels == "mix" else ("mono", "channels")

    def check(self) -> None:
        for parameter in ("n_fft", "hop_length", "n_mels", "series_rate_hz"):
            value = getattr(self, parameter)
            if not value > 0:
                raise ValueError(f"{parameter}={value} must be positive")
        if self.n_fft < 16:
            raise ValueError(f"n_fft={self.n_fft} must be at least 16")
        if self.fmin < 0:
            raise ValueError(f"fmin={self.fmin} must not be negative")
        if self.fmax != 0 and not self.fmax > self.fmin:
            raise ValueError(f"fmax={self.fmax} must exceed fmin={self.fmin} or be 0, half the sample rate")
        if not -300 <= self.floor_db < 0:
            raise ValueError(f"floor_db={self.floor_db} must lie within -300..0")
        if self.channels not in CHANNELS:
            raise ValueError(f"channels={self.channels} must be one of {', '.join(CHANNELS)}")

    def columns(self) -> tuple[pa.Field, ...]:
        bands = "per band" if self.channels == "mix" else "per channel and band,"
        shape = "[n_mels, time]" if self.channels == "mix" else "[channels, n_mels, time]"
        over = (
            f"over the frames, {bands} of unit area, at least {self.floor_db:g} dB; "
            "0 dB is a full-scale sine in its FFT bin"
        )
        words = {"mean": "mean", "std": "standard deviation", "min": "least value", "max": "greatest value"}
        return (
            *(
                column(f"mel_{s}", pa.list_(pa.float32()), "dB", f"mel level: {words[s]} {over}", _SOURCE)
                for s in _STATISTICS
            ),
            *blob_columns(
                "mel",
                "dB",
                f"mel levels {shape}, power averaged to about {self.series_rate_hz:g} frames/s",
                _SOURCE,
            ),
        )

    def start(self, track: TrackInfo) -> Running:
        """Begin a track; its columns are all None without samples.

        Raises:
            ValueError: ``fmin`` is not below half the sample rate.
        """
        return _MelRun(self, track)

    def upper_edge(self, sample_rate: int) -> tuple[float, list[Fallback]]:
        nyquist = sample_rate / 2
        if self.fmin >= nyquist:
            raise ValueError(f"mel.fmin={self.fmin:g} is not below half the sample rate, {nyquist:g} Hz")
        if self.fmax <= nyquist:
            return self.fmax or nyquist, []
        reason = f"half the sample rate is {nyquist:g} Hz"
        return nyquist, [Fallback("features", f"mel.fmax={self.fmax:g}", f"{nyquist:g}", reason)]

    def empty_bands(self, spectra: SharedSpectra, fmax: float) -> list[Fallback]:
        bank = spectra.mel_bank(self.n_fft, self.n_mels, self.fmin, fmax)
        empty = int((bank.amax(dim=1) == 0).sum())
        if not empty:
            return []
        wanted = f"mel.n_mels={self.n_mels} with n_fft={self.n_fft}"
        reason = f"bands narrower than an FFT bin of {spectra.sample_rate / self.n_fft:.1f} Hz"
        return [Fallback("features", wanted, f"{self.floor_db:g} dB in {empty} bands", reason)]


class _MelRun(Running):
    def __init__(self, mel: Mel, track: TrackInfo) -> None:
        self.mel = mel
        self.fmax, self.fallbacks = mel.upper_edge(track.sample_rate)
        self.reference = float(hann_window(mel.n_fft).double().sum() / 2) ** 2
        group = frames_per_group(track.sample_rate, mel.hop_length, mel.series_rate_hz)
        count = track.channels if mel.channels == "each" else 1
        self.statistics = [RunningSummary(_STATISTICS) for _ in range(count)]
        self.series = [GroupMeans(group) for _ in range(count)]

    def add(self, block: SharedSpectra) -> None:
        mel = self.mel
        if not self.statistics[0].frames:
            self.fallbacks += mel.empty_bands(block, self.fmax)
        first = block.axis.frames(mel.hop_length).start
        parts = block.channels() if mel.channels == "each" else [block]
        for part, statistics, series in zip(parts, self.statistics, self.series, strict=True):
            power = part.mel(mel.n_fft, mel.hop_length, mel.n_mels, mel.fmin, self.fmax)
            relative = power.numpy() / np.float32(self.reference)
            statistics.add(decibels_above(relative, mel.floor_db))
            series.add(first, relative)

    def finish(self) -> Extraction:
        if not self.statistics[0].frames:
            return Extraction({f"mel_{s}": None for s in _STATISTICS})
        found = [statistics.values() for statistics in self.statistics]
        matrices = [decibels_above(s.means(), self.mel.floor_db).astype(np.float32) for s in self.series]
        return Extraction(
            values={
                f"mel_{s}": np.concatenate([v[s] for v in found]).astype(np.float32) for s in _STATISTICS
            },
            arrays={"mel": matrices[0] if self.mel.channels == "mix" else np.stack(matrices)},
            fallbacks=self.fallbacks,
        )
