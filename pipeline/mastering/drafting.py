"""From a song, a wish and references to a plan that lacks its gain alone: the curve, the compressor, the target."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from pipeline.mastering.curves import Curve, bounded, high_shelf, low_shelf, masked, tilt, width
from pipeline.mastering.dynamics import Compression
from pipeline.mastering.levels import Levels
from pipeline.mastering.limiter import Limiting
from pipeline.mastering.matching import match, toward
from pipeline.mastering.plan import Plan
from pipeline.mastering.presets import WITHIN, Preset
from pipeline.mastering.rules import Adapted, adapt
from pipeline.mastering.spectrum import Spectrum, average
from pipeline.mastering.wish import Wish

# Of the equaliser between two bands; a match may be steeper, because its reference is.
_MAX_SLOPE = 12.0
_KNEE_DB = 6.0
HEADROOM_DB = 0.05
"""So much below the promised ceiling the limiter stays: meters with another interpolation read a little more."""
_NEUTRAL = Preset(balance=0.0, ratio=1.0, max_compression_db=0.0)
# A reference is asked for by name: it may change a band by so much more than `Preset.max_db`.
_MATCH_OVER_MAX = 2.0
# As loud as a reference was made, a song may have to be made.
_MATCH_MAX_GR_DB = 18.0


@dataclass(frozen=True)
class Heard:
    """What is known of a song once it was listened to.

    Args:
        sample_rate, channels, samples: of it.
        levels, spectrum: of it.
        short_term_lufs: as in `pipeline.mastering.meter.Measured`.
    """

    sample_rate: int
    channels: int
    samples: int
    levels: Levels
    spectrum: Spectrum
    short_term_lufs: tuple[float | None, ...]


@dataclass(frozen=True)
class Reference:
    """A song that others shall sound like.

    Args:
        asset_id: sha256 of its file.
        levels, spectrum: of it.
    """

    asset_id: str
    levels: Levels
    spectrum: Spectrum


def draft(
    heard: Heard, wish: Wish, fingerprint: Mapping[str, float | None], references: Sequence[Reference] = ()
) -> Plan:
    """The plan of a song, with no gain yet.

    Raises:
        ValueError: the mode needs a reference, and there is none.
    """
    if wish.mode != "adaptive" and not references:
        raise ValueError(f"mode {wish.mode} needs a reference")
    like = References(references) if references and wish.mode != "adaptive" else None
    weight = _weight(wish, like)
    preset, before = _aimed(wish, like, weight), heard.levels
    adapted = Adapted(preset)
    if weight < 1.0:
        adapted = adapt(preset, before, fingerprint, wish.ceiling_dbtp)
    elif like is not None:
        adapted = _as_dense(preset, before, like)
    preset = _scaled(adapted.preset, wish.amount)
    # What has no loudness could not be given back what a compressor takes: it is left as it is.
    curve = None if before.lufs is None else _curve(preset, heard, like, wish)
    curve = None if curve is None else curve.scaled(wish.amount)
    target = _target(before, adapted.preset.lufs, wish.amount)
    return Plan(
        sample_rate=heard.sample_rate,
        channels=heard.channels,
        samples=heard.samples,
        wish=wish.to_dict(),
        preset=preset,
        reasons=adapted.reasons if wish.amount else (),
        before=before,
        target_lufs=target,
        curve=None if curve is None or curve.flat else curve,
        phase=wish.phase,
        compression=None if before.lufs is None else _compression(preset, heard, curve),
        gain_db=0.0,
        limiting=Limiting(ceiling_dbtp=wish.ceiling_dbtp - HEADROOM_DB),
        lufs=None,
        limited_by=None,
        references=tuple(reference.asset_id for reference in references) if like else (),
    )


class References:
    """Several songs as one: the mean of their spectra and of their levels."""

    def __init__(self, references: Sequence[Reference]) -> None:
        self.spectrum = average([reference.spectrum for reference in references])
        self.lufs = _mean([reference.levels.lufs for reference in references])
        self.plr_lu = _mean([reference.levels.plr_lu for reference in references])


def _aimed(wish: Wish, like: References | None, weight: float) -> Preset:
    """The preset with the loudness of the references, by their weight, and a limiter that may follow it; but for what
    was asked for by itself."""
    preset = wish.preset
    if like is None or like.lufs is None:
        return preset
    further = max(0.0, _MATCH_MAX_GR_DB - preset.max_gr_db)
    lufs = weight * like.lufs + (1.0 - weight) * preset.lufs
    aimed = {
        "lufs": min(max(lufs, WITHIN["lufs"][0]), WITHIN["lufs"][1]),
        "max_gr_db": preset.max_gr_db + weight * further,
    }
    return replace(preset, **{name: value for name, value in aimed.items() if name not in wish.own})


def _as_dense(preset: Preset, before: Levels, like: References) -> Adapted:
    """The compressor takes half of what the song's peaks stand higher above its loudness than the references' do."""
    if before.plr_lu is None or like.plr_lu is None or preset.ratio == 1.0:
        return Adapted(replace(preset, ratio=1.0, max_compression_db=0.0))
    higher = before.plr_lu - like.plr_lu
    if higher <= 0.0:
        reason = f"no compression: peaks {before.plr_lu:.1f} LU above the loudness are no more than the reference's"
        return Adapted(replace(preset, ratio=1.0, max_compression_db=0.0), (reason,))
    most = min(preset.max_compression_db, higher / 2.0)
    reason = f"at most {most:.1f} dB of compression: peaks stand {higher:.1f} LU higher than in the reference"
    return Adapted(replace(preset, max_compression_db=most), (reason,))


def _scaled(preset: Preset, amount: float) -> Preset:
    """What the compressor does, by the amount; gains of the equaliser are scaled as a curve."""
    return replace(
        preset,
        ratio=1.0 + (preset.ratio - 1.0) * amount,
        max_compression_db=preset.max_compression_db * amount,
    )


def _target(before: Levels, wanted_lufs: float, amount: float) -> float | None:
    if before.lufs is None:
        return None
    return before.lufs + amount * (wanted_lufs - before.lufs)


def _curve(preset: Preset, heard: Heard, like: References | None, wish: Wish) -> Curve | None:
    """What the equaliser does: the preset and the song's balance, the references, width and bass."""
    weight = _weight(wish, like)
    # Beside a reference alone, nothing of the preset is done but what was asked for by itself.
    own = preset if weight < 1.0 else replace(_NEUTRAL, **{name: getattr(preset, name) for name in wish.own})
    share = 1.0 - weight if weight < 1.0 else 1.0
    curves = [_own(own, heard.spectrum).scaled(share)]
    if like is not None:
        most = preset.max_db if "max_db" in wish.own else _MATCH_OVER_MAX * preset.max_db
        curves.append(match(heard.spectrum, like.spectrum, max_db=most).scaled(weight))
    if heard.channels == 2 and (own.width_db or own.mono_below_hz):
        curves.append(width(share * own.width_db, mono_below_hz=own.mono_below_hz))
    return _together(curves)


