"""Chroma: how much of each of the 12 pitch classes sounds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pyarrow as pa

from pipeline.errors import Fallback
from pipeline.features.base import Extraction, Extractor, blob_columns, column, register
from pipeline.features.spectra import SharedSpectra
from pipeline.features.statistics import aggregate, frames_per_group, group_means

METHODS = ("cqt", "stft")
NORMS = ("inf", "l2", "none")
_STATISTICS = ("mean", "std", "min", "max", "median", "p25", "p75")
_SOURCE = "Ellis, Chroma feature analysis and synthesis, 2007; librosa.feature.chroma_cqt and chroma_stft"

# A frame this far below the loudest one sounds of nothing but noise and of the ringing of the filters.
_SILENT_FRAME_DB = -60.0

# The constant-Q transform spans 7 octaves from C1. Its longest filter, 51.9 periods of C1 (32.7 Hz), lasts
# 1.6 s; its highest one, half a semitone sharp and with its skirt, reaches 4.3 kHz.
_CQT_SECONDS = 1.6
_CQT_HIGHEST_HZ = 4300.0


def cqt_obstacle(sample_rate: int, samples: int) -> str | None:
    """Why the constant-Q transform cannot run on a clip of ``samples`` at ``sample_rate`` Hz, or None."""
    if sample_rate / 2 < _CQT_HIGHEST_HZ:
        return f"the constant-Q transform reaches {_CQT_HIGHEST_HZ:g} Hz, half the sample rate does not"
    if samples < _CQT_SECONDS * sample_rate:
        return f"the clip is shorter than the longest constant-Q filter, {_CQT_SECONDS:g} s"
    return None


@register
@dataclass(frozen=True)
class Chroma(Extractor):
    """Energy (``stft``) or magnitude (``cqt``) per pitch class, each frame divided by its norm.

    Pitch classes are in the order C, C#, … B, after the track's own tuning. Frames more than 60 dB below the
    loudest one have no pitch: they are left out of the statistics and are zero in the matrix.

    Args:
        method: ``cqt`` is ``librosa.feature.chroma_cqt``; where it cannot run (clip under 1.6 s, sample rate
            under 8600 Hz) the track gets ``stft`` and a fallback record. ``stft`` equals
            ``librosa.feature.chroma_stft``.
        n_fft: FFT length, samples, of ``stft`` and of the tuning.
        hop_length: samples between frames.
        norm: of each frame: ``inf`` (largest is 1), ``l2`` (unit length) or ``none``.
        series_rate_hz: frames per second of the matrix, to the nearest whole number of frames averaged.
    """

    name: ClassVar[str] = "chroma"
    version: ClassVar[str] = "2"
    views: ClassVar[tuple[str, ...]] = ("mono",)
    description: ClassVar[str] = "strength of the 12 pitch classes, and the tuning"

    method: str = "cqt"
    n_fft: int = 2048
    hop_length: int = 512
    norm: str = "inf"
    series_rate_hz: float = 2.0

    def check(self) -> None:
        for parameter, choices in (("method", METHODS), ("norm", NORMS)):
            value = getattr(self, parameter)
            if value not in choices:
                raise ValueError(f"{parameter}={value} must be one of {', '.join(choices)}")
        if self.n_fft < 256:
            raise ValueError(f"n_fft={self.n_fft} must be at least 256")
        for parameter in ("hop_length", "series_rate_hz"):
            value = getattr(self, parameter)
            if not value > 0:
                raise ValueError(f"{parameter}={value} must be positive")

    def columns(self) -> tuple[pa.Field, ...]:
        words = {
            "mean": "mean",
            "std": "standard deviation",
            "min": "least value",
            "max": "greatest value",
            "median": "median",
            "p25": "25th percentile",
            "p75": "75th percentile",
        }
        over = "over the frames that sound, per pitch class from C to B"
        return (
            *(
                column(f"chroma_{s}", pa.list_(pa.float32()), "1", f"chroma: {words[s]} {over}", _SOURCE)
                for s in _STATISTICS
            ),
            column(
                "chroma_tuning",
                pa.float32(),
                "semitone",
                "deviation from A440 as a fraction of a bin of one semitone, in [-0.5, 0.5)",
                "librosa.estimate_tuning",
            ),
            column("chroma_method", pa.string(), "name", "transform really used: cqt or stft"),
            *blob_columns(
                "chroma", "1", f"chroma [12, time], averaged to about {self.series_rate_hz:g} frames/s"
            ),
        )

    def extract(self, spectra: SharedSpectra) -> Extraction:
        """Compute the columns of one track; all None for silence and without samples."""
        undefined = Extraction({f.name: None for f in self.columns()[: len(_STATISTICS) + 2]})
        waveform = spectra.waveform()
        if waveform.numel() == 0 or float(waveform.abs().amax()) == 0.0:
            return undefined
        method, fallbacks = self._method(spectra)
        if method == "cqt":
            raw = spectra.chroma_cqt(self.n_fft, self.hop_length)
        else:
            raw = spectra.chroma_stft(self.n_fft, self.hop_length)
        chroma, sounding = normalise_frames(raw.cpu().numpy(), self.norm, 20.0 if method == "cqt" else 10.0)
        if not sounding.any():
            return undefined
        statistics = aggregate(chroma[:, sounding], _STATISTICS)
        group = frames_per_group(spectra.sample_rate, self.hop_length, self.series_rate_hz)
        values = {f"chroma_{s}": v.astype(np.float32) for s, v in statistics.items()}
        values["chroma_tuning"] = spectra.tuning(self.n_fft, self.hop_length)
        values["chroma_method"] = method
        series = {"chroma": group_means(chroma, group).astype(np.float32)}
        return Extraction(values, series, fallbacks)

    def _method(self, spectra: SharedSpectra) -> tuple[str, list[Fallback]]:
        if self.method == "stft":
            return "stft", []
        reason = cqt_obstacle(spectra.sample_rate, spectra.waveform().numel())
        if reason is None:
            return "cqt", []
        return "stft", [Fallback("features", "chroma.method=cqt", "stft", reason)]


def normalise_frames(raw: np.ndarray, norm: str, db_per_decade: float) -> tuple[np.ndarray, np.ndarray]:
    """Divide each frame by its norm.

    Args:
        raw: ``[12, frames]``, not negative.
        norm: one of `NORMS`.
        db_per_decade: 10 where ``raw`` is energy, 20 where it is magnitude.

    Returns:
        float64 ``[12, frames]``, zero in silent frames, and bool ``[frames]``, true where a frame sounds.
    """
    raw = raw.astype(np.float64)
    loudest = raw.max(axis=0)
    sounding = loudest > loudest.max() * 10.0 ** (_SILENT_FRAME_DB / db_per_decade)
    divisor = {"inf": loudest, "l2": np.linalg.norm(raw, axis=0), "none": np.ones_like(loudest)}[norm]
    return np.where(sounding, raw / np.where(sounding, divisor, 1.0), 0.0), sounding
