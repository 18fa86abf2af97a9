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


class Turns:
    """How much the harmony turns at each frame of a track, told block by block.

    It is one less the cosine between the pitch classes 120 ms before and after a frame, smoothed: 0 to 1, and 0 in
    silence and at both ends of the track.
    """

    def __init__(self) -> None:
        self._kept = np.empty((0, CLASSES), np.float32)
        self._told = 0  # of the frames that are kept

    def push(self, chroma: np.ndarray) -> np.ndarray:
        """The next frames.

        Shape: ``[frames, CLASSES]``, not negative → float32 ``[n]``, of all frames for which enough is known.
        """
        self._kept = np.concatenate([self._kept, chroma])
        found = self._tell(max(self._told, len(self._kept) - _MARGIN))
        first = max(0, self._told - _MARGIN)
        self._kept, self._told = self._kept[first:].copy(), self._told - first
        return found

    def finish(self) -> np.ndarray:
        """Of the frames that are left, as `push`."""
        return self._tell(len(self._kept))

    def _tell(self, stop: int) -> np.ndarray:
        smooth = gaussian_filter1d(self._kept.astype(np.float64), _SMOOTH, axis=0)
        found = np.zeros(len(smooth), np.float32)
        if len(smooth) > 2 * _APART:
            before, after = smooth[: -2 * _APART], smooth[2 * _APART :]
            both = np.einsum("ij,ij->i", before, after)
            norms = np.einsum("ij,ij->i", before, before) * np.einsum("ij,ij->i", after, after)
            turned = np.where(norms > _LEAST, 1 - both / np.sqrt(np.maximum(norms, _LEAST)), 0.0)
            found[_APART:-_APART] = np.clip(turned, 0.0, 1.0)
        first, self._told = self._told, stop
        return found[first:stop]