def _weight(wish: Wish, like: References | None) -> float:
    """Of the references, 0 to 1."""
    return 0.0 if like is None else 1.0 if wish.mode == "reference" else wish.reference_weight


def _own(preset: Preset, song: Spectrum) -> Curve:
    """The balance and the tone of the preset, within its bounds, without boosts that nobody hears."""
    tone = [
        tilt(preset.tilt_db_per_octave) if preset.tilt_db_per_octave else None,
        low_shelf(preset.low_shelf_hz, preset.low_shelf_db) if preset.low_shelf_db else None,
        high_shelf(preset.high_shelf_hz, preset.high_shelf_db) if preset.high_shelf_db else None,
        toward(song, max_db=preset.max_db, amount=preset.balance) if preset.balance else None,
    ]
    curve = _together([one for one in tone if one is not None and not one.flat])
    if curve is None:
        return Curve((1000.0,), (0.0,))
    return masked(bounded(curve, max_db=preset.max_db, max_slope_db_per_octave=_MAX_SLOPE), song)


def _together(curves: Sequence[Curve]) -> Curve | None:
    total: Curve | None = None
    for curve in curves:
        total = curve if total is None else total.added(curve)
    return total


def _compression(preset: Preset, heard: Heard, curve: Curve | None) -> Compression | None:
    """The compressor whose threshold takes ``max_compression_db`` from the loud passages, in each band from its own."""
    loud = heard.levels.loud_dbfs
    if preset.ratio <= 1.0 or preset.max_compression_db <= 0.0 or loud is None:
        return None
    below = preset.max_compression_db / (1.0 - 1.0 / preset.ratio)
    bands = _band_levels(heard, curve, preset.crossovers_hz)
    # Samples of integers in a float file are far above full scale.
    thresholds = tuple(min(20.0, max(-100.0, loud + band - below)) for band in bands)
    return Compression(
        threshold_db=thresholds if len(thresholds) > 1 else thresholds[0],
        ratio=preset.ratio,
        knee_db=_KNEE_DB,
        attack_ms=preset.attack_ms,
        release_ms=preset.release_ms,
        crossovers_hz=preset.crossovers_hz,
        max_reduction_db=preset.max_compression_db,
    )


def _band_levels(heard: Heard, curve: Curve | None, crossovers_hz: Sequence[float]) -> list[float]:
    """Level of each band behind the equaliser, over that of the whole song before it, dB."""
    spectrum = heard.spectrum
    hz = np.array(spectrum.frequencies_hz)
    if not len(hz):
        return [0.0] * (len(crossovers_hz) + 1)
    rows = [np.array(spectrum.mid_db)]
    if spectrum.side_db is not None:
        rows.append(np.array(spectrum.side_db))
    power = [10.0 ** (row / 10.0) for row in rows]
    whole = sum(row.sum() for row in power)
    if curve is not None:
        gains = curve.at(hz)
        power = [row * 10.0 ** (gain / 10.0) for row, gain in zip(power, gains, strict=False)]
    total = np.sum(power, axis=0)
    edges = [0.0, *crossovers_hz, math.inf]
    sums = [total[(hz >= low) & (hz < high)].sum() for low, high in itertools.pairwise(edges)]
    return [10.0 * math.log10(max(one, 1e-12 * whole, 1e-30) / max(whole, 1e-30)) for one in sums]


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
