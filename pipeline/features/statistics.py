"""Summaries of a series over time, shared by all extractors: numpy in, numpy out, float64 sums."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

STATISTICS = ("mean", "std", "min", "max", "median", "p10", "p25", "p75", "p90")


def aggregate(series: np.ndarray, statistics: Sequence[str]) -> dict[str, np.ndarray]:
    """Summarise the last axis of ``series``.

    Args:
        series: ``[..., frames]``, at least one frame.
        statistics: names from `STATISTICS`. ``std`` divides by the number of frames; ``pNN`` is the NN-th
            percentile, linear between the two nearest frames.

    Returns:
        name → float64 ``[...]``.

    Raises:
        ValueError: no frames, or an unknown name.
    """
    if series.shape[-1] == 0:
        raise ValueError("statistics of no frames are undefined")
    return {name: _statistic(series, name) for name in statistics}


def _statistic(series: np.ndarray, name: str) -> np.ndarray:
    if name not in STATISTICS:
        raise ValueError(f"unknown statistic {name!r}; one of {', '.join(STATISTICS)}")
    if name == "mean":
        return np.mean(series, axis=-1, dtype=np.float64)
    if name == "std":
        return np.std(series, axis=-1, dtype=np.float64)
    if name == "min":
        return np.min(series, axis=-1).astype(np.float64)
    if name == "max":
        return np.max(series, axis=-1).astype(np.float64)
    percentile = 50.0 if name == "median" else float(name[1:])
    # One row at a time: np.percentile copies and sorts what it is given.
    rows = series.reshape(-1, series.shape[-1])
    values = [np.percentile(row.astype(np.float64), percentile) for row in rows]
    return np.array(values, dtype=np.float64).reshape(series.shape[:-1])


def group_means(series: np.ndarray, group: int) -> np.ndarray:
    """Means of consecutive groups of ``group`` frames; the last group may be shorter.

    Shape: ``[..., frames]`` → float64 ``[..., ceil(frames / group)]``.
    """
    frames = series.shape[-1]
    if frames == 0:
        return np.zeros(series.shape, dtype=np.float64)
    starts = np.arange(0, frames, group)
    sums = np.add.reduceat(series, starts, axis=-1, dtype=np.float64)
    return sums / np.diff(np.append(starts, frames))


def frames_per_group(sample_rate: int, hop_length: int, series_rate_hz: float) -> int:
    """Frames to average so that a series comes out at the rate nearest to ``series_rate_hz``, at least 1."""
    return max(1, round(sample_rate / hop_length / series_rate_hz))


def decibels(power: float) -> float | None:
    """``10 log10(power)``, or None where that is not finite: the level of silence is undefined."""
    return 10.0 * math.log10(power) if power > 0.0 else None


def decibels_above(power: np.ndarray, floor_db: float) -> np.ndarray:
    """``10 log10(power)`` elementwise, at least ``floor_db``; float64, same shape."""
    return 10.0 * np.log10(np.maximum(power.astype(np.float64), 10.0 ** (floor_db / 10.0)))
