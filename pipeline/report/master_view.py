"""The report's section on masters: what all songs come to, and a few of them before and after, to see and to hear.

It does not grow with the dataset: a few songs, counts of the others, and sounds up to a limit.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from pipeline.dataset.output import Output
from pipeline.report.details import Track, tracks
from pipeline.report.formatting import count, decimal, plural
from pipeline.report.master_figures import louder_within, loudness, of_all, reduction, spectra
from pipeline.report.master_player import Player, Room, player
from pipeline.report.master_rows import Fate, Masters, gather, is_preview
from pipeline.report.overview import Overview

MEANINGS = {
    "ceiling": (
        "more gain does not make it louder below the ceiling of the true peak",
        "master.ceiling_dbtp, or a lower master.lufs",
    ),
    "max_gr_db": (
        "the limiter would have to take more from a peak than it may",
        "master.max_gr_db, or a lower master.lufs",
    ),
    "codec": (
        "decoders overshoot, so the ceiling was lowered, and more gain does not make it louder below that",
        "master.bit_rate, master.encodes, or a lower master.lufs",
    ),
    "silence": ("nothing is above −70 LUFS: there is no loudness to change", ""),
    "no loudness": ("it is shorter than 0.4 s, or of a rate at which no loudness is defined", ""),
}
"""``master_limited_by`` → what it means, and which keys decide."""

MET = "nothing"
REASONS, TEXT = 12, 300
"""Reasons of one song that are shown, and the characters of one."""

_NAMES = {
    "lufs": ("Loudness", "LUFS"),
    "lra": ("Loudness range", "LU"),
    "tp": ("True peak", "dBTP"),
    "plr": ("Peak over loudness (PLR)", "LU"),
    "psr": ("Peak over the loudest 3 s (PSR)", "LU"),
    "spectral_distance": ("Distance to the references, mid", "dB"),
    "side_distance": ("Distance to the references, side", "dB"),
}
_OF_REFERENCES = ("spectral_distance", "side_distance")
_DIFFERENT = 5


@dataclass
class Song:
    """One song of those that are shown.

    Args:
        track: what it is.
        charts: names of its figures.
        numbers: what was measured before and after: name, before, after, what was asked for.
        done: what was done, a line each.
        limited: what kept it from its loudness: name, sentence, keys; None where it has it.
        reasons: where the preset was changed for it, and why.
        player: to hear it.
    """

    track: Track
    charts: list[str]
    numbers: list[tuple[str, str, str, str]]
    done: list[str]
    limited: tuple[str, str, str] | None
    reasons: list[str]
    player: Player


@dataclass
class Section:
    """All that the template shows.

    Args:
        said: how many songs there are, and how many have their loudness.
        charts: name → title, figure, caption, empty: of all songs, and of each that is shown.
        counted: names of those of all songs.
        fates: limited_by, meaning, keys, songs, seconds, mean and largest error and largest reduction as texts.
        means: quantity, before, after, songs.
        shown: which songs are shown one by one.
        songs: those.
    """

    said: str
    charts: dict[str, dict[str, Any]]
    counted: list[str]
    fates: list[tuple[str, str, str, int, float, str, str, str]]
    means: list[tuple[str, str, str, int]]
    shown: str
    songs: list[Song]


def section(output: Output, found: Overview) -> Section | None:
    """The section of an output; None where it declares no masters."""
    masters = gather(output, found)
    if masters is None:
        return None
    known = tracks(output, found, {identity for identity, _ in masters.chosen})
    chosen = [(known[identity], row) for identity, row in masters.chosen if identity in known]
    charts = of_all(masters) if masters.songs else {}
    counted = list(charts)
    songs, room = [], Room()
    for number, (track, row) in enumerate(chosen):
        song, drawn = _song(output, track, row, (number, room))
        songs.append(song)
        charts |= drawn
    return Section(
        said=_said(masters),
        charts=charts,
        counted=counted,
        fates=[_fate(name, fate) for name, fate in masters.limited],
        means=_means(masters),
        shown=_shown(len(songs), masters),
        songs=songs,
    )


def _said(masters: Masters) -> str:
    if not masters.songs:
        return "No song has a master: none was decoded, or mastering failed for all."
    met = masters.fates.get("", Fate()).songs
    said = f"{plural(masters.songs, 'song')} with a master, {count(met)} of them as loud as was asked for."
    if masters.silent:
        said += f" {count(masters.silent)} without a loudness."
    if masters.previews:
        said += f" {plural(masters.previews, 'preview')}: what was measured of a stretch is not compared with the song."
    presets = sorted(masters.presets.items(), key=lambda item: (-item[1], item[0]))
    named = ", ".join(f"{name} ({count(n)})" for name, n in presets[:_DIFFERENT])
    more = f" and {count(len(presets) - _DIFFERENT)} more" if len(presets) > _DIFFERENT else ""
    return f"{said} Preset: {named}{more}." if named else said


def _shown(songs: int, masters: Masters) -> str:
    if songs == masters.songs:
        return "Every song, those first that are not as loud as was asked for, then those that were changed most."
    return (
        f"{count(songs)} of {plural(masters.songs, 'song')}: those first that are not as loud as was asked for, then "
        "those that were changed most; equal contents once. The tables above count all."
    )


def _fate(name: str, fate: Fate) -> tuple[str, str, str, int, float, str, str, str]:
    meaning, keys = MEANINGS.get(name, ("", "")) if name else ("it has the loudness that was asked for", "")
    known = fate.known > 0
    return (
        name or MET, meaning, keys, fate.songs, fate.seconds,
        decimal(fate.error_lu / fate.known, 2) if known else "–",
        decimal(fate.largest_lu, 2) if known else "–",
        decimal(fate.reduction_db),
    )  # fmt: skip


def _means(masters: Masters) -> list[tuple[str, str, str, int]]:
    return [
        (f"{_NAMES[name][0]}, {_NAMES[name][1]}", decimal(before / songs), decimal(after / songs), songs)
        for name, (before, after, songs) in masters.means.items()
        if songs
    ]


def _song(
    output: Output, track: Track, row: dict[str, Any], place: tuple[int, Room]
) -> tuple[Song, dict[str, dict[str, Any]]]:
    number, room = place
    from_s = row.get("master_from_s") or 0.0
    louder = louder_by(row)
    drawn = {
        f"master-spectrum-{number}": spectra(row, louder or 0.0),
        f"master-loudness-{number}": loudness(row, from_s),
        f"master-reduction-{number}": reduction(row, from_s),
    }
    made = Song(
        track=track,
        charts=list(drawn),
        numbers=_numbers(row),
        done=_done(row),
        limited=_limited(row),
        reasons=_texts(row.get("master_reasons") or ()),
        player=player(output, row, louder, room),
    )
    return made, drawn


def louder_by(row: dict[str, Any]) -> float | None:
    """LU that the master is louder than the original by; of a preview, than the same stretch. None where unknown."""
    if _preview(row):
        return louder_within(row)
    before, after = row.get("master_lufs_before"), row.get("master_lufs_after")
    if before is None or after is None or not math.isfinite(after - before):
        return None
    return after - before


def _preview(row: dict[str, Any]) -> bool:
    seconds = row.get("master_gain_reduction")
    number = [
        math.nan if value is None else value for value in (row.get("duration_s"), row.get("master_from_s"))
    ]
    return bool(is_preview(*number, -1 if seconds is None else len(seconds)))


def _numbers(row: dict[str, Any]) -> list[tuple[str, str, str, str]]:
    target, ceiling = row.get("master_target_lufs"), row.get("master_ceiling_dbtp")
    asked = {
        "lufs": "" if target is None else f"{decimal(target)} LUFS",
        "tp": "" if ceiling is None else f"at most {decimal(ceiling)} dBTP",
    }
    rows = []
    for name, (said, unit) in _NAMES.items():
        before, after = (row.get(f"master_{name}_{when}") for when in ("before", "after"))
        if name in _OF_REFERENCES and before is None and after is None:
            continue
        places = 2 if name in ("lufs", "tp") else 1
        rows.append((f"{said}, {unit}", decimal(before, places), decimal(after, places), asked.get(name, "")))
    return rows


def _done(row: dict[str, Any]) -> list[str]:
    how = [row.get("master_preset"), row.get("master_mode")]
    said = [f"Preset {', '.join(str(h)[:60] for h in how if h)}"]
    if row.get("master_amount") not in (None, 1.0):
        said[0] += f", amount {decimal(row['master_amount'], 2)}"
    if row.get("master_references"):
        said.append(f"Like {plural(len(row['master_references']), 'reference')}")
    if _preview(row):
        said.append(
            f"A preview from {decimal(row.get('master_from_s') or 0.0)} s on; its numbers are of that stretch"
        )
    said.append(f"Gain {_signed(row.get('master_gain_db'))} dB before the limiter")
    said.append(f"The limiter took at most {decimal(row.get('master_max_gain_reduction_db'))} dB away")
    compressed = row.get("master_max_compression_db")
    said.append(
        "No compressor"
        if compressed is None
        else f"The compressor took at most {decimal(compressed)} dB away"
    )
    if row.get("master_encoded_tp") is not None:
        rounds = row.get("master_encode_rounds") or 1
        said.append(
            f"Encoded and decoded, its true peak is {decimal(row['master_encoded_tp'], 2)} dBTP, after "
            f"{plural(rounds, 'round')}"
        )
    if row.get("master_sample_rate"):
        said.append(
            f"The file has {row['master_sample_rate'] / 1000:g} kHz ×{row.get('master_channels') or '?'}"
        )
    return said


def _signed(value: float | None) -> str:
    return decimal(value) if value is None or value < 0 else f"+{decimal(value)}"


def _limited(row: dict[str, Any]) -> tuple[str, str, str] | None:
    name = row.get("master_limited_by")
    if not name:
        return None
    meaning, keys = MEANINGS.get(name, ("", ""))
    target, after = row.get("master_target_lufs"), row.get("master_lufs_after")
    if target is not None and after is not None and not _preview(row):
        where = "below" if after < target else "above"
        apart = f"it is {decimal(abs(target - after), 2)} LU {where} what was asked for"
        meaning = f"{meaning}; {apart}" if meaning else apart
    return name[:60], meaning, keys


def _texts(texts: Iterable[str | None]) -> list[str]:
    said = [text if len(text) <= TEXT else f"{text[:TEXT]} …" for text in texts if text]
    return said[:REASONS] + ([f"and {len(said) - REASONS} more"] if len(said) > REASONS else [])
