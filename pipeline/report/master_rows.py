"""What the report's section on masters needs of `tracks`: sums and counts of all, and all columns of a few songs.

Columns are known by their names only; read part by part, in memory that does not depend on how many songs there are.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.dataset.output import Output
from pipeline.report.details import select
from pipeline.report.overview import Overview
from pipeline.report.table_reading import identities, numbers, present, scan

SONGS = 6
"""Songs that are shown one by one."""

OTHERS = "others"
PAIRS = ("lufs", "lra", "tp", "plr", "psr", "spectral_distance", "side_distance")
"""What is measured before and after: ``master_<name>_before`` and ``_after``."""

GRIDS = {
    "error": np.linspace(0.0, 24.0, 2401),
    "peak": np.linspace(-60.0, 6.0, 661),
    "reduction": np.linspace(0.0, 24.0, 241),
}
"""Edges of the bins that songs are counted in; what lies beyond counts in the first or the last."""

CEILING_DB = 0.05
"""How far a true peak may be above its ceiling before it counts as above."""

_NEEDED = {"master_preset", "master_lufs_after"}
_NUMBERS = (
    "duration_s", "master_target_lufs", "master_ceiling_dbtp", "master_max_gain_reduction_db",
    "master_max_compression_db", "master_from_s", *(f"master_{n}_{w}" for n in PAIRS for w in ("before", "after")),
)  # fmt: skip
_LISTS = ("master_gain_reduction", "master_spectrum_before", "master_spectrum_after")
_TEXTS = ("master_preset", "master_limited_by")
_OF_A_SONG = (
    "asset_id", "uri", "master_file", "master_preset", "master_mode", "master_amount", "master_gain_db",
    "master_limited_by", "master_reasons", "master_references", "master_encoded_tp", "master_encode_rounds",
    "master_sample_rate", "master_channels", "master_loudness_before", "master_loudness_after", "master_spectrum_hz",
    *_NUMBERS, *_LISTS,
)  # fmt: skip
# Presets and reasons that are told apart: a table that somebody else wrote may hold any number.
_MOST_NAMES, _LONGEST_NAME = 20, 60
# A song that was cut off here is no preview, only rounded.
_PREVIEW_S = 1.0


@dataclass
class Fate:
    """Songs whose loudness was limited by one thing, or by nothing.

    Args:
        songs: how many.
        seconds: of them all together.
        known: those whose loudness error is known.
        error_lu: sum of the errors of these.
        largest_lu: the largest error.
        reduction_db: the most that the limiter took away of any.
    """

    songs: int = 0
    seconds: float = 0.0
    known: int = 0
    error_lu: float = 0.0
    largest_lu: float = 0.0
    reduction_db: float = 0.0


@dataclass
class Masters:
    """What was found.

    Args:
        songs, silent, previews: rows with a master, and of those the ones without a loudness, and of a stretch only.
        presets: songs by preset.
        fates: ``limited_by`` → songs; those that met their loudness under an empty name.
        counts: name in `GRIDS` → songs by bin.
        ceilings: the lowest and the highest ceiling, dBTP.
        above: songs whose true peak is above their ceiling.
        means: name in `PAIRS` → (sum before, sum after, songs), of those that have both.
        chosen: a few songs, all their columns, with their identity; those first that are limited.
    """

    songs: int = 0
    silent: int = 0
    previews: int = 0
    presets: Counter = field(default_factory=Counter)
    fates: dict[str, Fate] = field(default_factory=dict)
    counts: dict[str, np.ndarray] = field(
        default_factory=lambda: {name: np.zeros(len(grid) - 1, np.int64) for name, grid in GRIDS.items()}
    )
    ceilings: tuple[float, float] = (np.inf, -np.inf)
    above: int = 0
    means: dict[str, tuple[float, float, int]] = field(
        default_factory=lambda: dict.fromkeys(PAIRS, (0.0, 0.0, 0))
    )
    chosen: list[tuple[int, dict[str, Any]]] = field(default_factory=list)

    @property
    def limited(self) -> list[tuple[str, Fate]]:
        """What limited songs, the most frequent first; nothing comes last."""
        return sorted(self.fates.items(), key=lambda item: (not item[0], -item[1].songs, item[0]))


def gather(output: Output, found: Overview) -> Masters | None:
    """Read what is there of masters; None where the output declares none."""
    if not set(output.contents.owners) >= _NEEDED:
        return None
    masters, limited, changed = Masters(), _Best(), _Best()
    for everything, _ in scan(output, found.names, ["asset_id", "status", *_NUMBERS, *_TEXTS, *_LISTS]):
        rows = everything.filter(pa.array(present(everything)))
        presets = _texts(rows, "master_preset")
        there = np.array([preset is not None for preset in presets], bool)
        if not there.any():
            continue
        rows = rows.filter(pa.array(there))
        values = {name: numbers(rows, name).astype(np.float64) for name in _NUMBERS}
        reasons = np.array([reason or "" for reason in _texts(rows, "master_limited_by")], object)
        whole = ~is_preview(
            values["duration_s"], values["master_from_s"], _lengths(rows, "master_gain_reduction")
        )
        error = np.abs(values["master_lufs_after"] - values["master_target_lufs"])
        error[~whole] = np.nan
        for preset in filter(None, presets):
            masters.presets[_bounded(preset, masters.presets)] += 1
        _count(masters, values, error, whole)
        _add_fates(masters, values, error, reasons)
        ids = identities(rows)
        change = _change(rows, values)
        heard = np.isfinite(values["master_lufs_after"])
        short = (reasons != "") & heard
        limited.add(ids[short], np.nan_to_num(error[short]))
        changed.add(ids, np.where(heard, change, -1.0))
    masters.chosen = _chosen(output, found, limited.ids, changed.ids)
    return masters


def is_preview(duration_s: Any, from_s: Any, seconds: Any) -> Any:
    """Whether only a stretch of a song was rendered; of numbers or arrays.

    Args:
        duration_s: of the song.
        from_s: where the master begins in it.
        seconds: that the limiter worked on; below 0 where that is not known.
    """
    short = (np.asarray(seconds) >= 0) & (np.subtract(duration_s, seconds) >= _PREVIEW_S)
    return (np.nan_to_num(from_s) > 0) | short


def _texts(rows: pa.Table, name: str) -> list[str | None]:
    return rows[name].cast(pa.string()).to_pylist() if name in rows.schema.names else [None] * rows.num_rows


def _bounded(name: str, known: Any) -> str:
    name = name[:_LONGEST_NAME]
    return name if name in known or len(known) < _MOST_NAMES else OTHERS


def _count(masters: Masters, values: dict[str, np.ndarray], error: np.ndarray, whole: np.ndarray) -> None:
    peaks, ceilings = values["master_tp_after"], values["master_ceiling_dbtp"]
    masters.songs += len(error)
    masters.silent += int((~np.isfinite(values["master_lufs_after"])).sum())
    masters.previews += int((~whole).sum())
    masters.above += int((peaks > ceilings + CEILING_DB).sum())
    known = ceilings[np.isfinite(ceilings)]
    low, high = masters.ceilings
    masters.ceilings = float(known.min(initial=low)), float(known.max(initial=high))
    # A peak at the ceiling counts below it.
    for name, these in (
        ("error", error), ("peak", peaks - 1e-4), ("reduction", values["master_max_gain_reduction_db"]),
    ):  # fmt: skip
        edges, finite = GRIDS[name], these[np.isfinite(these)]
        masters.counts[name] += np.histogram(np.clip(finite, edges[0], edges[-1]), edges)[0]
    for name in PAIRS:
        before, after = (values[f"master_{name}_{when}"] for when in ("before", "after"))
        both = np.isfinite(before) & np.isfinite(after) & whole
        first, second, songs = masters.means[name]
        masters.means[name] = (
            first + float(before[both].sum()), second + float(after[both].sum()), songs + int(both.sum()),
        )  # fmt: skip


def _add_fates(
    masters: Masters, values: dict[str, np.ndarray], error: np.ndarray, reasons: np.ndarray
) -> None:
    for reason in dict.fromkeys(reasons.tolist()):
        these = reasons == reason
        fate = masters.fates.setdefault(_bounded(reason, masters.fates), Fate())
        known = error[these & np.isfinite(error)]
        reduced = np.nan_to_num(values["master_max_gain_reduction_db"][these])
        fate.songs += int(these.sum())
        fate.seconds += float(np.nansum(values["duration_s"][these]))
        fate.known += len(known)
        fate.error_lu += float(known.sum())
        fate.largest_lu = float(known.max(initial=fate.largest_lu))
        fate.reduction_db = float(reduced.max(initial=fate.reduction_db))


def _change(rows: pa.Table, values: dict[str, np.ndarray]) -> np.ndarray:
    """How much a song was changed, besides its level, dB: by equaliser, limiter, compressor, and in its dynamics."""
    parts = [
        _spectral_change(rows), values["master_max_gain_reduction_db"], values["master_max_compression_db"],
        *(np.abs(values[f"master_{n}_after"] - values[f"master_{n}_before"]) for n in ("lra", "plr")),
    ]  # fmt: skip
    return np.sum([np.nan_to_num(part) for part in parts], axis=0)


def _spectral_change(rows: pa.Table) -> np.ndarray:
    """Standard deviation, over bands, of what was done to each; 0 where that is not known."""
    found = np.zeros(rows.num_rows)
    lists = [_list_column(rows, name) for name in _LISTS[1:]]
    if None in lists:
        return found
    lengths = [_lengths(rows, name) for name in _LISTS[1:]]
    places = np.flatnonzero((lengths[0] == lengths[1]) & (lengths[0] > 0))
    if len(places):
        before, after = (
            column.take(pa.array(places)).flatten().cast(pa.float64()).to_numpy(zero_copy_only=False)
            for column in lists
        )
        sizes = lengths[0][places]
        starts = np.concatenate([[0], np.cumsum(sizes)[:-1]])
        change = np.nan_to_num(after - before, nan=0.0, posinf=0.0, neginf=0.0)
        mean = np.add.reduceat(change, starts) / sizes
        found[places] = np.sqrt(np.add.reduceat((change - np.repeat(mean, sizes)) ** 2, starts) / sizes)
    return found


def _list_column(rows: pa.Table, name: str) -> pa.ListArray | None:
    if name not in rows.schema.names or not pa.types.is_list(rows.schema.field(name).type):
        return None
    column = rows[name].combine_chunks()
    return column.chunk(0) if isinstance(column, pa.ChunkedArray) else column


def _lengths(rows: pa.Table, name: str) -> np.ndarray:
    """Of the lists of a column; -1 where there is none."""
    column = _list_column(rows, name)
    if column is None:
        return np.full(rows.num_rows, -1)
    return column.value_lengths().fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)


class _Best:
    """The contents with the largest scores, each once."""

    def __init__(self) -> None:
        self.ids, self._scores = np.empty(0, np.uint64), np.empty(0)

    def add(self, ids: np.ndarray, scores: np.ndarray) -> None:
        ids, first = np.unique(np.concatenate([self.ids, ids]), return_index=True)
        scores = np.concatenate([self._scores, scores])[first]
        best = np.lexsort((ids, -scores))[:SONGS]
        self.ids, self._scores = ids[best], scores[best]


def _chosen(
    output: Output, found: Overview, limited: np.ndarray, changed: np.ndarray
) -> list[tuple[int, dict[str, Any]]]:
    """Half of them songs that are limited, where there are so many; then those most changed."""
    order = dict.fromkeys([*limited.tolist()[: SONGS // 2], *changed.tolist(), *limited.tolist()])
    ids = list(order)[:SONGS]
    rows: dict[int, dict[str, Any]] = {}
    for identity, row in select(output, found, ids, _OF_A_SONG):
        if row.get("master_preset") is not None:
            rows.setdefault(identity, row)
    return [(identity, rows[identity]) for identity in ids if identity in rows]
