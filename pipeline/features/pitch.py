"""Partials of a spectrum, and the tuning they tell."""

from __future__ import annotations

import numpy as np
import torch

# Frames per pass: it bounds the memory of temporaries.
_CHUNK_FRAMES = 1024

# Peaks that vote on the tuning, as in librosa.piptrack.
_TUNING_RANGE_HZ = (150.0, 4000.0)
_TUNING_PEAK_THRESHOLD = 0.1
_TUNING_RESOLUTION = 0.01


def strong_peaks(power: torch.Tensor, sample_rate: int, n_fft: int, exponent: int = 1) -> np.ndarray:
    """Frequencies of the partials that tell the tuning, as ``librosa.estimate_tuning`` picks them.

    The peaks of the spectrum between 150 Hz and 4 kHz, at least a tenth of the largest bin of their frame and
    at least the median of all such peaks, interpolated by a parabola. The spectrum is that of magnitude where
    ``exponent`` is 1, of power where it is 2.

    Shape: ``[n_fft // 2 + 1, frames]`` → float64 ``[peaks]``, Hz.
    """
    chunks = [
        _spectral_peaks(power[:, start : start + _CHUNK_FRAMES], sample_rate, n_fft, exponent)
        for start in range(0, power.shape[1], _CHUNK_FRAMES)
    ]
    frequencies = np.concatenate([f for f, _ in chunks] or [np.zeros(0)])
    heights = np.concatenate([h for _, h in chunks] or [np.zeros(0)])
    return frequencies[heights >= np.median(heights)] if len(frequencies) else frequencies


def pitch_tuning(frequencies: np.ndarray, bins_per_octave: int) -> float | None:
    """The most common distance of ``frequencies`` (Hz) to the nearest bin of a scale through A440.

    Returns:
        fraction of a bin in [-0.5, 0.5), in steps of 0.01, or None without frequencies.
    """
    if not len(frequencies):
        return None
    residual = np.mod(bins_per_octave * np.log2(frequencies / (440.0 / 16)), 1.0)
    residual[residual >= 0.5] -= 1.0
    edges = np.linspace(-0.5, 0.5, round(1.0 / _TUNING_RESOLUTION) + 1)
    votes, _ = np.histogram(residual, edges)
    return float(edges[np.argmax(votes)])


def _spectral_peaks(
    power: torch.Tensor, sample_rate: int, n_fft: int, exponent: int
) -> tuple[np.ndarray, np.ndarray]:
    """Frequencies (Hz) and heights of the local maxima of each column, float64 ``[peaks]`` each."""
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
    return frequencies.cpu().numpy(), (here + 0.5 * slope * shift).cpu().numpy()
