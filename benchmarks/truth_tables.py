"""The tables of `truth.py`, of rows that hold what is true of a piece and what a contender answered."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import truth_metrics as metrics

Row = dict[str, Any]
Cells = Callable[[list[Row]], list[str]]


def machine() -> str:
    """Processor, load and versions."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    cpu = next((line.split(":")[1].strip() for line in lines if "model name" in line), platform.machine())
    found = [f"Python {platform.python_version()}"]
    for name in ("numpy", "torch", "librosa", "essentia"):
        try:
            found.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            continue
    return f"{cpu}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}; {', '.join(found)}"


def group(row: Row) -> str:
    """The set, with and without drums apart where it has both."""
    both = row["set"] in ("chorales", "classical", "folk")
    return f"{row['set']}, {'drums' if row['true']['drums'] else 'alone'}" if both else row["set"]


def show(subject: str, rows: list[Row]) -> None:
    """All tables of a subject."""
    if not rows:
        return
    titles, cells = SUBJECTS[subject]
    for title in (*dict.fromkeys(group(row) for row in rows), ALL):
        here = [row for row in rows if title in (group(row), ALL)]
        count = len({(row["set"], row["piece"]) for row in here})
        print(f"### {subject.capitalize()}: {title}, {count} files\n")
        _print(["contender", *titles], [[name, *cells(these)] for name, these in _by_contender(here)])
    if subject in CONFIDENCES:
        _confidences(subject, rows)


ALL = "all"


def _by_contender(rows: list[Row]) -> list[tuple[str, list[Row]]]:
    names = dict.fromkeys(row["contender"] for row in rows)
    return [(name, [row for row in rows if row["contender"] == name]) for name in names]


def _print(header: Sequence[str], lines: Sequence[Sequence[str]]) -> None:
    rule = f"| --- |{' ---: |' * (len(header) - 1)}"
    print(
        "\n".join([f"| {' | '.join(header)} |", rule, *(f"| {' | '.join(line)} |" for line in lines), ""]),
        flush=True,
    )


def mean(values: Sequence[float | None], digits: int = 3) -> str:
    """The mean of what is known as a cell; a dash where nothing is."""
    known = [v for v in values if v is not None]
    return f"{np.mean(known):.{digits}f}" if known else "–"


def right(subject: str, row: Row) -> float:
    """Whether a tempo (accuracy 1) or a key is right."""
    if subject == "key":
        return float(row["answer"].get("key") == row["true"]["key"])
    return metrics.accuracy(row["answer"].get("tempo"), row["true"]["tempo"])


def _times(row: Row, what: str, score: str) -> float | None:
    """None where nothing is true of it, or the contender knows no such thing."""
    return row["times"].get(what, {}).get(score)


def _beats(rows: list[Row]) -> list[str]:
    def octaves(row: Row) -> float:
        return metrics.accuracy(row["answer"].get("tempo"), row["true"]["tempo"], metrics.OCTAVES)

    meters = [
        float(row["answer"].get("meter") == row["true"]["meter"])
        for row in rows if row["true"]["meter"] and "meter" in row["answer"]
    ]  # fmt: skip
    return [
        mean([right("beats", row) for row in rows]), mean([octaves(row) for row in rows]),
        *(mean([_times(row, "beats", score) for row in rows]) for score in ("F", "CMLt", "AMLt")),
        mean([_times(row, "downbeats", "F") for row in rows]), mean(meters),
    ]  # fmt: skip


def _keys(rows: list[Row]) -> list[str]:
    found = [metrics.relation(row["answer"].get("key"), row["true"]["key"]) for row in rows]
    shares = [f"{np.mean([one == what for one in found]):.3f}" for what in metrics.WORTH]
    return [shares[0], f"{np.mean([metrics.WORTH[one] for one in found]):.3f}", *shares[1:]]


def _onsets(rows: list[Row]) -> list[str]:
    return [mean([_times(row, "onsets", "F") for row in rows])]


def _tuning(rows: list[Row]) -> list[str]:
    off = [metrics.cents_off(row["answer"].get("cents"), row["true"]["cents"]) for row in rows]
    known = [x for x in off if x is not None]
    within = [float(x is not None and x <= 5.0) for x in off]
    return (
        [f"{np.median(known):.1f}", f"{np.percentile(known, 95):.1f}", mean(within)] if known else ["–"] * 3
    )


def _confidences(subject: str, rows: list[Row]) -> None:
    """What the confidence of those that have one is worth, over all sets."""
    key = CONFIDENCES[subject]
    lines, ours = [], []
    for name, these in _by_contender(rows):
        confidence = [row["answer"].get(key) for row in these]
        if all(c is None for c in confidence):
            continue
        hits = [right(subject, row) for row in these]
        error = metrics.calibration_error(confidence, hits) if name.startswith("ours") else None
        half = metrics.upper_half(confidence, hits)
        lines.append([name, mean(hits), f"{half:.3f}", "–" if error is None else f"{error:.3f}"])
        if name.startswith("ours"):
            ours += [[name, f"{c:.3f}", f"{r:.3f}", str(n)] for c, r, n in metrics.bins(confidence, hits)]
    print(f"### {key}: what it is worth\n")
    _print(["contender", "right", "of the more confident half", "calibration error"], lines)
    _print(["fifths", "mean confidence", "right", "files"], ours)


SUBJECTS: dict[str, tuple[list[str], Cells]] = {
    "beats": (["accuracy 1", "accuracy 2", "F", "CMLt", "AMLt", "downbeat F", "meter"], _beats),
    "key": (["exact", "MIREX", *list(metrics.WORTH)[1:]], _keys),
    "onsets": (["F"], _onsets),
    "tuning": (["median error, cents", "95 %", "within 5 cents"], _tuning),
}
CONFIDENCES = {"beats": "tempo_confidence", "key": "key_confidence"}
