"""Loudness and levels of the native channels."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pyarrow as pa

from pipeline.dsp import bs1770
from pipeline.dsp.pyloudnorm_meter import pyloudnorm_loudness, pyloudnorm_obstacle
from pipeline.dsp.true_peak import PEAK_CONTEXT, true_peak
from pipeline.errors import Fallback
from pipeline.features.base import Extraction, Extractor, Running, column, register
from pipeline.features.spectra import ChannelLevels, SharedSpectra
from pipeline.features.statistics import decibels, decibels_above, statistics_of
from pipeline.features.track import TrackInfo

BACKENDS = ("own", "pyloudnorm")
_FRAME_STATISTICS = ("mean", "std", "median", "p10", "p90")
_BS1770 = "ITU-R BS.1770-4"


@register
@dataclass(frozen=True)
class Loudness(Extractor):
    """Programme loudness, loudness range, true peak and RMS, over all native channels at the native rate.

    0 dBFS is the level of a full-scale square wave: a full-scale sine has a peak of 0 and an RMS of -3.01.
    All values are None for digital silence, whose level is minus infinity. The weights of the channels are
    those of `pipeline.dsp.bs1770.channel_weights`.

    Args:
        backend: ``own``, or ``pyloudnorm`` for the integrated loudness by that package. Where it cannot measure a
            track (not installed, too many channels, longer than one block) the track gets ``own``, on record.
        frame_seconds: length of the frames of ``loudness_frame_rms_*``, which do not overlap.
        floor_dbfs: level of a frame of digital silence within a track that is not silent.
    """

    name: ClassVar[str] = "loudness"
    version: ClassVar[str] = "3"
    views: ClassVar[tuple[str, ...]] = ("native",)
    description: ClassVar[str] = "BS.1770 loudness, loudness range, true peak and RMS levels"

    backend: str = "own"
    frame_seconds: float = 0.05
    floor_dbfs: float = -100.0

    def check(self) -> None:
        if self.backend not in BACKENDS:
            raise ValueError(f"backend={self.backend} must be one of {', '.join(BACKENDS)}")
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

    def context_seconds(self, sample_rate: int) -> float:
        """A frame or a step that begins in a block may end after it."""
        return 2.0 + self.frame_seconds

    def start(self, track: TrackInfo) -> Running:
        """Begin a track; all None for silence and without samples."""
        return _LoudnessRun(self, track)


class _LoudnessRun(Running):
    def __init__(self, loudness: Loudness, track: TrackInfo) -> None:
        self.loudness, self.rate = loudness, track.native_rate
        self.levels: ChannelLevels | None = None
        self.true_peak = 0.0
        self.steps: list[bs1770.Steps] = []
        self.frame_power: list[np.ndarray] = []
        self.obstacle: str | None = None
        self.by_pyloudnorm: float | None = None
        self.asked = loudness.backend == "pyloudnorm"
        if self.asked:
            too_long = None if track.one_block else "the track is longer than one block"
            self.obstacle = too_long or pyloudnorm_obstacle(track.channels)

    def add(self, block: SharedSpectra) -> None:
        levels = block.levels()
        if levels is None:
            return
        self.levels = levels if self.levels is None else self.levels + levels
        self.frame_power.append(block.frame_power(self.loudness.frame_seconds))
        if not levels.square.any() and block.track.one_block:
            return
        axis = block.native_axis
        begin = max(0, axis.start - axis.origin - PEAK_CONTEXT)
        samples = block.native[:, begin : axis.stop - axis.origin]
        self.true_peak = max(self.true_peak, true_peak(samples, self.rate))
        if self.rate >= bs1770.LOWEST_RATE:
            self.steps.append(measure_block(block))
            if self.asked and self.obstacle is None:
                self.by_pyloudnorm = pyloudnorm_loudness(block.native_block, self.rate)

    def finish(self) -> Extraction:
        values: dict[str, float | None] = {f.name: None for f in self.loudness.columns()}
        levels = self.levels
        if levels is None or decibels(float(levels.mean_square.mean())) is None:
            return Extraction(values)
        peak = float(levels.peak.max())
        values["loudness_sample_peak_dbfs"] = 20.0 * math.log10(peak)
        values["loudness_rms_dbfs"] = decibels(float(levels.mean_square.mean()))
        values["loudness_true_peak_dbtp"] = 20.0 * math.log10(max(peak, self.true_peak))
        if self.rate >= bs1770.LOWEST_RATE:
            steps = bs1770.Steps.joined(self.steps)
            own = not self.asked or self.obstacle is not None
            values["loudness_integrated_lufs"] = (
                bs1770.integrated_loudness(steps) if own else self.by_pyloudnorm
            )
            values["loudness_range_lu"] = bs1770.loudness_range(steps)
        frames = decibels_above(np.concatenate(self.frame_power), self.loudness.floor_dbfs)
        for statistic, value in statistics_of(frames, _FRAME_STATISTICS).items():
            values[f"loudness_frame_rms_{statistic}_dbfs"] = float(value)
        if self.obstacle is None:
            return Extraction(values, backend="pyloudnorm" if self.asked else "torch")
        return Extraction(
            values, fallbacks=[Fallback("features", "loudness.backend=pyloudnorm", "own", self.obstacle)]
        )


def measure_block(block: SharedSpectra) -> bs1770.Steps:
    """The K-weighted steps of 100 ms that begin in the block, measured once for all who ask."""
    return block.result(("loudness_steps",), _measured)


def _measured(block: SharedSpectra) -> bs1770.Steps:
    axis, rate = block.native_axis, block.native_rate
    first = bs1770.first_step_from(axis.start, rate)
    # Up to the end of the last one: it lies in the context, if it lies in the track.
    stop = axis.stop if axis.last else bs1770.step_start(bs1770.first_step_from(axis.stop, rate), rate)
    begin = max(axis.origin, axis.start - rate)
    chunks = block.native_chunks(np.float32, begin, stop)
    return bs1770.measure_steps(chunks, len(block.native), rate, begin, first)
