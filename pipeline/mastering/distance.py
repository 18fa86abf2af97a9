"""Distance of two fingerprints: how differently two tracks are mixed and mastered.

The numbers of a fingerprint have units of their own. Each is taken in standard deviations of a real library, `SCALE`,
so that none of them outweighs the others because it is in Hz.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TypeVar

PREFIX = "fingerprint_"

SCALE: dict[str, tuple[float, float]] = {
    "share_20_60": (0.1657, 0.1787),
    "share_60_250": (0.4261, 0.1427),
    "share_250_500": (0.1943, 0.1212),
    "share_500_2000": (0.172, 0.117),
    "share_2000_4000": (0.02683, 0.0364),
    "share_4000_8000": (0.01054, 0.01758),
    "share_8000_20000": (0.00458, 0.0106),
    "loudness_lufs": (-15.29, 3.512),
    "crest_db": (16.67, 2.264),
    "bass_to_mid_db": (4.895, 4.536),
    "tempo_bpm": (117.7, 36.4),
    "rhythm_stability": (0.6632, 0.2356),
    "onset_rate_hz": (4.627, 1.062),
    "silence_ratio": (0.005295, 0.01324),
    "centroid_hz": (1514, 644.8),
    "rolloff_hz": (3132, 1440),
    "flatness": (0.008918, 0.01435),
    "harmonic_share": (0.8375, 0.1219),
    "pitch_stability": (0.5368, 0.1534),
    "chroma_peakiness": (0.3341, 0.125),
    "level_spread_db": (3.627, 2.114),
    "loudness_range_lu": (7.014, 4.277),
    "peak_consistency": (0.6464, 0.143),
    "stereo_width": (0.2232, 0.1541),
    "phase_correlation": (0.556, 0.3084),
}
"""Column without `PREFIX` → mean and standard deviation over a library, in the order of the fingerprint.

Measured by ``benchmarks/fingerprint_scale.py`` on 127 songs (3.8 h, the first two minutes of each): the metal of
fretsonfire-songs-sectoid and -muldjord, and the music of supertux-data, wesnoth-1.16-music, warzone2100-music,
extremetuxracer-data and frozen-bubble-data, which is orchestral, electronic, rock and chiptune. A library of one genre
is narrower: give `distance` a scale of its own.
"""

Fingerprint = Mapping[str, float | None] | Sequence[float | None]
"""Columns by name, with or without `PREFIX`, others among them (a row of a table); or the 25 numbers in order."""

Name = TypeVar("Name")


def numbers(fingerprint: Fingerprint, scale: Mapping[str, tuple[float, float]] = SCALE) -> list[float | None]:
    """The numbers of a fingerprint in the order of ``scale``; None where one is missing, null, NaN or infinite.

    Raises:
        ValueError: a sequence of another length, or a mapping that has none of the columns.
    """
    if isinstance(fingerprint, Mapping):
        found = [fingerprint.get(PREFIX + name, fingerprint.get(name)) for name in scale]
        if not any(PREFIX + name in fingerprint or name in fingerprint for name in scale):
            raise ValueError(f"no column of a fingerprint, such as {PREFIX}{next(iter(scale), '')}")
    else:
        found = list(fingerprint)
        if len(found) != len(scale):
            raise ValueError(f"a fingerprint of {len(found)} numbers instead of {len(scale)}")
    return [float(x) if x is not None and math.isfinite(x) else None for x in found]


def distance(
    a: Fingerprint, b: Fingerprint, scale: Mapping[str, tuple[float, float]] = SCALE
) -> float | None:
    """Root mean square of the differences of two fingerprints, each in standard deviations of a library.

    The Euclidean distance over the root of the number of dimensions: 0 for the same fingerprint, about 1.4 for two
    songs picked at random. A number that is undefined in either has no say; the mean is over the others.

    Args:
        a, b: see `Fingerprint`.
        scale: centre and spread of each number; only the spread matters.

    Returns:
        not negative; None where fewer than half of the numbers are there in both.

    Raises:
        ValueError: see `numbers`.
    """
    pairs = zip(numbers(a, scale), numbers(b, scale), scale.values(), strict=True)
    squares = [((x - y) / spread) ** 2 for x, y, (_, spread) in pairs if x is not None and y is not None]
    if not squares or 2 * len(squares) < len(scale):
        return None
    return math.sqrt(sum(squares) / len(squares))


def nearest(
    query: Fingerprint,
    library: Iterable[tuple[Name, Fingerprint]],
    count: int = 10,
    *,
    scale: Mapping[str, tuple[float, float]] = SCALE,
) -> list[tuple[Name, float]]:
    """The tracks of a library that are mixed and mastered most like one, nearest first.

    Args:
        query: the fingerprint that is looked for.
        library: names and fingerprints; those that cannot be compared are left out.
        count: at most so many.
        scale: see `distance`.
    """
    found = ((name, distance(query, other, scale)) for name, other in library)
    return sorted(((name, apart) for name, apart in found if apart is not None), key=lambda pair: pair[1])[
        :count
    ]
