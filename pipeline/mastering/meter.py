"""All that is measured of a song, before and after: loudness, peaks, and spectrum, in one pass and bounded memory."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from pipeline.dsp.bs1770 import integrated_loudness, loudness_range
from pipeline.mastering.gain import LoudnessProfile
from pipeline.mastering.levels import Levels
from pipeline.mastering.limiter import Limiting
from pipeline.mastering.processor import Grid
from pipeline.mastering.spectrum import Spectrum
from pipeline.mastering.spectrum_meter import SpectrumMeter

STEPS_PER_SECOND = 10
_SHORT_TERM_STEPS = 30
_GATE_LUFS = -70.0
_LOUD_PERCENTILE = 95.0
_SILENT_DBFS = -70.0


@dataclass(frozen=True)
class Measured:
    """What was measured.

    Args:
        levels: loudness and peaks.
        spectrum: None where it was not asked for.
        short_term_lufs: loudness of the 3 s that begin at 0 s, 1 s, 2 s and so on; None below -70 LUFS. Empty for songs
            under 3 s.
    """

    levels: Levels
    spectrum: Spectrum | None
    short_term_lufs: tuple[float | None, ...]


class Meter:
    """Measures a song that comes in pieces.

    Args:
        sample_rate: Hz.
        channels: number of channels.
        spectrum: whether to measure it.
    """

    def __init__(self, sample_rate: int, channels: int, *, spectrum: bool = True) -> None:
        self._profile = LoudnessProfile(sample_rate, channels, Limiting())
        self._spectrum = SpectrumMeter(sample_rate, channels) if spectrum else None
        self._step = max(1, sample_rate // STEPS_PER_SECOND)
        self._grid = Grid(channels, self._step)
        self._powers: list[np.ndarray] = []

    def add(self, samples: np.ndarray) -> None:
        """The next samples, float32 ``[channels, n]``. Raises `ValueError` for NaN and infinity."""
        self._profile.push(samples)
        if self._spectrum is not None:
            self._spectrum.add(samples)
        whole = self._grid.push(samples)
        if whole.shape[1]:
            steps = whole.reshape(len(whole), -1, self._step)
            self._powers.append(np.einsum("csn,csn->s", steps, steps) / (len(whole) * self._step))

    def lufs_so_far(self) -> float | None:
        """Integrated loudness of what was added up to now; None where it has none. More may follow."""
        return self._profile.lufs_so_far()

    def result(self) -> Measured:
        """Of all that was added; nothing may follow."""
        self._profile.finish()
        return Measured(
            levels_of(self._profile, self._loud()),
            None if self._spectrum is None else self._spectrum.result(),
            short_term(self._profile.over_time(0.0, steps=_SHORT_TERM_STEPS)),
        )

    def _loud(self) -> float | None:
        """The level that 5 % of the steps that sound are above, dBFS."""
        powers = np.concatenate([*self._powers, np.zeros(0)])
        sounding = powers[powers > 10.0 ** (_SILENT_DBFS / 10.0)]
        return float(10.0 * np.log10(np.percentile(sounding, _LOUD_PERCENTILE))) if len(sounding) else None


def levels_of(profile: LoudnessProfile, loud_dbfs: float | None = None) -> Levels:
    """The levels of a profile that is finished."""
    steps = profile.steps(0.0)
    over_time = profile.over_time(0.0, steps=_SHORT_TERM_STEPS)
    loudest = float(over_time.max()) if len(over_time) else -math.inf
    return Levels(
        lufs=integrated_loudness(steps),
        lra_lu=loudness_range(steps),
        true_peak_dbtp=profile.highest_db if math.isfinite(profile.highest_db) else None,
        short_term_lufs=loudest if loudest > _GATE_LUFS else None,
        loud_dbfs=loud_dbfs,
    )


def short_term(over_time: np.ndarray) -> tuple[float | None, ...]:
    """One of ten of the loudnesses that come every 100 ms: a value per second from the first 3 s on."""
    return tuple(
        round(value, 2) if value > _GATE_LUFS else None for value in over_time[::STEPS_PER_SECOND].tolist()
    )
