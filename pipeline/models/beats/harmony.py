"""How much the harmony turns from what was before a frame to what is after it: in music without drums it does so on
beats, while notes begin between them, too."""

from __future__ import annotations

import functools

import numpy as np
from scipy.ndimage import gaussian_filter1d

from pipeline.models.beats.front_end import BINS, SAMPLE_RATE, filterbank

CLASSES = 24
"""Quarter tones of an octave."""
LOWEST_HZ, HIGHEST_HZ = 250.0, 4000.0
"""Lower bands are wider than a semitone; of higher ones little is of a note's own pitch."""
_SMOOTH, _APART = 3.0, 6  # frames
_MARGIN = int(4 * _SMOOTH) + 1 + _APART
_LEAST = 1e-12
_PIECE = 15000  # frames at a time


@functools.cache
def folding() -> np.ndarray:
    """Weights from the bands of the front end to pitch classes, float32 ``[BANDS, CLASSES]``."""
    bank = filterbank()
    centres = (np.arange(BINS) * SAMPLE_RATE / (2 * BINS)) @ bank
    classes = np.round(CLASSES * np.log2(centres / 440)).astype(int) % CLASSES
    within = (centres >= LOWEST_HZ) & (centres <= HIGHEST_HZ)
    found = np.zeros((len(centres), CLASSES), np.float32)
    found[within, classes[within]] = 1.0
    return found


def turns(chroma: np.ndarray) -> np.ndarray:
    """One less the cosine between the pitch classes 120 ms before and after each frame, smoothed; 0 at both ends and in
    silence.

    Shape: ``[frames, CLASSES]``, not negative → float32 ``[frames]``, 0 to 1.
    """
    found = np.zeros(len(chroma), np.float32)
    for start in range(0, len(chroma), _PIECE):
        first, last = max(0, start - _MARGIN), min(len(chroma), start + _PIECE + _MARGIN)
        smooth = gaussian_filter1d(chroma[first:last].astype(np.float64), _SMOOTH, axis=0)
        before, after = smooth[: -2 * _APART], smooth[2 * _APART :]
        if not len(before):
            continue
        both = np.einsum("ij,ij->i", before, after)
        norms = np.einsum("ij,ij->i", before, before) * np.einsum("ij,ij->i", after, after)
        turned = np.where(norms > _LEAST, 1 - both / np.sqrt(np.maximum(norms, _LEAST)), 0.0)
        piece = np.zeros(last - first)
        piece[_APART : last - first - _APART] = turned
        stop = min(len(chroma), start + _PIECE)
        found[start:stop] = piece[start - first : stop - first]
    return np.clip(found, 0.0, 1.0)
