"""Curves of an equaliser: gain over frequency of mid and of side, and what bounds them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.mastering.spectrum import Spectrum, band_centres

GRID_HZ = band_centres(61)
"""Where curves that follow no spectrum are given: sixths of an octave from 18.6 Hz to 19.0 kHz."""
MONO_ORDER = 10
_LEAST_DB = -90.0
# Tilts end at the ends of hearing.
_TILT_FROM_HZ, _TILT_TO_HZ = 20.0, 20000.0
_SHELF_ORDER = 2
# Of a masker's level per Bark, what it hides lies this far below: noise masking noise, which a mix comes near.
_MASKS_BELOW_DB = 6.0
# Above the masked threshold, a boost is heard in full from here on.
_HEARD_DB = 6.0


@dataclass(frozen=True)
class Curve:
    """Gains at rising frequencies; in between monotone over log frequency, beyond both ends as at the ends.

    Args:
        frequencies_hz: where.
        mid_db: of mid, or of every channel where a song is not stereo.
        side_db: of side; None for that of mid.
    """

    frequencies_hz: tuple[float, ...]
    mid_db: tuple[float, ...]
    side_db: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        counts = {len(row) for row in (self.frequencies_hz, self.mid_db, self.side_db) if row is not None}
        if len(counts) != 1 or not self.frequencies_hz:
            raise ValueError("a curve has as many gains as frequencies, and at least one")
        numbers = np.array([*self.frequencies_hz, *self.mid_db, *(self.side_db or ())], np.float64)
        if not np.isfinite(numbers).all():
            raise ValueError("frequencies and gains are finite")
        if self.frequencies_hz[0] <= 0.0 or (np.diff(self.frequencies_hz) <= 0.0).any():
            raise ValueError("frequencies are positive and rise")

    @property
    def flat(self) -> bool:
        """Whether it changes nothing at all."""
        return not (any(self.mid_db) or any(self.side_db or ()))

    def scaled(self, amount: float) -> Curve:
        """Each gain in dB times ``amount``: 0 changes nothing, 1 all."""
        side = None if self.side_db is None else _row(amount * np.array(self.side_db))
        return Curve(self.frequencies_hz, _row(amount * np.array(self.mid_db)), side)

    def added(self, other: Curve) -> Curve:
        """One after the other, at the frequencies of both."""
        frequencies = tuple(sorted({*self.frequencies_hz, *other.frequencies_hz}))
        rows = [curve.at(frequencies) for curve in (self, other)]
        mid = _row(rows[0][0] + rows[1][0])
        if self.side_db is None and other.side_db is None:
            return Curve(frequencies, mid)
        return Curve(frequencies, mid, _row(rows[0][1] + rows[1][1]))

    def at(self, frequencies_hz: Sequence[float] | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Gains of mid and side at positive frequencies, dB, float64."""
        from scipy.interpolate import PchipInterpolator

        sides = self.mid_db if self.side_db is None else self.side_db
        wanted = np.asarray(frequencies_hz, np.float64)
        if len(self.frequencies_hz) == 1:
            return np.full(wanted.shape, self.mid_db[0]), np.full(wanted.shape, sides[0])
        own = np.log2(self.frequencies_hz)
        octaves = np.clip(np.log2(wanted), own[0], own[-1])
        # Where a curve is flat but for rounding, a slope is divided by next to nothing, and not used.
        with np.errstate(over="ignore"):
            mid, side = PchipInterpolator(own, np.array([self.mid_db, sides]), axis=1)(octaves)
        return mid, side

    def to_dict(self) -> dict[str, Any]:
        """Lists and None, as JSON has them; every number as it is."""
        side = None if self.side_db is None else list(self.side_db)
        return {"frequencies_hz": list(self.frequencies_hz), "mid_db": list(self.mid_db), "side_db": side}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Curve:
        """What `to_dict` gave."""
        side = values.get("side_db")
        return cls(
            tuple(values["frequencies_hz"]), tuple(values["mid_db"]), None if side is None else tuple(side)
        )


def flat() -> Curve:
    """The curve that changes nothing."""
    return Curve((1000.0,), (0.0,))


