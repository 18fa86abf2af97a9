"""Partials of a spectrum, and the tuning they tell."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.late import torch

# Frames per pass: it bounds the memory of temporaries.
_CHUNK_FRAMES = 1024

# Peaks that vote on the tuning, as in librosa.piptrack.
_TUNING_RANGE_HZ = (150.0, 4000.0)
_TUNING_PEAK_THRESHOLD = 0.1
_TUNING_RESOLUTION = 0.01

# `PeakVotes` sorts peaks by level in steps of 1/256 octave of their height, from 2^-40 to 2^40.
_LEVELS_PER_OCTAVE = 256
_LEVEL_OCTAVES = 40
_LEVELS = 2 * _LEVEL_OCTAVES * _LEVELS_PER_OCTAVE


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


@dataclass(frozen=True)
class Turns:
    """How far partials agree on the place of the semitones, by level; those of several blocks add up.

    Each partial is a unit vector that turns once from one semitone to the next.

    Args:
        counts: partials, int64 ``[levels]``.
        sums: of their vectors, complex128 ``[levels]``.
    """

    counts: np.ndarray
    sums: np.ndarray

    @classmethod
    def count(cls, frequencies: np.ndarray, heights: np.ndarray) -> Turns:
        """Of peaks in Hz, ``[peaks]`` each."""
        level, angles = _levels(heights), 2.0 * np.pi * _residuals(frequencies, 12)
        real, imaginary = (np.bincount(level, f(angles), _LEVELS) for f in (np.cos, np.sin))
        return cls(np.bincount(level, minlength=_LEVELS), real + 1j * imaginary)

    def __add__(self, other: Turns) -> Turns:
        return Turns(self.counts + other.counts, self.sums + other.sums)

    def strong(self) -> tuple[float, int]:
        """The length of the sum of the vectors at least as high as the median, and how many there are.

        The first is their number where all lie on one scale of semitones, near 0 where they lie anywhere.
        """
        median = _median_level(self.counts)
        return float(abs(self.sums[median:].sum())), int(self.counts[median:].sum())


@dataclass(frozen=True)
class Partials:
    """The partials that tell the tuning of a track that is one block, as ``librosa.estimate_tuning`` picks them.

    The peaks of the spectrum between 150 Hz and 4 kHz, at least a tenth of the largest bin of their frame and
    at least the median of all such peaks, interpolated by a parabola. `PeakVotes` has those of a longer track.

    Args:
        frequencies: Hz, float64 ``[peaks]``.
        turns: of all peaks.
    """

    frequencies: np.ndarray
    turns: Turns

    @classmethod
    def find(cls, power: torch.Tensor, sample_rate: int, n_fft: int, exponent: int) -> Partials:
        """Those of a power spectrogram ``[n_fft // 2 + 1, frames]``: of its magnitude where ``exponent`` is 1, of
        the power itself where it is 2."""
        frequencies, heights = _all_peaks(power, sample_rate, n_fft, exponent)
        strong = frequencies[heights >= np.median(heights)] if len(frequencies) else frequencies
        return cls(strong, Turns.count(frequencies, heights))

    def tuning(self, bins_per_octave: int) -> float | None:
        """See `pitch_tuning`."""
        return pitch_tuning(self.frequencies, bins_per_octave)

    def in_tune(self) -> tuple[float, int]:
        """See `Turns.strong`."""
        return self.turns.strong()


def _levels(heights: np.ndarray) -> np.ndarray:
    level = (np.log2(np.maximum(heights, 1e-300)) + _LEVEL_OCTAVES) * _LEVELS_PER_OCTAVE
    return np.clip(level, 0, _LEVELS - 1).astype(np.int64)


def _median_level(counts: np.ndarray) -> int:
    """The level of the median, of counts by level; behind the last one where there are none."""
    upto = counts.cumsum()
    return int(np.searchsorted(upto, (upto[-1] + 1) // 2)) if upto[-1] else len(counts)


def _residuals(frequencies: np.ndarray, bins_per_octave: int) -> np.ndarray:
    residual = np.mod(bins_per_octave * np.log2(frequencies / (440.0 / 16)), 1.0)
    residual[residual >= 0.5] -= 1.0
    return residual


def _residual_edges() -> np.ndarray:
    return np.linspace(-0.5, 0.5, round(1.0 / _TUNING_RESOLUTION) + 1)


@dataclass(frozen=True)
class PeakVotes:
    """Partials counted by level and by their distance to a scale, so that their number does not matter.

    The tuning of the sum of several counts is that of the `Partials` of all frames together, but for the median
    height, which is only known to 1/256 octave (0.02 dB).

    Args:
        counts: bins per octave → int32 ``[levels, distances]``.
        turns: of all peaks.
    """

    counts: dict[int, np.ndarray]
    turns: Turns

    @classmethod
    def count(
        cls, power: torch.Tensor, sample_rate: int, n_fft: int, exponent: int, resolutions: Sequence[int]
    ) -> PeakVotes:
        """Count the partials of a power spectrogram ``[n_fft // 2 + 1, frames]``, as `Partials` finds them."""
        frequencies, heights = _all_peaks(power, sample_rate, n_fft, exponent)
        level = _levels(heights)
        distances = len(_residual_edges()) - 1
        counts = {}
        for bins in resolutions:
            residual = np.searchsorted(_residual_edges(), _residuals(frequencies, bins), side="right") - 1
            votes = np.bincount(level * distances + residual, minlength=_LEVELS * distances)
            counts[bins] = votes.astype(np.int32).reshape(_LEVELS, distances)
        return cls(counts, Turns.count(frequencies, heights))

    def __add__(self, other: PeakVotes) -> PeakVotes:
        counts = {bins: counts + other.counts[bins] for bins, counts in self.counts.items()}
        return PeakVotes(counts, self.turns + other.turns)

    def tuning(self, bins_per_octave: int) -> float | None:
        """As `pitch_tuning`; ``bins_per_octave`` is one of those that were counted."""
        counts = self.counts[bins_per_octave]
        votes = counts[_median_level(counts.sum(axis=1)) :].sum(axis=0)
        return float(_residual_edges()[np.argmax(votes)]) if votes.any() else None

    def in_tune(self) -> tuple[float, int]:
        """See `Turns.strong`."""
        return self.turns.strong()


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
