"""Tracks worth listening to: clipped, silent, unusually loud or quiet, and those that are there twice."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from pipeline.report.formatting import count, decimal, percent, plural
from pipeline.report.overview import Overview

MOST = 20
"""Tracks that are named of each kind."""

SILENT_SHARE = 0.9
SILENT_DBFS = -60.0
ROBUST_Z = 3.5
"""Iglewicz and Hoaglin (1993) call what lies beyond an outlier."""

LEAST_SPREAD_LU = 0.5
"""Median deviation that is assumed at least: in a mastered album a tenth of an LU is no outlier."""

LEAST_TRACKS = 10
TARGETS_LUFS = {"EBU R 128": -23.0, "streaming": -14.0}
FAR_LU = 6.0
SIMILAR = 0.98
_BLOCK = 512

AXES = 64
"""On so many axes near-duplicates are looked for first."""


@dataclass
class Kind:
    """Outliers of one kind.

    Args:
        title, rule: what it is, and by which rule.
        total: how many there are; ``noun`` says of what.
        items: the identities of the first `MOST` (two each where pairs are listed) with what was measured.
        why_none: where nothing could be looked for, the reason.
        note: what else is to be known.
    """

    title: str
    rule: str
    total: int = 0
    noun: str = "track"
    items: list[tuple[tuple[int, ...], str]] = field(default_factory=list)
    why_none: str = ""
    note: str = ""


def outliers(found: Overview) -> list[Kind]:
    """All kinds, also those that found nothing."""
    return [
        clipped(found),
        over_full_scale(found),
        silent(found),
        unusual_loudness(found),
        off_target(found),
        near_duplicates(found),
        equal_contents(found),
    ]


def _listed(
    kind: Kind, found: Overview, chosen: np.ndarray, order: np.ndarray, said: Callable[[int], str]
) -> Kind:
    """Fill ``kind`` with the tracks ``chosen`` (bool per track), those with the largest ``order`` first."""
    rows = np.flatnonzero(chosen)
    kind.total = len(rows)
    # By identity among equals, so that the same tables give the same report.
    ranked = rows[np.lexsort((found.ids[rows], -order[rows]))][:MOST]
    kind.items = [((int(found.ids[row]),), said(row)) for row in ranked]
    return kind


def _above_zero(kind: Kind, found: Overview, column: str, said: Callable[[float], str]) -> Kind:
    """Fill ``kind`` with the tracks whose ``column`` is above 0, the largest first."""
    values = found.values[column]
    if not np.isfinite(values).any():
        kind.why_none = f"no {column} in these tables"
        return kind
    return _listed(kind, found, values > 0, values, lambda row: said(float(values[row])))


def clipped(found: Overview) -> Kind:
    """Tracks with runs of samples at full scale."""
    kind = Kind("Clipped", "runs of at least three samples at full scale")
    return _above_zero(kind, found, "quality_clipping_ratio", lambda r: f"{percent(r, 3)} of the samples")


def over_full_scale(found: Overview) -> Kind:
    """Tracks whose true peak exceeds full scale."""
    kind = Kind("True peak over full scale", "more than 0 dBTP: a converter or a codec will clip it")
    return _above_zero(kind, found, "loudness_true_peak_dbtp", lambda peak: f"+{decimal(peak)} dBTP")


def silent(found: Overview) -> Kind:
    """Tracks that are silent all or nearly all of the time."""
    ratio, rms = found.values["quality_silence_ratio"], found.values["loudness_rms_dbfs"]
    if np.isfinite(ratio).any():
        kind = Kind(
            "Silent", f"at least {SILENT_SHARE:.0%} of the frames below {decimal(SILENT_DBFS, 0)} dBFS"
        )
        return _listed(
            kind, found, ratio >= SILENT_SHARE, ratio, lambda row: f"{percent(float(ratio[row]))} silent"
        )
    kind = Kind("Silent", f"an RMS below {decimal(SILENT_DBFS, 0)} dBFS")
    if not np.isfinite(rms).any():
        kind.why_none = "neither quality_silence_ratio nor loudness_rms_dbfs in these tables"
        return kind
    return _listed(kind, found, rms < SILENT_DBFS, -rms, lambda row: f"{decimal(float(rms[row]))} dBFS")


def robust_z(values: np.ndarray, least_spread: float = 0.0) -> np.ndarray:
    """Distance from the median in robust standard deviations; NaN where the value is.

    Args:
        least_spread: least median absolute deviation that is assumed.
    """
    median = np.nanmedian(values)
    spread = max(float(np.nanmedian(np.abs(values - median))), least_spread)
    return 0.6745 * (values - median) / spread if spread else np.zeros_like(values)


def unusual_loudness(found: Overview) -> Kind:
    """Tracks much louder or quieter than the dataset."""
    kind = Kind(
        "Loudness unlike the rest", f"more than {ROBUST_Z} robust standard deviations from the median"
    )
    loudness = found.values["loudness_integrated_lufs"]
    known = int(np.isfinite(loudness).sum())
    if known < LEAST_TRACKS:
        kind.why_none = f"needs the loudness of at least {LEAST_TRACKS} tracks, and {known} have it"
        return kind
    z = robust_z(loudness, LEAST_SPREAD_LU)
    median = float(np.nanmedian(loudness))
    kind.note = f"The median is {decimal(median)} LUFS."
    return _listed(
        kind, found, np.abs(z) > ROBUST_Z, np.abs(z),
        lambda row: f"{decimal(float(loudness[row]))} LUFS, {_signed(float(loudness[row]) - median)} LU from it",
    )  # fmt: skip


def off_target(found: Overview) -> Kind:
    """Tracks far from every usual delivery loudness."""
    names = " and ".join(f"{decimal(t, 0)} LUFS ({name})" for name, t in TARGETS_LUFS.items())
    kind = Kind("Far from every target", f"more than {FAR_LU:g} LU from both {names}")
    loudness = found.values["loudness_integrated_lufs"]
    if not np.isfinite(loudness).any():
        kind.why_none = "no loudness_integrated_lufs in these tables"
        return kind
    targets = np.array(list(TARGETS_LUFS.values()), np.float32)
    distance = np.abs(loudness[:, None] - targets)
    nearest = targets[np.argmin(np.nan_to_num(distance), axis=1)]
    away = distance.min(axis=1)
    return _listed(
        kind, found, away > FAR_LU, away,
        lambda row: f"{decimal(float(loudness[row]))} LUFS, {_signed(float(loudness[row] - nearest[row]))} LU "
        f"from {decimal(float(nearest[row]), 0)}",
    )  # fmt: skip


def _signed(value: float) -> str:
    return f"{'+' if value >= 0 else ''}{decimal(value)}"


def near_duplicates(found: Overview) -> Kind:
    """Different contents whose embeddings nearly agree."""
    kind = Kind(
        "Near-duplicates by embedding",
        f"cosine of at least {SIMILAR} between different contents",
        noun="pair",
    )
    ids, vectors = found.embeddings.result()
    if len(ids) < 2:
        kind.why_none = "no embeddings in these tables"
        return kind
    if found.embeddings.seen > len(ids) and len(ids) == found.embeddings.most:
        kind.note = f"Looked for in a random sample of {count(len(ids))} contents."
    total, pairs = similar_pairs(vectors, SIMILAR)
    kind.total = total
    used: set[int] = set()
    for cosine, a, b in pairs:
        # One loop in a hundred variants would fill the list with itself.
        if len(kind.items) < MOST and not {a, b} <= used:
            used |= {a, b}
            kind.items.append(((int(ids[a]), int(ids[b])), f"cosine {decimal(cosine, 4)}"))
    return kind


def similar_pairs(
    vectors: np.ndarray, least: float, kept: int = 50 * MOST
) -> tuple[int, list[tuple[float, int, int]]]:
    """Pairs of vectors whose cosine is at least ``least``: all of them, found without all products.

    On a few principal axes the cosine is a·b + r·s at most, where r and s are the lengths of what the axes leave
    out. Only what passes with that is multiplied in full.

    Args:
        vectors: ``[n, size]``; zero vectors resemble nothing.
        kept: most pairs that are returned.

    Returns:
        the number of pairs, and the most similar of them as (cosine, first, second), descending.
    """
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit = np.divide(vectors, lengths, out=np.zeros_like(vectors), where=lengths > 0)
    short = _shortened(unit)
    total, best = 0, np.empty((0, 3))
    for start in range(0, len(unit), _BLOCK):
        bound = short[start : start + _BLOCK] @ short[start:].T
        may = np.triu(bound >= least - 1e-4, 1)
        rows, columns = np.flatnonzero(may.any(axis=1)), np.flatnonzero(may.any(axis=0))
        if not len(rows):
            continue
        cosine = unit[start + rows] @ unit[start + columns].T
        places = np.flatnonzero((cosine >= least) & (columns > rows[:, None]))
        total += len(places)
        values = cosine.ravel()[places]
        if len(places) > kept:
            highest = np.argpartition(-values, kept)[:kept]
            places, values = places[highest], values[highest]
        a, b = np.unravel_index(places, cosine.shape)
        best = np.concatenate([best, np.column_stack([values, start + rows[a], start + columns[b]])])
        best = best[np.lexsort((best[:, 2], best[:, 1], -best[:, 0]))[:kept]]
    return total, [(min(1.0, float(c)), int(a), int(b)) for c, a, b in best]


def _shortened(unit: np.ndarray) -> np.ndarray:
    """On the axes that hold most of the squares, with the length of what they leave out: ``[n, AXES + 1]``."""
    _, axes = np.linalg.eigh(unit.T @ unit)
    short = unit @ axes[:, -AXES:]
    rest = np.maximum(0.0, np.square(unit).sum(axis=1) - np.square(short).sum(axis=1))
    return np.column_stack([short, np.sqrt(rest)]).astype(np.float32)


def equal_contents(found: Overview) -> Kind:
    """Files with the same bytes under several names."""
    kind = Kind("Equal contents", "the same bytes under several names", noun="content")
    ids, counts = np.unique(found.ids, return_counts=True)
    several = np.flatnonzero(counts > 1)
    kind.total = len(several)
    surplus = int((counts[several] - 1).sum())
    if surplus:
        kind.note = f"{plural(surplus, 'more file')} than contents."
    order = several[np.lexsort((ids[several], -counts[several]))][:MOST]
    kind.items = [((int(ids[n]),), plural(int(counts[n]), "file")) for n in order]
    return kind
