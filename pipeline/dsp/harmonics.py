"""Chroma of the peaks of a spectrum, each of which speaks for the notes that it may be a partial of.

After Gómez, "Tonal description of polyphonic audio for music content processing", INFORMS Journal on Computing, 2006
(the harmonic pitch class profile). What has no peak that stands out, as drums and breath, hardly takes part.
"""

from __future__ import annotations

import numpy as np

from pipeline.late import torch

LOWEST_HZ, HIGHEST_HZ = 100.0, 5000.0
"""Of the peaks: below, semitones are closer than bins; above, hardly anything is a note."""

FRAME_SECONDS = 0.186
"""Length of a frame, to the nearest power of two of samples: 4096 at 22,050 Hz."""

PARTIALS = 8
"""A peak may be the first to the eighth partial of a note."""

_PRESENT = 0.03
"""Amplitude of a peak at a fundamental, as a share of that of the partial, from which on the partial counts for it."""
_LEAST = 1e-3
"""Amplitude of the least peak, as a share of the largest one of its frame."""
_CHUNK_FRAMES = 1024
_DEEPEST = 1 + round(12 * np.log2(PARTIALS))
"""Semitones that the fundamental of the last partial lies below it, and one more."""


def frame_lengths(sample_rate: float) -> tuple[int, int]:
    """FFT length and hop, samples; frames overlap by half."""
    n_fft = 1 << max(8, round(np.log2(FRAME_SECONDS * sample_rate)))
    return n_fft, n_fft // 2


def harmonic_chroma(power: torch.Tensor, sample_rate: float, n_fft: int, tuning: float) -> torch.Tensor:
    """Amplitude per pitch class of the notes that the peaks of each frame speak for.

    A peak counts for the pitch class that it lies nearest to, by the squared cosine of its distance, which is 0 halfway
    between two; and for those whose second to eighth partial it would be, if there is a peak at their first one, too.
    So a third partial counts for its note, and not only for the fifth above it; what has no partials counts for itself.

    Args:
        power: power spectrogram, ``[n_fft // 2 + 1, frames]``.
        sample_rate: Hz.
        n_fft: FFT length, samples.
        tuning: deviation from A440, semitones.

    Shape: float32 ``[12, frames]``, C first; 0 in a frame without peaks.
    """
    frames = power.shape[1]
    chroma = np.zeros((frames, 12))
    for start in range(0, frames, _CHUNK_FRAMES):
        part = power[:, start : start + _CHUNK_FRAMES]
        frequencies, heights, columns = _peaks(part, sample_rate, n_fft)
        pitches = 12.0 * np.log2(np.maximum(frequencies, 1.0) / 440.0) + 9.0 - tuning
        chroma[start : start + part.shape[1]] = _gathered(pitches, heights, columns, part.shape[1])
    return torch.from_numpy(np.ascontiguousarray(chroma.T, dtype=np.float32))


def _gathered(pitches: np.ndarray, heights: np.ndarray, columns: np.ndarray, frames: int) -> np.ndarray:
    """Peaks by frame and pitch class: ``[frames, 12]``; ``pitches`` in semitones from a C."""
    nearest = np.round(pitches).astype(np.int64)
    lowest = int(nearest.min(initial=0))
    # A margin below, where no fundamental has a peak.
    keys = nearest - lowest + _DEEPEST
    largest = np.zeros((frames, int(keys.max(initial=0)) + 1))
    np.maximum.at(largest, (columns, keys), heights)
    total = np.zeros(frames * 12)
    for partial in range(1, PARTIALS + 1):
        fundamentals = pitches - 12.0 * np.log2(partial)
        note = np.round(fundamentals)
        pitch = note.astype(np.int64)
        weights = heights * np.cos(np.pi * (fundamentals - note)) ** 2
        if partial > 1:
            weights *= largest[columns, pitch - lowest + _DEEPEST] > _PRESENT * heights
        total += np.bincount(columns * 12 + pitch % 12, weights, minlength=len(total))
    return total.reshape(frames, 12)


def _peaks(power: torch.Tensor, sample_rate: float, n_fft: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Frequencies (Hz), amplitudes and frames of the local maxima, ``[peaks]`` each.

    A parabola through the logarithms of three bins has its top where a sine under a Hann window would have it.
    """
    bin_hz = sample_rate / n_fft
    first = max(1, int(np.ceil(LOWEST_HZ / bin_hz)))
    last = min(power.shape[0] - 1, int(HIGHEST_HZ / bin_hz))
    if last <= first or not power.shape[1]:
        return np.zeros(0), np.zeros(0), np.zeros(0, dtype=np.int64)
    below, here, above = power[first - 1 : last - 1], power[first:last], power[first + 1 : last + 1]
    is_peak = (here > below) & (here >= above) & (here > _LEAST**2 * here.amax(dim=0))
    row, column = torch.nonzero(is_peak, as_tuple=True)
    levels = [
        side[row, column].double().clamp_min(1e-300).log().numpy() / 2.0 for side in (below, here, above)
    ]
    slope, curvature = levels[2] - levels[0], levels[0] - 2.0 * levels[1] + levels[2]
    shift = np.clip(-slope / (2.0 * np.minimum(curvature, -1e-12)), -0.5, 0.5)
    heights = np.exp(levels[1] + 0.25 * slope * shift)
    return (row.numpy() + first + shift) * bin_hz, heights, column.numpy()
