"""Which curve brings a song to the spectrum and the width of a reference, or near that of commercial recordings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from pipeline.mastering.curves import Curve, bounded, flat, masked, smoothed
from pipeline.mastering.spectrum import Spectrum, third_octave_db

# Loudness goes with about this power of intensity (Stevens): bands weigh as they are heard.
_LOUDNESS_EXPONENT = 0.25
# Nothing below is matched: rumble and what the window smears over it.
_LOWEST_HZ = 24.0
_CORRECTIONS, _MOST_CORRECTED_DB = 3, 3.0


@dataclass(frozen=True)
class Target:
    """A spectrum that songs need not have, only come near.

    Args:
        frequencies_hz: where it is given; in between it is straight over log frequency.
        level_db: in bands of constant relative width, but for a constant.
        tolerance_db: how far a song may lie from it, either way, and be left alone.
    """

    frequencies_hz: tuple[float, ...]
    level_db: tuple[float, ...]
    tolerance_db: tuple[float, ...]

    def at(self, frequencies_hz: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
        """Level and tolerance."""
        octaves, own = np.log2(frequencies_hz), np.log2(self.frequencies_hz)
        return np.interp(octaves, own, self.level_db), np.interp(octaves, own, self.tolerance_db)


COMMERCIAL = Target(
    (20.0, 40.0, 60.0, 100.0, 4000.0, 8000.0, 12000.0, 16000.0, 20000.0),
    (-12.0, -2.5, 0.0, 0.0, -10.6, -15.6, -20.3, -25.3, -31.3),
    (9.0, 6.0, 4.0, 3.0, 3.0, 4.0, 5.0, 7.0, 9.0),
)
"""The long-term spectrum of commercial recordings, roughly. From 100 Hz to 4 kHz their power per Hz falls by some 5 dB
per octave, 2 dB per octave in bands of constant relative width; above that it falls ever more steeply, and around 60 Hz
there is a low cut: so 772 hits of 1950 to 2010 on average in Pestana, Ma, Reiss, Barbosa and Black, "Spectral
Characteristics of Popular Commercial Recordings 1950-2010" (AES Convention 135, 2013, paper 8960, page 5), as Schedin
quotes it, "Target Spectrums for Mastering" (Lulea University of Technology, 2021, page 7). The paper has no numbers for
what lies beyond: below 100 Hz, above 4 kHz (5, 8 and 12 dB per octave in such bands) and in its tolerances this table
is a choice of this project, wide where genres differ: what lies within is no fault that an equaliser should mend."""


def match(
    song: Spectrum,
    reference: Spectrum,
    *,
    max_db: float = 12.0,
    smoothing_octaves: float = 1 / 4,
    amount: float = 1.0,
    max_slope_db_per_octave: float = 48.0,
) -> Curve:
    """The curve that gives ``song`` the shape of the reference's spectrum, and its width, where both are stereo.

    Compared is what lies half way between the loudest parts and the whole, so that the match holds for both, in
    third-octave bands: what is narrower are notes, of which two songs have different ones. The mean difference of mid,
    bands weighing as they are heard, is loudness and is taken off both, mid and side: side keeps its distance from mid
    and so brings the width. Bands that hold no signal in either are as their nearest neighbours, and are not boosted
    where the song holds none.

    Args:
        song, reference: their spectra.
        max_db: no gain is beyond it.
        smoothing_octaves: width of the Gaussian under which differences are averaged.
        amount: 0 changes nothing, 1 matches; the gains in dB are scaled.
        max_slope_db_per_octave: no slope is beyond it.
    """
    song, reference = _between(song), _between(reference)
    ours, theirs = third_octave_db(song), third_octave_db(reference)
    count = min(len(ours.frequencies_hz), len(theirs.frequencies_hz))
    hz = ours.frequencies_hz[:count]
    audible = hz >= _LOWEST_HZ
    both = audible & ours.mid_signal[:count] & theirs.mid_signal[:count]
    if not both.any():
        return flat()
    apart = theirs.mid_db[:count] - ours.mid_db[:count]
    heard = _heard(ours.mid_db[:count]) * _heard(theirs.mid_db[:count]) * both
    level = float(np.average(apart, weights=heard))
    mid = _filled(hz, apart - level, both, smoothing_octaves)
    mid = _applied(hz, mid, song.frequencies_hz, song.mid_db)
    side = None
    if ours.side_db is not None and theirs.side_db is not None:
        two = audible & ours.side_signal[:count] & theirs.side_signal[:count]
        side = mid
        # Of a song or a reference without width there is nothing to be matched: side goes with mid.
        if two.any():
            side = _filled(hz, theirs.side_db[:count] - ours.side_db[:count] - level, two, smoothing_octaves)
            side = _applied(hz, side, song.frequencies_hz, song.side_db)
    curve = bounded(
        _curve(hz, mid, side),
        max_db=max_db,
        max_slope_db_per_octave=max_slope_db_per_octave,
        hearing_bands=False,
    )
    held = (ours.mid_signal[:count], None if side is None else ours.side_signal[:count])
    return _where_signal(curve, held, max_slope_db_per_octave).scaled(amount)


def _between(spectrum: Spectrum) -> Spectrum:
    """With levels half way, in dB, between those of the loudest parts and those of the whole song."""

    def middle(one: Sequence[float], other: Sequence[float]) -> tuple[float, ...]:
        return tuple((0.5 * (np.array(one) + np.array(other))).tolist())

    side = None
    if spectrum.side_db is not None and spectrum.mean_side_db is not None:
        side = middle(spectrum.side_db, spectrum.mean_side_db)
    return replace(spectrum, mid_db=middle(spectrum.mid_db, spectrum.mean_mid_db), side_db=side)


def _applied(
    hz: np.ndarray, wanted: np.ndarray, fine_hz: Sequence[float], fine_db: Sequence[float]
) -> np.ndarray:
    """Gains at the centres of third-octave bands with which the bands' levels change by what is wanted.

    A band changes by the gain where its power lies, which a curve that passes from one centre to the next has nowhere
    else: three corrections bring most bands within a tenth of a dB.
    """
    power = 10.0 ** (np.array(fine_db[: 2 * len(hz)]) / 10.0)
    before = power.reshape(-1, 2).sum(axis=1)
    gains = wanted.copy()
    for _ in range(_CORRECTIONS):
        fine = 10.0 ** (_curve(hz, gains, None).at(fine_hz[: 2 * len(hz)])[0] / 10.0)
        after = (power * fine).reshape(-1, 2).sum(axis=1)
        gains += np.clip(wanted - 10.0 * np.log10(after / before), -_MOST_CORRECTED_DB, _MOST_CORRECTED_DB)
    return gains


def toward(
    song: Spectrum,
    target: Target = COMMERCIAL,
    *,
    max_db: float = 6.0,
    smoothing_octaves: float = 1.0,
    amount: float = 1.0,
    max_slope_db_per_octave: float = 6.0,
) -> Curve:
    """The curve that brings ``song`` to the edge of the target's tolerance; nothing where it lies within.

    Mid and side get the same gains, and the width stays. Boosts that nobody would hear are left out.

    Args:
        song: its spectrum.
        target: where to.
        max_db, max_slope_db_per_octave: no gain and no slope is beyond them.
        smoothing_octaves: width of the Gaussian under which the song is compared.
        amount: 0 changes nothing, 1 goes all the way; the gains in dB are scaled.
    """
    hz = song.frequencies_hz
    held = np.array(song.mid_signal, bool) & (np.array(hz) >= _LOWEST_HZ)
    if not held.any():
        return flat()
    wanted, tolerance = target.at(hz)
    apart = wanted - np.array(song.mid_db)
    heard = np.maximum(_heard(song.mid_db), 1e-3) * held
    apart = _filled(hz, apart - np.average(apart, weights=heard), held, smoothing_octaves)
    beyond = np.sign(apart) * np.maximum(0.0, np.abs(apart) - tolerance)
    curve = bounded(
        Curve(hz, tuple(beyond.tolist())), max_db=max_db, max_slope_db_per_octave=max_slope_db_per_octave
    )
    boosts = masked(curve, song, max_slope_db_per_octave=max_slope_db_per_octave)
    return Curve(hz, boosts.mid_db).scaled(amount)


def _filled(
    hz: Sequence[float] | np.ndarray, row: np.ndarray, held: np.ndarray, over_octaves: float
) -> np.ndarray:
    """Smoothed over what holds signal; a band that does not has the value of its nearest neighbour that does."""
    octaves = np.log2(hz)
    known = np.flatnonzero(held)
    nearest = known[np.abs(octaves[:, None] - octaves[None, known]).argmin(axis=1)]
    return smoothed(octaves, row[nearest], over_octaves)


def _where_signal(curve: Curve, held: tuple[np.ndarray, np.ndarray | None], slope: float) -> Curve:
    """No boost where the song holds no signal, and none that rises too fast beside it."""
    octaves = np.log2(curve.frequencies_hz)
    rise = slope * np.abs(octaves[:, None] - octaves[None, :])

    def kept(row: Sequence[float], signal: np.ndarray) -> np.ndarray:
        values = np.array(row)
        allowed = np.where(signal, values, np.minimum(values, 0.0))
        return np.minimum(values, (allowed + rise).min(axis=1))

    mid, side = held
    sides = None if curve.side_db is None or side is None else kept(curve.side_db, side)
    return _curve(curve.frequencies_hz, kept(curve.mid_db, mid), sides)


def _curve(hz: Sequence[float] | np.ndarray, mid: np.ndarray, side: np.ndarray | None) -> Curve:
    rows = [None if row is None else tuple(np.asarray(row, np.float64).tolist()) for row in (hz, mid, side)]
    return Curve(rows[0] or (), rows[1] or (), rows[2])


def _heard(levels_db: Sequence[float] | np.ndarray) -> np.ndarray:
    levels = np.asarray(levels_db, np.float64)
    return 10.0 ** (_LOUDNESS_EXPONENT / 10.0 * (levels - levels.max()))
