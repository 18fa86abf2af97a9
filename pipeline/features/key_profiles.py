"""How well a chroma fits the profiles of the 24 keys, and how likely the best one is right."""

from __future__ import annotations

import math

import numpy as np

PITCH_CLASSES = ("C", "C#", "D", "D#", "E", "F", "F#", "G", "G#", "A", "A#", "B")
MODES = ("major", "minor")

PROFILES: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    # Krumhansl and Kessler, "Tracing the dynamic changes in perceived tonal organization", 1982: how well
    # listeners found each pitch class to fit.
    "krumhansl": (
        (6.35, 2.23, 3.48, 2.33, 4.38, 4.09, 2.52, 5.19, 2.39, 3.66, 2.29, 2.88),
        (6.33, 2.68, 3.52, 5.38, 2.60, 3.53, 2.54, 4.75, 3.98, 2.69, 3.34, 3.17),
    ),
    # Temperley, "What's key for key?", Music Perception 17(1), 1999: revised for classical scores.
    "temperley": (
        (5.0, 2.0, 3.5, 2.0, 4.5, 4.0, 2.0, 4.5, 2.0, 3.5, 1.5, 4.0),
        (5.0, 2.0, 3.5, 4.5, 2.0, 4.0, 2.0, 4.5, 3.5, 2.0, 1.5, 4.0),
    ),
    # Faraldo et al., "Key estimation in electronic dance music", 2016, as in Essentia's "edma": from a corpus.
    "edma": (
        (1.00, 0.29, 0.50, 0.40, 0.60, 0.56, 0.32, 0.80, 0.31, 0.45, 0.42, 0.39),
        (1.00, 0.31, 0.44, 0.58, 0.33, 0.49, 0.29, 0.78, 0.43, 0.29, 0.53, 0.32),
    ),
    # Temperley, "Music and probability", 2007: how many segments of the scores of a textbook have each pitch class.
    "temperley2005": (
        (0.748, 0.060, 0.488, 0.082, 0.670, 0.460, 0.096, 0.715, 0.104, 0.366, 0.057, 0.400),
        (0.712, 0.084, 0.474, 0.618, 0.049, 0.460, 0.105, 0.747, 0.404, 0.067, 0.133, 0.330),
    ),
    # Gómez, "Tonal description of music audio signals", 2006, as Essentia's "thpcp" and "gomez"; the first is made for
    # chroma of peaks, as ours is.
    "thpcp": (
        (
            0.95162,
            0.20742,
            0.71758,
            0.22007,
            0.71341,
            0.48841,
            0.31431,
            1.00000,
            0.20957,
            0.53657,
            0.22585,
            0.55363,
        ),
        (
            0.94409,
            0.21742,
            0.64525,
            0.63229,
            0.27897,
            0.57709,
            0.26428,
            1.00000,
            0.26428,
            0.30633,
            0.45924,
            0.35929,
        ),
    ),
    "gomez": (
        (0.82, 0.00, 0.55, 0.00, 0.53, 0.30, 0.08, 1.00, 0.00, 0.38, 0.00, 0.47),
        (0.81, 0.00, 0.53, 0.54, 0.00, 0.27, 0.07, 1.00, 0.27, 0.07, 0.10, 0.36),
    ),
    # Sha'ath, "Estimation of key in digital music recordings", 2011: made for dance music.
    "shaath": (
        (6.6, 2.0, 3.5, 2.3, 4.6, 4.0, 2.5, 5.2, 2.4, 3.7, 2.3, 3.4),
        (6.5, 2.7, 3.5, 5.4, 2.6, 3.5, 2.5, 5.2, 4.0, 2.7, 4.3, 3.2),
    ),
}
"""Name → weights of the 12 pitch classes from the tonic up, in major and in minor."""

KEYS = tuple((tonic, mode) for mode in MODES for tonic in PITCH_CLASSES)
"""The order of ``key_scores``: 12 major keys from C to B, then 12 minor ones."""

_ODDS = (-0.5, 5.0)
"""Logarithm of the odds that a key is right: where the chroma is not clear at all, and what clearness 1 adds."""


def key_scores(chroma: np.ndarray, profile: str) -> np.ndarray | None:
    """Pearson correlations of a chroma with the profiles of the keys; None where it is constant.

    Args:
        chroma: ``[12]``, C first, not negative.
        profile: one of `PROFILES`.

    Returns:
        float64 ``[24]`` in [-1, 1], in the order of `KEYS`.
    """
    deviation = chroma - chroma.mean()
    length = np.linalg.norm(deviation)
    if not length > 1e-9 * np.linalg.norm(chroma):
        return None
    return np.clip(_standard_profiles(profile) @ (deviation / length), -1.0, 1.0)


def key_clearness(chroma: np.ndarray, scores: np.ndarray, profile: str) -> float:
    """How clearly the best of ``scores`` is the best, in [0, 1], see `pipeline.features.key.Key`.

    It is 1 for a chroma that is the profile, 0 for one that fits two keys alike, near 0 for one as flat as noise.

    Args:
        chroma: ``[12]``, that `key_scores` were computed of.
        scores: ``[24]``.
        profile: one of `PROFILES`.
    """
    second, first = np.sort(scores)[-2:]
    best = int(np.argmax(scores))
    keys = _standard_profiles(profile)
    largest_lead = 1.0 - float(np.delete(keys @ keys[best], best).max())
    weights = np.array(PROFILES[profile][best // 12])
    contrast = float(chroma.std() / chroma.mean()) / float(weights.std() / weights.mean())
    lead, fit = float(first - second) / largest_lead, max(0.0, float(first)) ** 2
    return min(1.0, lead * fit * min(1.0, contrast))


def key_confidence(clearness: float) -> float:
    """How likely the best key is right, 0.38 to 0.99: a logistic curve over its `key_clearness`.

    It was fitted to excerpts of 10, 20 and 40 s of the pieces that `benchmarks/truth.py` has to develop on.
    """
    certain, clear = _ODDS
    return 1.0 / (1.0 + math.exp(-(certain + clear * clearness)))


def _standard_profiles(profile: str) -> np.ndarray:
    """Profiles of the 24 keys, of mean 0 and unit length: ``[24, 12]``."""
    rows = np.stack([np.roll(weights, tonic) for weights in PROFILES[profile] for tonic in range(12)])
    rows = rows - rows.mean(axis=1, keepdims=True)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)
