"""Chroma: how much of each of the 12 pitch classes sounds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pyarrow as pa

from pipeline.dsp.cqt import cqt_obstacle
from pipeline.errors import Fallback
from pipeline.features.base import Extraction, Extractor, Running, blob_columns, column, register
from pipeline.features.running import Grid, GroupMeans, RunningSummary
from pipeline.features.spectra import SharedSpectra
from pipeline.features.statistics import frames_per_group
from pipeline.features.track import TrackInfo

METHODS = ("cqt", "stft")
NORMS = ("inf", "l2", "none")
_STATISTICS = ("mean", "std", "min", "max", "median", "p25", "p75")
_SOURCE = "Ellis, Chroma feature analysis and synthesis, 2007; librosa.feature.chroma_cqt and chroma_stft"

# Of a long track, quantiles of a chroma in 0..1 are exact within this.
_QUANTILE_STEP = 1 / 4096

# A frame this far below the loudest one sounds of nothing but noise and of the ringing of the filters.
_SILENT_FRAME_DB = -60.0


@register
@dataclass(frozen=True)
class Chroma(Extractor):
    """Energy (``stft``) or magnitude (``cqt``) per pitch class, each frame divided by its norm.

    Pitch classes are in the order C, C#, … B, after the track's own tuning. Frames more than 60 dB below the
    loudest one have no pitch: they are left out of the statistics and are zero in the matrix. Of a track of several
    blocks the quantiles are right within 1/4096 of the largest value.

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
    version: ClassVar[str] = "3"
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
                "chroma",
                "1",
                f"chroma [12, time], averaged to about {self.series_rate_hz:g} frames/s",
                _SOURCE,
            ),
        )

    def start(self, track: TrackInfo) -> Running:
        """Begin a track; all None for silence and without samples."""
        return _ChromaRun(self, track)


def usable_method(wanted: str, key: str, block: SharedSpectra) -> tuple[str, list[Fallback]]:
    """``wanted``, or ``stft`` and why where the constant-Q transform cannot run.

    Args:
        wanted: one of `METHODS`.
        key: the parameter that asks, such as ``chroma.method``.
        block: the first of the track; a track of several is long enough.
    """
    reason = cqt_obstacle(block.sample_rate, block.axis.stop) if wanted == "cqt" else None
    if reason is None:
        return wanted, []
    return "stft", [Fallback("features", f"{key}=cqt", "stft", reason)]


class _ChromaRun(Running):
    def __init__(self, chroma: Chroma, track: TrackInfo) -> None:
        self.chroma = chroma
        self.method: str | None = None
        self.fallbacks: list[Fallback] = []
        self.tuning: float | None = None
        self.statistics: RunningSummary | None = None
        group = frames_per_group(track.sample_rate, chroma.hop_length, chroma.series_rate_hz)
        self.series = GroupMeans(group)

    def add(self, block: SharedSpectra) -> None:
        chroma = self.chroma
        if self.method is None:
            self.method, self.fallbacks = usable_method(chroma.method, "chroma.method", block)
        lengths = chroma.n_fft, chroma.hop_length
        loudest = block.loudest_chroma(self.method, *lengths)
        if loudest == 0.0:
            return
        self.tuning = block.tuning(*lengths)
        raw = block.chroma(self.method, *lengths).numpy()
        frames, sounding = normalise_frames(raw, chroma.norm, self.method, loudest)
        if self.statistics is None:
            highest = loudest if chroma.norm == "none" else 1.0
            self.statistics = RunningSummary(_STATISTICS, Grid(0.0, highest, highest * _QUANTILE_STEP))
        self.statistics.add(frames[:, sounding])
        self.series.add(block.axis.frames(chroma.hop_length).start, frames)

    def finish(self) -> Extraction:
        if self.statistics is None or not self.statistics.frames:
            return Extraction({f.name: None for f in self.chroma.columns()[: len(_STATISTICS) + 2]})
        values = {f"chroma_{s}": v.astype(np.float32) for s, v in self.statistics.values().items()}
        values["chroma_tuning"] = self.tuning
        values["chroma_method"] = self.method
        return Extraction(values, {"chroma": self.series.means()}, self.fallbacks)


def normalise_frames(
    raw: np.ndarray, norm: str, method: str, loudest: float | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Divide each frame by its norm.

    Args:
        raw: ``[12, frames]``, not negative.
        norm: one of `NORMS`.
        method: one of `METHODS`: ``raw`` is energy of ``stft`` and magnitude of ``cqt``.
        loudest: largest value of the track; None takes that of ``raw``.

    Returns:
        float64 ``[12, frames]``, zero in silent frames, and bool ``[frames]``, true where a frame sounds.
    """
    raw = raw.astype(np.float64)
    highest = raw.max(axis=0)
    loudest = highest.max(initial=0.0) if loudest is None else loudest
    sounding = highest > loudest * 10.0 ** (_SILENT_FRAME_DB / (20.0 if method == "cqt" else 10.0))
    divisor = {"inf": highest, "l2": np.linalg.norm(raw, axis=0), "none": np.ones_like(highest)}[norm]
    return np.where(sounding, raw / np.where(sounding, divisor, 1.0), 0.0), sounding
