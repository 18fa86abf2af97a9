"""Summaries of a series over time, shared by all extractors: numpy in, numpy out, float64 sums."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

STATISTICS = ("mean", "std", "min", "max", "median", "p10", "p25", "p75", "p90")
_MOMENTS = STATISTICS[:4]
PERCENTILES = {"median": 50.0, "p10": 10.0, "p25": 25.0, "p75": 75.0, "p90": 90.0}


def statistics_of(series: np.ndarray, statistics: Sequence[str]) -> dict[str, np.ndarray]:
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
    unknown = [name for name in statistics if name not in STATISTICS]
    if unknown:
        raise ValueError(f"unknown statistic {unknown[0]!r}; one of {', '.join(STATISTICS)}")
    ranked = [name for name in statistics if name not in _MOMENTS]
    found = dict(zip(ranked, percentiles(series, [PERCENTILES[name] for name in ranked]), strict=True))
    return {name: found[name] if name in found else _moment(series, name) for name in statistics}


def _moment(series: np.ndarray, name: str) -> np.ndarray:
    if name == "mean":
        return np.mean(series, axis=-1, dtype=np.float64)
    if name == "std":
        return np.std(series, axis=-1, dtype=np.float64)
    return (np.min if name == "min" else np.max)(series, axis=-1).astype(np.float64)


def percentiles(series: np.ndarray, percents: Sequence[float]) -> list[np.ndarray]:
    """``numpy.percentile`` over the last axis, all of them from one partition of each row.

    Args:
        series: ``[..., n]``, n at least 1.
        percents: 0..100.

    Shape: → float64 ``[...]`` each.
    """
    if not percents:
        return []
    last = series.shape[-1] - 1
    ranks = [percent / 100.0 * last for percent in percents]
    below = [min(int(rank), last) for rank in ranks]
    above = [min(index + 1, last) for index in below]
    places = np.unique(np.array(below + above, dtype=np.int64))
    rows = series.reshape(-1, last + 1)
    values = np.empty((len(rows), len(places)))
    # One row at a time: a partition copies what it is given.
    for row, found in zip(rows, values, strict=True):
        found[:] = np.partition(row, places)[places]
    results = []
    for rank, low, high in zip(ranks, below, above, strict=True):
        a, b = (values[:, np.searchsorted(places, place)] for place in (low, high))
        results.append((a + (b - a) * (rank - low)).reshape(series.shape[:-1]))
    return results


def frames_per_group(sample_rate: int, hop_length: int, series_rate_hz: float) -> int:
    """Frames to average so that a series comes out at the rate nearest to ``series_rate_hz``, at least 1."""
    return max(1, round(sample_rate / hop_length / series_rate_hz))


def decibels(power: float) -> float | None:
    """``10 log10(power)``, or None where that is not finite: the level of silence is undefined."""
    return 10.0 * math.log10(power) if power > 0.0 else None


def decibels_above(power: np.ndarray, floor_db: float) -> np.ndarray:
    """``10 log10(power)`` elementwise, at least ``floor_db``; float64, same shape."""
    return 10.0 * np.log10(np.maximum(power.astype(np.float64), 10.0 ** (floor_db / 10.0)))