def tilt(db_per_octave: float, pivot_hz: float = 1000.0) -> Curve:
    """A slope through 0 dB at ``pivot_hz``, from 20 Hz to 20 kHz; negative is darker."""
    hz = np.clip(np.array(GRID_HZ), _TILT_FROM_HZ, _TILT_TO_HZ)
    return Curve(GRID_HZ, _row(db_per_octave * np.log2(hz / pivot_hz)))


def low_shelf(hz: float, db: float) -> Curve:
    """``db`` below ``hz``, half of it there, nothing above: the logistic step of a shelf of second order."""
    return Curve(GRID_HZ, _row(db / (1.0 + (np.array(GRID_HZ) / hz) ** _SHELF_ORDER)))


def high_shelf(hz: float, db: float) -> Curve:
    """``db`` above ``hz``, half of it there, nothing below."""
    return Curve(GRID_HZ, _row(db / (1.0 + (hz / np.array(GRID_HZ)) ** _SHELF_ORDER)))


def width(side_db: float, *, from_hz: float = 300.0, mono_below_hz: float = 0.0) -> Curve:
    """The side signal louder or softer above ``from_hz`` (half of it there), and gone below ``mono_below_hz``.

    Towards mono it falls as a Butterworth high-pass of tenth order does: -3 dB at the corner, -60 dB an octave below,
    down to -90 dB. Regions with gains of their own are several of these, `Curve.added`.
    """
    hz = np.array(GRID_HZ)
    side = side_db / (1.0 + (from_hz / hz) ** _SHELF_ORDER)
    if mono_below_hz > 0.0:
        side = side - 10.0 * np.log10(1.0 + (mono_below_hz / hz) ** (2 * MONO_ORDER))
    return Curve(GRID_HZ, (0.0,) * len(hz), _row(np.maximum(side, _LEAST_DB)))


def bounded(
    curve: Curve, *, max_db: float, max_slope_db_per_octave: float, hearing_bands: bool = True
) -> Curve:
    """The curve in psychoacoustic bands, no gain beyond ``max_db`` and no slope beyond the bound.

    Each gain is the mean over an equivalent rectangular bandwidth around it (Glasberg and Moore 1990), at most a third
    of an octave, which it exceeds below 200 Hz: what is narrower than a band of hearing is not shaped. Then it is
    clipped, and where it is too steep it takes the middle between the highest curve below it and the lowest above it
    that keep the slope. Curves that make the bass mono are steeper: add those afterwards.

    Args:
        curve: what to bound.
        max_db: the most either way.
        max_slope_db_per_octave: between any two of its frequencies.
        hearing_bands: False where the curve has been smoothed already.
    """
    octaves = np.log2(curve.frequencies_hz)
    over = _hearing_octaves(curve.frequencies_hz)

    def bound(row: Sequence[float]) -> tuple[float, ...]:
        gains = np.array(row)
        clipped = np.clip(_smoothed(octaves, gains, over) if hearing_bands else gains, -max_db, max_db)
        rise = max_slope_db_per_octave * np.abs(octaves[:, None] - octaves[None, :])
        return _row(0.5 * ((clipped + rise).min(axis=1) + (clipped - rise).max(axis=1)))

    return Curve(
        curve.frequencies_hz, bound(curve.mid_db), None if curve.side_db is None else bound(curve.side_db)
    )


