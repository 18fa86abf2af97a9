"""A preset: what a master shall sound like, in numbers. The presets themselves are data, ``conf/master/*.yaml``."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

WITHIN: dict[str, tuple[float, float]] = {
    "lufs": (-40.0, -4.0),
    "tilt_db_per_octave": (-3.0, 3.0),
    "low_shelf_db": (-12.0, 12.0),
    "low_shelf_hz": (30.0, 500.0),
    "high_shelf_db": (-12.0, 12.0),
    "high_shelf_hz": (2000.0, 16000.0),
    "balance": (0.0, 1.0),
    "max_db": (0.0, 12.0),
    "width_db": (-12.0, 12.0),
    "mono_below_hz": (0.0, 300.0),
    "ratio": (1.0, 10.0),
    "attack_ms": (0.1, 200.0),
    "release_ms": (10.0, 1000.0),
    "max_compression_db": (0.0, 12.0),
    "max_gr_db": (0.0, 24.0),
}
"""Key → the least and the most, both included."""


@dataclass(frozen=True)
class Preset:
    """What a master shall sound like.

    Args:
        lufs: integrated loudness of the master, LUFS.
        tilt_db_per_octave: added slope of the spectrum, around 1 kHz: negative is darker.
        low_shelf_db, low_shelf_hz: gain below a corner.
        high_shelf_db, high_shelf_hz: gain above a corner.
        balance: 0 leaves the song's spectrum as it is; 1 takes it all the way into the range of commercial recordings,
            see `pipeline.mastering.matching`. Of ``mode: adaptive`` and ``hybrid``.
        max_db: the most that the equaliser changes any band by, dB.
        width_db: gain of the side signal above 300 Hz.
        mono_below_hz: below it both channels get the same; 0 leaves them.
        ratio: of the compressor; 1 is none.
        attack_ms, release_ms: of the compressor: to 63 % of what it shall do.
        max_compression_db: the most that the compressor takes from the loudest passages.
        crossovers_hz: where the bands of the compressor meet; empty for one band.
        max_gr_db: the most that the limiter may take from any peak: the loudness is given up for it.
    """

    lufs: float = -14.0
    tilt_db_per_octave: float = 0.0
    low_shelf_db: float = 0.0
    low_shelf_hz: float = 120.0
    high_shelf_db: float = 0.0
    high_shelf_hz: float = 8000.0
    balance: float = 0.5
    max_db: float = 6.0
    width_db: float = 0.0
    mono_below_hz: float = 0.0
    ratio: float = 1.5
    attack_ms: float = 30.0
    release_ms: float = 200.0
    max_compression_db: float = 3.0
    crossovers_hz: tuple[float, ...] = ()
    max_gr_db: float = 9.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "crossovers_hz", tuple(float(hz) for hz in self.crossovers_hz))

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Preset:
        """From a mapping such as a file of ``conf/master`` holds; what it does not say is the default.

        Raises:
            ValueError: a key that no preset has, or a value that cannot be; it names the key.
        """
        known = {f.name for f in dataclasses.fields(cls)}
        if unknown := [key for key in values if key not in known]:
            raise ValueError(f"{unknown[0]} is not a key of a preset: there are {', '.join(sorted(known))}")
        preset = cls(**{key: value for key, value in values.items() if value is not None})
        preset.check()
        return preset

    def check(self) -> None:
        """Raise ``ValueError("<key>=<value> ...")`` for the first value that cannot be."""
        for key, (least, most) in WITHIN.items():
            value = getattr(self, key)
            if not (math.isfinite(value) and least <= value <= most):
                raise ValueError(f"{key}={value:g} must lie within {least:g}..{most:g}")
        hz = self.crossovers_hz
        if len(hz) > 4 or any(not 40.0 <= one <= 16000.0 for one in hz) or list(hz) != sorted(set(hz)):
            listed = ",".join(f"{one:g}" for one in hz)
            raise ValueError(
                f"crossovers_hz=[{listed}] must be up to four rising frequencies within 40..16000"
            )
