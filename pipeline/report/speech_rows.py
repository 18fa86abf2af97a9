"""What the report's section on speech needs of the tables, gathered part by part in bounded memory.

Tables and columns are known by their names only: whichever job filled ``turns`` or ``clips`` gets the section.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.dataset.output import Output
from pipeline.report.overview import Overview
from pipeline.report.table_reading import identities, numbers, present, scan

TURNS, CLIPS, LANGUAGE = "turns", "clips", "transcribe_language"
RECORDINGS = 12
"""Recordings whose turns are drawn."""

CANDIDATES = 20
"""Clips of each kind that are looked at for a few to hear."""

OTHERS, UNSAID = "others", "not said"
_NEEDED = {
    TURNS: {"asset_id", "start_s", "end_s", "speaker"},
    CLIPS: {"asset_id", "start_s", "end_s", "keep", "drop_reason"},
}
_OF_CLIPS = (
    "asset_id", "start_s", "end_s", "speaker", "text", "avg_logprob", "snr_db", "dnsmos_ovrl", "path", "keep",
    "drop_reason",
)  # fmt: skip
# Reasons that are told apart, and languages: a table that somebody else wrote may hold any number.
_MOST_NAMES = 20
_LONGEST_NAME = 60
_KEPT = ""

GRIDS = {
    "seconds": np.linspace(0.0, 120.0, 481),
    "dnsmos_ovrl": np.linspace(1.0, 5.0, 41),
    "snr_db": np.linspace(-30.0, 90.0, 121),
}
"""Edges of the bins that clips are counted in; what lies beyond counts in the first or the last."""


@dataclass
class Recording:
    """One of the recordings whose turns are drawn.

    Args:
        identity: see `pipeline.report.table_reading.identities`.
        duration_s: seconds; NaN where it is not known.
        starts, ends: of its turns, seconds, in order of their starts.
        speakers: whose they are; empty where nobody knows.
    """

    identity: int
    duration_s: float
    starts: np.ndarray = field(default_factory=lambda: np.empty(0))
    ends: np.ndarray = field(default_factory=lambda: np.empty(0))
    speakers: np.ndarray = field(default_factory=lambda: np.empty(0, object))


@dataclass
class Kind:
    """Clips with one fate: kept, or dropped for one reason.

    Args:
        count: how many.
        seconds: all together.
        some: up to `CANDIDATES` of them as rows, in a random order that is the same each time.
    """

    count: int = 0
    seconds: float = 0.0
    some: list[tuple[int, dict[str, Any]]] = field(default_factory=list)


@dataclass
class Clips:
    """The clips, counted.

    Args:
        kinds: reason → those that were dropped for it; those that were kept under an empty one.
        counts: name in `GRIDS` → int64 ``[2, bins]``, of those that were kept and of the others.
    """

    kinds: dict[str, Kind] = field(default_factory=dict)
    counts: dict[str, np.ndarray] = field(
        default_factory=lambda: {name: np.zeros((2, len(g) - 1), np.int64) for name, g in GRIDS.items()}
    )

    @property
    def kept(self) -> Kind:
        """Those that passed every threshold."""
        return self.kinds.get(_KEPT, Kind())

    @property
    def dropped(self) -> list[tuple[str, Kind]]:
        """The others by reason, the most frequent first."""
        found = [(name, kind) for name, kind in self.kinds.items() if name != _KEPT]
        return sorted(found, key=lambda item: (-item[1].count, item[0]))


@dataclass
class Speech:
    """What was found; None for what the output does not declare.

    Args:
        recordings: with turns; those with the most speakers, and of equals the longest.
        clips: all of them.
        languages: recordings by language, those without one under an empty name.
    """

    recordings: list[Recording] | None = None
    clips: Clips | None = None
    languages: Counter | None = None


def gather(output: Output, found: Overview) -> Speech | None:
    """Read what is there of speech; None where the output declares neither turns nor clips."""
    declared = {name: {"asset_id", *(f.name for f in t.fields)} for name, t in output.contents.tables.items()}
    has = {name for name, needed in _NEEDED.items() if needed <= declared.get(name, set())}
    if not has:
        return None
    speech = Speech()
    chosen, languages = _recordings(output, found)
    if LANGUAGE in output.contents.owners:
        speech.languages = languages
    if TURNS in has:
        _read_turns(output, found, chosen)
        speech.recordings = [recording for recording in chosen if len(recording.starts)]
    if CLIPS in has:
        speech.clips = _read_clips(output, found)
    return speech


def _recordings(output: Output, found: Overview) -> tuple[list[Recording], Counter]:
    """The recordings whose turns are worth drawing, each content once, and how many there are of each language."""
    languages: Counter = Counter()
    ids, speakers, seconds = np.empty(0, np.uint64), np.empty(0), np.empty(0)
    columns = ["asset_id", "status", "duration_s", "diarize_speakers", LANGUAGE]
    for rows, _ in scan(output, found.names, columns):
        rows = rows.filter(pa.array(present(rows)))
        if LANGUAGE in rows.schema.names:
            for name, n in _counted(rows[LANGUAGE]).items():
                languages[_bounded(name, languages)] += n
        ids = np.concatenate([ids, identities(rows)])
        speakers = np.concatenate([speakers, np.nan_to_num(numbers(rows, "diarize_speakers"))])
        seconds = np.concatenate([seconds, np.nan_to_num(numbers(rows, "duration_s"))])
        ids, first = np.unique(ids, return_index=True)
        best = np.lexsort((ids, -seconds[first], -speakers[first]))[:RECORDINGS]
        ids, speakers, seconds = ids[best], speakers[first][best], seconds[first][best]
    return [Recording(int(i), float(s) or np.nan) for i, s in zip(ids, seconds, strict=True)], languages


def _counted(column: pa.ChunkedArray) -> dict[str, int]:
    return {e["values"] or "": e["counts"] for e in column.cast(pa.string()).value_counts().to_pylist()}


def _bounded(name: str, known: dict[str, Any]) -> str:
    name = name[:_LONGEST_NAME]
    return name if name in known or len(known) < _MOST_NAMES else OTHERS


def _read(
    output: Output, found: Overview, table: str, columns: tuple[str, ...], parts: set[str] | None = None
) -> Iterator[tuple[pa.Table, np.ndarray]]:
    """Rows of a declared table with their identities and only with times that make sense.

    Args:
        parts: the parts of `tracks` beside which rows are looked for; None for all.
    """
    beside = {name.partition("/")[2] for name in (found.names if parts is None else parts)}
    names = [name for name in output.parts(table) if name.partition("/")[2] in beside]
    for rows, _ in scan(output, names, columns):
        start, end = (rows[name].to_numpy().astype(float) for name in ("start_s", "end_s"))
        rows = rows.filter(pa.array(np.isfinite(start) & np.isfinite(end) & (start >= 0) & (end > start)))
        yield rows, identities(rows)


def _read_turns(output: Output, found: Overview, chosen: list[Recording]) -> None:
    wanted = np.array([recording.identity for recording in chosen], np.uint64)
    parts = {found.names[part] for part in np.unique(found.parts[np.isin(found.ids, wanted)])}
    held: dict[int, list[pa.Table]] = {recording.identity: [] for recording in chosen}
    for rows, ids in _read(output, found, TURNS, ("asset_id", "start_s", "end_s", "speaker"), parts):
        for identity in np.intersect1d(ids, wanted).tolist():
            held[identity].append(rows.filter(pa.array(ids == identity)))
    for recording in chosen:
        if held[recording.identity]:
            rows = pa.concat_tables(held[recording.identity]).sort_by("start_s")
            recording.starts, recording.ends = (rows[name].to_numpy() for name in ("start_s", "end_s"))
            recording.speakers = _names(rows["speaker"])


def _names(column: pa.ChunkedArray) -> np.ndarray:
    return np.array([(name or "")[:_LONGEST_NAME] for name in column.to_pylist()], object)


def _read_clips(output: Output, found: Overview) -> Clips:
    clips = Clips()
    here = np.unique(found.ids)
    for rows, ids in _read(output, found, CLIPS, _OF_CLIPS):
        there = _among(ids, here)  # not those of files that are gone
        rows, ids = rows.append_column("identity", pa.array(ids)).filter(pa.array(there)), ids[there]
        keep = rows["keep"].fill_null(False).to_numpy()
        seconds = rows["end_s"].to_numpy() - rows["start_s"].to_numpy()
        for name in GRIDS:
            values = seconds if name == "seconds" else numbers(rows, name)
            for row, mask in enumerate((keep, ~keep)):
                clips.counts[name][row] += _histogram(values[mask], GRIDS[name])
        order = _shuffled(ids, rows["start_s"].to_numpy())
        said = zip(keep.tolist(), rows["drop_reason"].to_pylist(), strict=True)
        named = np.array([_KEPT if kept else reason or UNSAID for kept, reason in said], object)
        for reason in dict.fromkeys(named.tolist()):
            kind = clips.kinds.setdefault(_bounded(reason, clips.kinds), Kind())
            _add(kind, rows, np.flatnonzero(named == reason), (seconds, order))
    return clips


def _among(ids: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Which of ``ids`` are among ``known``, which are in order: bool ``[n]``."""
    if not len(known):
        return np.zeros(len(ids), bool)
    return known[np.minimum(np.searchsorted(known, ids), len(known) - 1)] == ids


def _histogram(values: np.ndarray, edges: np.ndarray) -> np.ndarray:
    values = values[np.isfinite(values)]
    return np.histogram(np.clip(values, edges[0], edges[-1]), edges)[0]


def _shuffled(ids: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """A number for each clip, uint64, that is random and depends on which clip it is only (SplitMix64)."""
    mixed = ids ^ (np.ascontiguousarray(starts, np.float64).view(np.uint64) * np.uint64(0x9E3779B97F4A7C15))
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
    return mixed ^ (mixed >> np.uint64(31))


def _add(kind: Kind, rows: pa.Table, places: np.ndarray, of: tuple[np.ndarray, np.ndarray]) -> None:
    seconds, order = of
    kind.count += len(places)
    kind.seconds += float(seconds[places].sum())
    first = places[np.argsort(order[places], kind="stable")[:CANDIDATES]]
    taken = zip(order[first].tolist(), rows.take(pa.array(first)).to_pylist(), strict=True)
    kind.some = sorted([*kind.some, *taken], key=lambda item: item[0])[:CANDIDATES]
