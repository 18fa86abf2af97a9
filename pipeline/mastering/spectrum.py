"""The long-term spectrum of a song, mid and side apart: what `pipeline.mastering.spectrum_meter` measures, averaged and
compared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, NamedTuple

import numpy as np

BANDS_PER_OCTAVE = 6
LOWEST_EDGE_HZ = 1000.0 * 2.0 ** (-35 / 6)
"""17.5 Hz, the lower edge of the third-octave band around 20 Hz: two bands of a sixth make one of those."""
SILENT_DB = -200.0
"""The level of a band that holds nothing at all, so that a plan has no infinities."""


@dataclass(frozen=True)
class Spectrum:
    """Levels in bands of a sixth of an octave: mean square in dB, a sine of full scale is at -3.

    Args:
        frequencies_hz: centres of the bands, the same for all songs as far as they reach.
        mid_db, side_db: over the loudest parts of the song: those above its mean loudness. ``side_db`` is None for all
            that is not stereo, the mid of which is the mean of the channels' powers.
        mean_mid_db, mean_side_db: over the whole song.
        quiet_db: of mid, what nine tenths of the parts exceed; parts 60 dB below the loudest do not count.
        mid_signal, side_signal: whether a band holds more than noise, or nothing.
    """

    frequencies_hz: tuple[float, ...]
    mid_db: tuple[float, ...]
    side_db: tuple[float, ...] | None
    mean_mid_db: tuple[float, ...]
    mean_side_db: tuple[float, ...] | None
    quiet_db: tuple[float, ...]
    mid_signal: tuple[bool, ...]
    side_signal: tuple[bool, ...] | None

    def to_dict(self) -> dict[str, Any]:
        """Numbers, lists and None, as JSON has them; levels to a thousandth of a dB."""
        return {name: _listed(value) for name, value in asdict(self).items()}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Spectrum:
        """What `to_dict` gave."""
        found = {field.name: values[field.name] for field in fields(cls)}
        return cls(**{name: None if value is None else tuple(value) for name, value in found.items()})


class Distance(NamedTuple):
    """How far two spectra lie apart, dB; None where nothing can be compared."""

    mid_db: float | None
    side_db: float | None


def band_centres(count: int) -> tuple[float, ...]:
    """Centres of the first ``count`` bands, Hz; the first is 18.6."""
    return tuple((LOWEST_EDGE_HZ * 2.0 ** ((np.arange(count) + 0.5) / BANDS_PER_OCTAVE)).tolist())


def average(spectra: Sequence[Spectrum]) -> Spectrum:
    """One spectrum of several references: the mean of their levels in dB, each first brought to the same power of mid.

    The width is that of those which are stereo. A band counts where its song holds signal; of a band that none of them
    fills, the mean of all is taken and marked as without signal.

    Raises:
        ValueError: there are none.
    """
    if not spectra:
        raise ValueError("there is no spectrum to average")
    if len(spectra) == 1:
        return spectra[0]
    longest = max(spectra, key=lambda one: len(one.frequencies_hz))
    offsets = [-float(decibels(np.sum(10.0 ** (np.array(one.mid_db) / 10.0)))) for one in spectra]
    stereo = [(one, offset) for one, offset in zip(spectra, offsets, strict=True) if one.side_db is not None]
    alls = list(zip(spectra, offsets, strict=True))
    level = float(np.mean(offsets))

    def mean(songs: list[tuple[Spectrum, float]], levels: str, signal: str) -> tuple[float, ...]:
        columns = [(getattr(one, levels), getattr(one, signal), offset) for one, offset in songs]
        found = []
        for band in range(len(longest.frequencies_hz)):
            there = [(row[band] + offset, held[band]) for row, held, offset in columns if band < len(row)]
            found.append(
                [value for value, held in there if held] or [value for value, _ in there] or [SILENT_DB]
            )
        return tuple(max(SILENT_DB, float(np.mean(values)) - level) for values in found)

    def held(songs: list[tuple[Spectrum, float]], signal: str) -> tuple[bool, ...]:
        rows = [getattr(one, signal) for one, _ in songs]
        count = len(longest.frequencies_hz)
        return tuple(any(band < len(row) and row[band] for row in rows) for band in range(count))

    return Spectrum(
        frequencies_hz=longest.frequencies_hz,
        mid_db=mean(alls, "mid_db", "mid_signal"),
        side_db=mean(stereo, "side_db", "side_signal") if stereo else None,
        mean_mid_db=mean(alls, "mean_mid_db", "mid_signal"),
        mean_side_db=mean(stereo, "mean_side_db", "side_signal") if stereo else None,
        quiet_db=mean(alls, "quiet_db", "mid_signal"),
        mid_signal=held(alls, "mid_signal"),
        side_signal=held(stereo, "side_signal") if stereo else None,
    )


class ThirdOctaves(NamedTuple):
    """Levels in third-octave bands; a band holds signal where both of its halves do."""

    frequencies_hz: np.ndarray
    mid_db: np.ndarray
    side_db: np.ndarray | None
    mid_signal: np.ndarray
    side_signal: np.ndarray | None


def third_octave_db(spectrum: Spectrum, *, loudest: bool = True) -> ThirdOctaves:
    """Levels in third-octave bands, centres at 1000 * 2 ** (n / 3) Hz from 19.7 Hz on, float64 ``[bands]`` each.

    Args:
        spectrum: of which song.
        loudest: over its loudest parts, else over the whole song.
    """
    mid, side = (
        (spectrum.mid_db, spectrum.side_db) if loudest else (spectrum.mean_mid_db, spectrum.mean_side_db)
    )
    count = len(spectrum.frequencies_hz) // 2
    pair = None if side is None else _paired(side)
    held = None if spectrum.side_signal is None else _both(spectrum.side_signal)
    centres = 1000.0 * 2.0 ** ((np.arange(count) - 17) / 3)
    return ThirdOctaves(centres, _paired(mid), pair, _both(spectrum.mid_signal), held)


def spectral_distance_db(
    one: Spectrum, other: Spectrum, *, from_hz: float = 50.0, to_hz: float = 16000.0, loudest: bool = True
) -> Distance:
    """RMS difference of two spectra over the third-octave bands that hold signal in both, each level removed.

    Only shapes are compared: the mean difference does not count, of mid and of side each for itself.
    """
    a, b = (third_octave_db(spectrum, loudest=loudest) for spectrum in (one, other))
    count = min(len(a.frequencies_hz), len(b.frequencies_hz))
    # The bands that are named 50 Hz and 16 kHz have their centres at 49.6 and 16.1.
    within = (a.frequencies_hz[:count] > from_hz / 1.05) & (a.frequencies_hz[:count] < to_hz * 1.05)

    def apart(x: np.ndarray | None, y: np.ndarray | None, *held: np.ndarray | None) -> float | None:
        if x is None or y is None or any(row is None for row in held):
            return None
        used = within & np.logical_and.reduce([row[:count] for row in held if row is not None])
        if used.sum() < 2:
            return None
        return float(np.std(x[:count][used] - y[:count][used]))

    return Distance(
        apart(a.mid_db, b.mid_db, a.mid_signal, b.mid_signal),
        apart(a.side_db, b.side_db, a.side_signal, b.side_signal),
    )


def _paired(levels: Sequence[float]) -> np.ndarray:
    power = 10.0 ** (np.array(levels[: len(levels) // 2 * 2]) / 10.0)
    return decibels(power.reshape(-1, 2).sum(axis=1))


def _both(held: Sequence[bool]) -> np.ndarray:
    return np.array(held[: len(held) // 2 * 2], bool).reshape(-1, 2).all(axis=1)


def decibels(power: np.ndarray | float) -> np.ndarray:
    """dB of a mean square, `SILENT_DB` at the least."""
    return 10.0 * np.log10(np.maximum(power, 10.0 ** (SILENT_DB / 10.0)))


def _listed(value: tuple[Any, ...] | None) -> list[Any] | None:
    if value is None:
        return None
    return [one if isinstance(one, bool) else round(float(one), 3) for one in value]
