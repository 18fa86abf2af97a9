"""Loudness and levels of the native channels."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pyarrow as pa

from pipeline.features import bs1770
from pipeline.features.base import Extraction, Extractor, column, register
from pipeline.features.spectra import SharedSpectra
from pipeline.features.statistics import aggregate, decibels, decibels_above

_FRAME_STATISTICS = ("mean", "std", "median", "p10", "p90")
_BS1770 = "ITU-R BS.1770-4"


@register
@dataclass(frozen=True)
class Loudness(Extractor):
    """Programme loudness, loudness range, true peak and RMS, over all native channels at the native rate.

    0 dBFS is the level of a full-scale square wave: a full-scale sine has a peak of 0 and an RMS of -3.01.
    All values are None for digital silence, whose level is minus infinity. The weights of the channels are
    those of `pipeline.features.bs1770.channel_weights`.

    Args:
        frame_seconds: length of the frames of ``loudness_frame_rms_*``, which do not overlap.
        floor_dbfs: level of a frame of digital silence within a track that is not silent.
    """

    name: ClassVar[str] = "loudness"
    version: ClassVar[str] = "2"
    views: ClassVar[tuple[str, ...]] = ("native",)
    description: ClassVar[str] = "BS.1770 loudness, loudness range, true peak and RMS levels"

    frame_seconds: float = 0.05
    floor_dbfs: float = -100.0

    def check(self) -> None:
        if not 0.001 <= self.frame_seconds <= 10:
            raise ValueError(f"frame_seconds={self.frame_seconds} must lie within 0.001..10")
        if not -300 <= self.floor_dbfs < 0:
            raise ValueError(f"floor_dbfs={self.floor_dbfs} must lie within -300..0")

    def columns(self) -> tuple[pa.Field, ...]:
        real = pa.float32()
        frames = f"RMS level of frames of {self.frame_seconds:g} s, at least {self.floor_dbfs:g} dBFS"
        words = {
            "mean": "mean",
            "std": "standard deviation (dB)",
            "median": "median",
            "p10": "10th percentile",
            "p90": "90th percentile",
        }
        return (
            column(
                "loudness_integrated_lufs",
                real,
                "LUFS",
                "gated programme loudness; undefined under 400 ms, below -70 LUFS and under 4 kHz",
                _BS1770,
            ),
            column(
                "loudness_range_lu",
                real,
                "LU",
                "loudness range; undefined under 3 s, below -70 LUFS and under 4 kHz",
                "EBU Tech 3342",
            ),
            column(
                "loudness_true_peak_dbtp",
                real,
                "dBTP",
                "largest peak of all channels at 4 times the rate (2 from 96 kHz, 1 from 192 kHz)",
                f"{_BS1770}, annex 2",
            ),
            column("loudness_sample_peak_dbfs", real, "dBFS", "largest sample of all channels"),
            column("loudness_rms_dbfs", real, "dBFS", "RMS over all samples and channels; a sine has -3.01"),
            *(
                column(f"loudness_frame_rms_{s}_dbfs", real, "dBFS", f"{words[s]} of the {frames}")
                for s in _FRAME_STATISTICS
            ),
        )

    def extract(self, spectra: SharedSpectra) -> Extraction:
        """Compute the columns of one track; all None for silence and without samples."""
        values: dict[str, float | None] = {f.name: None for f in self.columns()}
        levels = spectra.levels()
        if levels is None or decibels(float(levels.mean_square.mean())) is None:
            return Extraction(values)
        peak = float(levels.peak.max())
        values["loudness_sample_peak_dbfs"] = 20.0 * math.log10(peak)
        values["loudness_rms_dbfs"] = decibels(float(levels.mean_square.mean()))
        true_peak = bs1770.true_peak(spectra.native, spectra.native_rate, spectra.device)
        values["loudness_true_peak_dbtp"] = 20.0 * math.log10(max(peak, true_peak))
        if spectra.native_rate >= bs1770.LOWEST_RATE:
            channels = spectra.native.shape[0]
            chunks = spectra.native_chunks(np.float32)
            steps = bs1770.measure_steps(chunks, channels, spectra.native_rate, spectra.device)
            values["loudness_integrated_lufs"] = bs1770.integrated_loudness(steps)
            values["loudness_range_lu"] = bs1770.loudness_range(steps)
        frames = decibels_above(spectra.frame_power(self.frame_seconds), self.floor_dbfs)
        for statistic, value in aggregate(frames, _FRAME_STATISTICS).items():
            values[f"loudness_frame_rms_{statistic}_dbfs"] = float(value)
        return Extraction(values)
