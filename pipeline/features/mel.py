"""Mel spectrogram in dB relative to full scale."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pyarrow as pa

from pipeline.errors import Fallback
from pipeline.features.base import Extraction, Extractor, blob_columns, column, register
from pipeline.features.spectra import SharedSpectra, hann_window
from pipeline.features.statistics import aggregate, decibels_above, frames_per_group, group_means

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
    """

    name: ClassVar[str] = "mel"
    version: ClassVar[str] = "2"
    views: ClassVar[tuple[str, ...]] = ("mono",)
    description: ClassVar[str] = "mel spectrogram in dB relative to full scale, per band"

    n_fft: int = 2048
    hop_length: int = 512
    n_mels: int = 128
    fmin: float = 0.0
    fmax: float = 0.0
    floor_db: float = -100.0
    series_rate_hz: float = 2.0

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

    def columns(self) -> tuple[pa.Field, ...]:
        over = (
            f"over the frames, per band of unit area, at least {self.floor_db:g} dB; "
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
                f"mel levels [n_mels, time], power averaged to about {self.series_rate_hz:g} frames/s",
            ),
        )

    def extract(self, spectra: SharedSpectra) -> Extraction:
        """Compute the columns of one track; all None without samples.

        Raises:
            ValueError: ``fmin`` is not below half the sample rate.
        """
        fmax, fallbacks = self._upper_edge(spectra.sample_rate)
        power = spectra.mel(self.n_fft, self.hop_length, self.n_mels, self.fmin, fmax)
        if power.shape[1] == 0:
            return Extraction({f"mel_{s}": None for s in _STATISTICS})
        reference = float(hann_window(self.n_fft).double().sum() / 2) ** 2
        mel = power.cpu().numpy() / np.float32(reference)
        per_band = aggregate(decibels_above(mel, self.floor_db), _STATISTICS)
        group = frames_per_group(spectra.sample_rate, self.hop_length, self.series_rate_hz)
        series = decibels_above(group_means(mel, group), self.floor_db)
        return Extraction(
            values={f"mel_{s}": values.astype(np.float32) for s, values in per_band.items()},
            arrays={"mel": series.astype(np.float32)},
            fallbacks=fallbacks + self._empty_bands(spectra, fmax),
        )

    def _upper_edge(self, sample_rate: int) -> tuple[float, list[Fallback]]:
        nyquist = sample_rate / 2
        if self.fmin >= nyquist:
            raise ValueError(f"mel.fmin={self.fmin:g} is not below half the sample rate, {nyquist:g} Hz")
        if self.fmax <= nyquist:
            return self.fmax or nyquist, []
        reason = f"half the sample rate is {nyquist:g} Hz"
        return nyquist, [Fallback("features", f"mel.fmax={self.fmax:g}", f"{nyquist:g}", reason)]

    def _empty_bands(self, spectra: SharedSpectra, fmax: float) -> list[Fallback]:
        bank = spectra.mel_bank(self.n_fft, self.n_mels, self.fmin, fmax)
        empty = int((bank.amax(dim=1) == 0).sum())
        if not empty:
            return []
        wanted = f"mel.n_mels={self.n_mels} with n_fft={self.n_fft}"
        reason = f"bands narrower than an FFT bin of {spectra.sample_rate / self.n_fft:.1f} Hz"
        return [Fallback("features", wanted, f"{self.floor_db:g} dB in {empty} bands", reason)]
