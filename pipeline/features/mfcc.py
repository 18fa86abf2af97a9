"""Mel-frequency cepstral coefficients: the shape of the spectrum in a few numbers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pyarrow as pa

from pipeline.errors import Fallback
from pipeline.features.base import Extraction, Extractor, Running, column, register
from pipeline.features.running import RunningSummary
from pipeline.features.spectra import SharedSpectra
from pipeline.features.track import TrackInfo
from pipeline.late import torch

_STATISTICS = ("mean", "std")
_SOURCE = "Davis and Mermelstein, 1980; librosa.feature.mfcc"

# The least power librosa.power_to_db tells from silence.
_LEAST_POWER = 1e-10

_CHUNK_FRAMES = 4096


@register
@dataclass(frozen=True)
class Mfcc(Extractor):
    """Mean and standard deviation of each coefficient of ``librosa.feature.mfcc``.

    The orthonormal DCT-II of the mel spectrum in dB. As in librosa the dB are those of the spectrum as it
    is, not relative to full scale, and are cut ``top_db`` below the loudest band of the track; only
    coefficient 0, which follows the level, depends on that reference. The mel bands span 0 Hz to half the
    sample rate, and are those of the mel extractor where its ``n_fft``, ``hop_length``, ``n_mels``, ``fmin``
    and ``fmax`` are the same.

    Args:
        n_fft: FFT length, samples.
        hop_length: samples between frames.
        n_mels: mel bands.
        n_mfcc: coefficients, from coefficient 0 on.
        top_db: range below the loudest band of the track, dB.
    """

    name: ClassVar[str] = "mfcc"
    version: ClassVar[str] = "2"
    views: ClassVar[tuple[str, ...]] = ("mono",)
    description: ClassVar[str] = "mel-frequency cepstral coefficients"

    n_fft: int = 2048
    hop_length: int = 512
    n_mels: int = 128
    n_mfcc: int = 20
    top_db: float = 80.0

    def check(self) -> None:
        for parameter in ("hop_length", "n_mels", "n_mfcc", "top_db"):
            value = getattr(self, parameter)
            if not value > 0:
                raise ValueError(f"{parameter}={value} must be positive")
        if self.n_fft < 16:
            raise ValueError(f"n_fft={self.n_fft} must be at least 16")
        if self.n_mfcc > self.n_mels:
            raise ValueError(f"n_mfcc={self.n_mfcc} must not exceed n_mels={self.n_mels}")

    def columns(self) -> tuple[pa.Field, ...]:
        over = f"over the frames of coefficients 0 to {self.n_mfcc - 1}; undefined for silence"
        real = pa.list_(pa.float32())
        return (
            column("mfcc_mean", real, "dB", f"mel-frequency cepstral coefficients: mean {over}", _SOURCE),
            column(
                "mfcc_std",
                real,
                "dB",
                f"mel-frequency cepstral coefficients: standard deviation {over}",
                _SOURCE,
            ),
        )

    def start(self, track: TrackInfo) -> Running:
        """Begin a track; None without samples and where no mel band exceeds 1e-10."""
        return _MfccRun(self)

    def empty_bands(self, spectra: SharedSpectra, nyquist: float) -> list[Fallback]:
        bank = spectra.mel_bank(self.n_fft, self.n_mels, 0.0, nyquist)
        empty = int((bank.amax(dim=1) == 0).sum())
        if not empty:
            return []
        wanted = f"mfcc.n_mels={self.n_mels} with n_fft={self.n_fft}"
        reason = f"bands narrower than an FFT bin of {spectra.sample_rate / self.n_fft:.1f} Hz"
        return [Fallback("features", wanted, f"the least level in {empty} bands", reason)]


class _MfccRun(Running):
    def __init__(self, mfcc: Mfcc) -> None:
        self.mfcc = mfcc
        self.statistics = RunningSummary(_STATISTICS)
        self.fallbacks: list[Fallback] = []

    def add(self, block: SharedSpectra) -> None:
        mfcc, nyquist = self.mfcc, block.sample_rate / 2
        bands = mfcc.n_fft, mfcc.hop_length, mfcc.n_mels, 0.0, nyquist
        loudest = block.loudest_mel(*bands)
        if loudest <= _LEAST_POWER:
            return
        if not self.statistics.frames:
            self.fallbacks = mfcc.empty_bands(block, nyquist)
        coefficients = cepstrum(block.mel(*bands), mfcc.n_mfcc, mfcc.top_db, loudest)
        self.statistics.add(coefficients.numpy())

    def finish(self) -> Extraction:
        if not self.statistics.frames:
            return Extraction({f"mfcc_{s}": None for s in _STATISTICS})
        found = self.statistics.values()
        values = {f"mfcc_{s}": value.astype(np.float32) for s, value in found.items()}
        return Extraction(values, fallbacks=self.fallbacks)


def dct_basis(n_coefficients: int, n_samples: int) -> torch.Tensor:
    """First rows of the orthonormal DCT-II, as ``scipy.fft.dct(..., norm="ortho")`` applies it.

    Shape: float32 ``[n_coefficients, n_samples]``.
    """
    order = torch.arange(n_coefficients, dtype=torch.float64)[:, None]
    position = torch.arange(n_samples, dtype=torch.float64) + 0.5
    basis = torch.cos(torch.pi / n_samples * order * position) * (2.0 / n_samples) ** 0.5
    basis[0] *= 0.5**0.5
    return basis.float()


def cepstrum(mel: torch.Tensor, n_mfcc: int, top_db: float, loudest: float | None = None) -> torch.Tensor:
    """Cepstral coefficients of a mel power spectrogram.

    Args:
        mel: ``[n_mels, frames]``, power, at least one frame.
        n_mfcc: coefficients.
        top_db: bands are raised to so many dB below the loudest one.
        loudest: power of the loudest band of the track; None takes that of ``mel``.

    Shape: ``[n_mels, frames]`` → float32 ``[n_mfcc, frames]``.
    """
    basis = dct_basis(n_mfcc, mel.shape[0])
    loudest = float(mel.amax()) if loudest is None else loudest
    least = max(_LEAST_POWER, loudest * 10.0 ** (-top_db / 10.0))
    coefficients = mel.new_empty((n_mfcc, mel.shape[1]))
    for start in range(0, mel.shape[1], _CHUNK_FRAMES):
        chunk = slice(start, start + _CHUNK_FRAMES)
        coefficients[:, chunk] = basis @ mel[:, chunk].clamp_min(least).log10_().mul_(10.0)
    return coefficients