def masked(curve: Curve, spectrum: Spectrum, *, max_slope_db_per_octave: float = 12.0) -> Curve:
    """The curve without the boosts that nobody hears: of bands that hold only noise or nothing, or that are masked.

    A band is masked where, boosted, it stays below what its neighbours spread over it (Schroeder, Atal and Hall 1979:
    25 dB per Bark towards low, 10 dB towards high frequencies) less 6 dB; 6 dB above that the boost is whole, in
    between it is a part. Of what remains, the highest curve is taken that rises no faster than the bound out of
    bands where it is held. Cuts stay.

    Args:
        curve: what shall be boosted and cut.
        spectrum: of the song.
        max_slope_db_per_octave: the bound.
    """
    octaves = np.log2(curve.frequencies_hz)
    rise = max_slope_db_per_octave * np.abs(octaves[:, None] - octaves[None, :])

    def heard(row: np.ndarray, levels: Sequence[float], signal: Sequence[bool]) -> tuple[float, ...]:
        held = np.array(signal, bool)
        above = np.array(levels) - masked_threshold_db(spectrum.frequencies_hz, levels)
        at = np.log2(spectrum.frequencies_hz)
        # Bands beyond the spectrum are as its last one.
        nearest = np.abs(octaves[:, None] - at[None, :]).argmin(axis=1)
        boost = np.maximum(row, 0.0)
        share = np.clip((above[nearest] + boost) / _HEARD_DB, 0.0, 1.0) * held[nearest]
        allowed = np.where(row > 0.0, row * share, row)
        if np.array_equal(allowed, row):
            return _row(row)
        slow = (allowed + rise).min(axis=1)
        return _row(np.where(row > 0.0, np.maximum(0.0, slow), row))

    if not spectrum.frequencies_hz:
        return curve
    mid = heard(np.array(curve.mid_db), spectrum.mid_db, spectrum.mid_signal)
    if spectrum.side_db is None or spectrum.side_signal is None:
        return Curve(curve.frequencies_hz, mid, curve.side_db)
    sides = np.array(curve.mid_db if curve.side_db is None else curve.side_db)
    return Curve(curve.frequencies_hz, mid, heard(sides, spectrum.side_db, spectrum.side_signal))


def masked_threshold_db(frequencies_hz: Sequence[float], levels_db: Sequence[float]) -> np.ndarray:
    """The level below which a band of a sixth of an octave is hidden by the others, dB, float64 ``[bands]``.

    The power of each band is spread over the Bark scale; what lies within half a Bark of a band does not mask it.
    """
    hz = np.array(frequencies_hz)
    bark = bark_of(hz)
    widths = bark_of(hz * 2.0 ** (1 / 12)) - bark_of(hz * 2.0 ** (-1 / 12))
    distance = bark[:, None] - bark[None, :]
    shifted = distance + 0.474
    spread_db = 15.81 + 7.5 * shifted - 17.5 * np.sqrt(1.0 + shifted**2)
    others = np.where(np.abs(distance) > 0.5, 10.0 ** (spread_db / 10.0), 0.0)
    spread = others @ 10.0 ** (np.array(levels_db) / 10.0)
    return 10.0 * np.log10(np.maximum(spread * np.minimum(widths, 1.0), 1e-30)) - _MASKS_BELOW_DB


def bark_of(hz: np.ndarray) -> np.ndarray:
    """Critical-band rate after Zwicker and Terhardt 1980, Bark."""
    return 13.0 * np.arctan(0.00076 * hz) + 3.5 * np.arctan((hz / 7500.0) ** 2)


def smoothed(
    octaves: np.ndarray, row: np.ndarray, over_octaves: float, weight: np.ndarray | None = None
) -> np.ndarray:
    """Means under a Gaussian that is ``over_octaves`` wide at half its height; bands of weight 0 do not count."""
    return _smoothed(octaves, row, np.full(len(row), over_octaves), weight)


def _smoothed(
    octaves: np.ndarray, row: np.ndarray, over_octaves: np.ndarray, weight: np.ndarray | None = None
) -> np.ndarray:
    deviation = np.maximum(over_octaves, 1e-6)[:, None] / 2.3548
    kernel = np.exp(-0.5 * ((octaves[:, None] - octaves[None, :]) / deviation) ** 2)
    if weight is not None:
        kernel = kernel * weight
    total = kernel.sum(axis=1)
    return np.where(total > 0.0, kernel @ row / np.where(total > 0.0, total, 1.0), row)


def _hearing_octaves(frequencies_hz: Sequence[float]) -> np.ndarray:
    hz = np.array(frequencies_hz)
    bandwidth = 24.7 * (4.37e-3 * hz + 1.0)
    return np.minimum(np.log2((hz + bandwidth / 2) / np.maximum(hz - bandwidth / 2, hz / 2)), 1 / 3)


def _row(values: np.ndarray) -> tuple[float, ...]:
    return tuple(values.tolist())
