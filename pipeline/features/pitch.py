"""Partials of a spectrum, and the tuning they tell."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

# Frames per pass: it bounds the memory of temporaries.
_CHUNK_FRAMES = 1024

# Peaks that vote on the tuning, as in librosa.piptrack.
_TUNING_RANGE_HZ = (150.0, 4000.0)
_TUNING_PEAK_THRESHOLD = 0.1
_TUNING_RESOLUTION = 0.01

# `PeakVotes` sorts peaks by level in steps of 1/256 octave of their height, from 2^-40 to 2^40.
_LEVELS_PER_OCTAVE = 256
_LEVEL_OCTAVES = 40


def strong_peaks(power: torch.Tensor, sample_rate: int, n_fft: int, exponent: int = 1) -> np.ndarray:
    """Frequencies of the partials that tell the tuning, as ``librosa.estimate_tuning`` picks them.

    The peaks of the spectrum between 150 Hz and 4 kHz, at least a tenth of the largest bin of their frame and
    at least the median of all such peaks, interpolated by a parabola. The spectrum is that of magnitude where
    ``exponent`` is 1, of power where it is 2.

    Shape: ``[n_fft // 2 + 1, frames]`` → float64 ``[peaks]``, Hz.
    """
    frequencies, heights = _all_peaks(power, sample_rate, n_fft, exponent)
    return frequencies[heights >= np.median(heights)] if len(frequencies) else frequencies


def pitch_tuning(frequencies: np.ndarray, bins_per_octave: int) -> float | None:
    """The most common distance of ``frequencies`` (Hz) to the nearest bin of a scale through A440.

    Returns:
        fraction of a bin in [-0.5, 0.5), in steps of 0.01, or None without frequencies.
    """
    if not len(frequencies):
        return None
    edges = _residual_edges()
    votes, _ = np.histogram(_residuals(frequencies, bins_per_octave), edges)
    return float(edges[np.argmax(votes)])


def _residuals(frequencies: np.ndarray, bins_per_octave: int) -> np.ndarray:
    residual = np.mod(bins_per_octave * np.log2(frequencies / (440.0 / 16)), 1.0)
    residual[residual >= 0.5] -= 1.0
    return residual


def _residual_edges() -> np.ndarray:
    return np.linspace(-0.5, 0.5, round(1.0 / _TUNING_RESOLUTION) + 1)


@dataclass(frozen=True)
class PeakVotes:
    """Partials counted by level and by their distance to a scale, so that their number does not matter.

    The tuning of the sum of several counts is that of `pitch_tuning` of the `strong_peaks` of all frames
    together, but for the median height, which is only known to 1/256 octave (0.02 dB).

    Args:
        counts: bins per octave → int32 ``[levels, distances]``.
    """

    counts: dict[int, np.ndarray]

    @classmethod
    def count(
        cls, power: torch.Tensor, sample_rate: int, n_fft: int, exponent: int, resolutions: Sequence[int]
    ) -> PeakVotes:
        """Count the partials of a power spectrogram ``[n_fft // 2 + 1, frames]``, as `strong_peaks` sees them."""
        frequencies, heights = _all_peaks(power, sample_rate, n_fft, exponent)
        levels = 2 * _LEVEL_OCTAVES * _LEVELS_PER_OCTAVE
        level = (np.log2(np.maximum(heights, 1e-300)) + _LEVEL_OCTAVES) * _LEVELS_PER_OCTAVE
        level = np.clip(level, 0, levels - 1).astype(np.int64)
        distances = len(_residual_edges()) - 1
        counts = {}
        for bins in resolutions:
            residual = np.searchsorted(_residual_edges(), _residuals(frequencies, bins), side="right") - 1
            votes = np.bincount(level * distances + residual, minlength=levels * distances)
            counts[bins] = votes.astype(np.int32).reshape(levels, distances)
        return cls(counts)

    def __add__(self, other: PeakVotes) -> PeakVotes:
        return PeakVotes({bins: counts + other.counts[bins] for bins, counts in self.counts.items()})

    def tuning(self, bins_per_octave: int) -> float | None:
        """As `pitch_tuning`; ``bins_per_octave`` is one of those that were counted."""
        counts = self.counts[bins_per_octave]
        upto = counts.sum(axis=1).cumsum()
        if not upto[-1]:
            return None
        median = int(np.searchsorted(upto, (upto[-1] + 1) // 2))
        return float(_residual_edges()[np.argmax(counts[median:].sum(axis=0))])


def _all_peaks(
    power: torch.Tensor, sample_rate: int, n_fft: int, exponent: int
) -> tuple[np.ndarray, np.ndarray]:
    """Frequencies (Hz) and heights of the local maxima of all columns, ``[peaks]`` each."""
    found = [(np.zeros(0), np.zeros(0))]
    for start in range(0, power.shape[1], _CHUNK_FRAMES):
        columns = power[:, start : start + _CHUNK_FRAMES]
        found.append(_spectral_peaks(columns, sample_rate, n_fft, exponent))
    return tuple(np.concatenate(parts) for parts in zip(*found, strict=True))


def _spectral_peaks(
    power: torch.Tensor, sample_rate: int, n_fft: int, exponent: int
) -> tuple[np.ndarray, np.ndarray]:
    """`_all_peaks` of a few columns."""
    bin_hz = sample_rate / n_fft
    first = max(1, int(np.ceil(_TUNING_RANGE_HZ[0] / bin_hz)))
    last = min(power.shape[0] - 1, int(np.ceil(_TUNING_RANGE_HZ[1] / bin_hz)))
    if last <= first:
        return np.zeros(0), np.zeros(0)
    # Peaks of the power are peaks of the magnitude: only what was found needs a root.
    threshold = _TUNING_PEAK_THRESHOLD ** (2 / exponent) * power.amax(dim=0)
    below, here, above = power[first - 1 : last - 1], power[first:last], power[first + 1 : last + 1]
    is_peak = (here > threshold) & (here > below) & (here >= above)
    row, column = torch.nonzero(is_peak, as_tuple=True)
    below, here, above = (power[row + first + i, column].double().pow(exponent / 2) for i in (-1, 0, 1))
    curvature, slope = above + below - 2.0 * here, (above - below) / 2.0
    usable = slope.abs() < curvature.abs()
    shift = torch.where(usable, -slope / torch.where(usable, curvature, torch.ones_like(curvature)), 0.0)
    frequencies = (row + first + shift) * bin_hz
    heights = here + 0.5 * slope * shift
    return frequencies.numpy(), heights.numpy()
