"""What the adaptive mode makes of a preset for one song: gentler where the song needs less, nothing where it needs
nothing.

Each rule is one function below; what it changes, and why, is a sentence in the plan. The song is known by its levels
and by the numbers of its fingerprint, any of which may be missing: a rule that needs one that is not there leaves the
preset as it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from pipeline.mastering.levels import Levels
from pipeline.mastering.presets import Preset

# Loudness range, LU, up to which the compressor works as the preset says, and from which on not at all: film and
# orchestra live of it (EBU Tech 3342 gives 10 to 20 LU for them).
_WIDE_LU = (10.0, 20.0)
# Peak to loudness ratio, LU, from which on a song counts as not dense at all, and below which as dense throughout.
_DENSE_LU = (9.0, 5.0)
# Share of the side signal in the energy, and correlation of the channels: beyond them a song is not widened.
_WIDE_SHARE, _LEAST_CORRELATION = 0.3, 0.1
# Onsets per second, from which on attacks get more time, and where they have half as much again: of the library of
# `pipeline.mastering.distance` every twentieth song has fewer, and every twentieth more.
_BUSY_PER_S = (3.0, 6.0)
_LONGEST_ATTACK_MS = 200.0
_STEADY_RHYTHM = 0.5


@dataclass(frozen=True)
class Adapted:
    """A preset for one song.

    Args:
        preset: with other numbers.
        reasons: a sentence for each rule that changed something.
    """

    preset: Preset
    reasons: tuple[str, ...] = ()


def adapt(
    preset: Preset, levels: Levels, fingerprint: Mapping[str, float | None], ceiling_dbtp: float
) -> Adapted:
    """The preset as it suits a song.

    Args:
        preset: as its file says.
        levels: of the song.
        fingerprint: quantity → value, without the prefix of the columns, such as ``tempo_bpm``.
        ceiling_dbtp: the highest true peak of the master.
    """
    reasons: list[str] = []
    for rule in (
        lambda p: _no_more_than_needed(p, levels, ceiling_dbtp),
        lambda p: _wide_dynamics(p, levels),
        lambda p: _dense(p, levels),
        lambda p: _wide_already(p, fingerprint),
        lambda p: _attacks(p, fingerprint),
        lambda p: _in_time(p, fingerprint),
    ):
        changed, reason = rule(preset)
        if changed != preset:
            preset = changed
            reasons.append(reason)
    return Adapted(preset, tuple(reasons))


def drive_db(preset: Preset, levels: Levels, ceiling_dbtp: float) -> float | None:
    """How far the peaks would stand above the ceiling at the loudness that is wanted, dB; None where it is unknown."""
    if levels.lufs is None or levels.true_peak_dbtp is None:
        return None
    return preset.lufs - levels.lufs + levels.true_peak_dbtp - ceiling_dbtp


def _no_more_than_needed(preset: Preset, levels: Levels, ceiling_dbtp: float) -> tuple[Preset, str]:
    """The compressor takes at most half of what the peaks have too much; the limiter is for the rest."""
    drive = drive_db(preset, levels, ceiling_dbtp)
    if drive is None or not _compresses(preset):
        return preset, ""
    if drive <= 0.0:
        reason = f"no compression: the peaks stay {-drive:.1f} dB below the ceiling at {preset.lufs:g} LUFS"
        return replace(preset, ratio=1.0, max_compression_db=0.0), reason
    most = min(preset.max_compression_db, drive / 2.0)
    reason = f"at most {most:.1f} dB of compression: the peaks are {drive:.1f} dB too high for {preset.lufs:g} LUFS"
    return replace(preset, max_compression_db=most), reason


def _wide_dynamics(preset: Preset, levels: Levels) -> tuple[Preset, str]:
    """What is quiet and what is loud stays so."""
    if levels.lra_lu is None or not _compresses(preset):
        return preset, ""
    wide = _share(levels.lra_lu, *_WIDE_LU)
    changed = replace(
        preset,
        ratio=1.0 + (preset.ratio - 1.0) * (1.0 - wide),
        max_compression_db=preset.max_compression_db * (1.0 - wide),
    )
    return changed, f"gentler compression: a loudness range of {levels.lra_lu:.1f} LU is wide"


def _dense(preset: Preset, levels: Levels) -> tuple[Preset, str]:
    """A song that was limited before is not compressed again, and its spectrum changed less: every boost costs peaks
    that are not there any more."""
    if levels.plr_lu is None:
        return preset, ""
    dense = _share(levels.plr_lu, *_DENSE_LU)
    less = 1.0 - dense / 2.0
    changed = replace(
        preset,
        ratio=1.0 + (preset.ratio - 1.0) * (1.0 - dense),
        max_compression_db=preset.max_compression_db * (1.0 - dense),
        tilt_db_per_octave=preset.tilt_db_per_octave * less,
        low_shelf_db=preset.low_shelf_db * less,
        high_shelf_db=preset.high_shelf_db * less,
        balance=preset.balance * less,
    )
    return (
        changed,
        f"less of everything: peaks only {levels.plr_lu:.1f} LU above the loudness are dense already",
    )


def _wide_already(preset: Preset, fingerprint: Mapping[str, float | None]) -> tuple[Preset, str]:
    """Sides that are strong, or out of phase, are not raised: less would be left in mono."""
    width, correlation = fingerprint.get("stereo_width"), fingerprint.get("phase_correlation")
    if preset.width_db <= 0.0 or width is None or correlation is None:
        return preset, ""
    if width <= _WIDE_SHARE and correlation >= _LEAST_CORRELATION:
        return preset, ""
    return (
        replace(preset, width_db=0.0),
        f"not widened: {width:.0%} of the energy is in the sides, and the channels correlate by {correlation:.2f}",
    )


def _attacks(preset: Preset, fingerprint: Mapping[str, float | None]) -> tuple[Preset, str]:
    """Where many sounds begin, the compressor lets more of each beginning through."""
    density = fingerprint.get("onset_rate_hz")
    if density is None or not _compresses(preset):
        return preset, ""
    longer = 1.0 + 0.5 * _share(density, *_BUSY_PER_S)
    changed = replace(preset, attack_ms=min(_LONGEST_ATTACK_MS, preset.attack_ms * longer))
    return changed, f"an attack of {changed.attack_ms:.0f} ms: {density:.1f} sounds begin every second"


def _in_time(preset: Preset, fingerprint: Mapping[str, float | None]) -> tuple[Preset, str]:
    """Where there is a steady beat, the compressor lets go half of the way from what the preset says to an eighth
    note, so that it breathes with the music."""
    tempo, steady = fingerprint.get("tempo_bpm"), fingerprint.get("rhythm_stability")
    if not _compresses(preset) or not tempo or steady is None or steady < _STEADY_RHYTHM:
        return preset, ""
    eighth_ms = 30_000.0 / tempo
    release = (preset.release_ms * min(max(eighth_ms, preset.release_ms / 2), preset.release_ms * 2)) ** 0.5
    return (
        replace(preset, release_ms=release),
        f"a release of {release:.0f} ms: {tempo:.0f} beats per minute",
    )


def _compresses(preset: Preset) -> bool:
    return preset.ratio > 1.0 and preset.max_compression_db > 0.0


def _share(value: float, none: float, whole: float) -> float:
    """How far ``value`` has come from ``none`` to ``whole``, 0 to 1."""
    return min(1.0, max(0.0, (value - none) / (whole - none)))
