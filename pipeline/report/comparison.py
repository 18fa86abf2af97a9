"""Several runs over the same files with different settings, side by side: what `--multirun` ends with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Trial:
    """One run of a sweep.

    Args:
        settings: key → value, as typed, of what was swept.
        output: its tables.
        performance: what its ``performance.json`` holds; None where it did not get that far.
    """

    settings: Mapping[str, str]
    output: str
    performance: Mapping[str, Any] | None


def comparison(trials: Sequence[Trial]) -> list[dict[str, Any]]:
    """A row per trial, the fastest first and those without figures last.

    Each has its ``settings`` and ``output``; ``wall_s``, ``real_time_factor``, ``failed`` files, ``peak_rss_bytes`` of
    the largest process, ``compute_s`` per actor pool, and ``of_fastest``, its wall time over the shortest.
    """
    rows = [_row(trial) for trial in trials]
    rows.sort(key=lambda row: (row["wall_s"] is None, row["wall_s"] or 0.0))
    shortest = rows[0]["wall_s"] if rows else None
    for row in rows:
        row["of_fastest"] = row["wall_s"] / shortest if row["wall_s"] and shortest else None
    return rows


def _row(trial: Trial) -> dict[str, Any]:
    found = trial.performance or {}
    return {
        "settings": dict(trial.settings),
        "output": trial.output,
        "wall_s": found.get("wall_s"),
        "real_time_factor": found.get("real_time_factor"),
        "failed": found.get("status", {}).get("failed", 0) if found else None,
        "peak_rss_bytes": max((p["peak_rss_bytes"] for p in found.get("processes", [])), default=None),
        "compute_s": {name: actor["compute_s"] for name, actor in found.get("actors", {}).items()},
    }


def comparison_markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """The rows of `comparison` as a table: the swept keys, then what they made of it."""
    keys = list(dict.fromkeys(key for row in rows for key in row["settings"]))
    actors = list(dict.fromkeys(name for row in rows for name in row["compute_s"]))
    heads = [*keys, "wall, s", "of fastest", "× real time", "failed", "largest process, MiB"]
    heads += [f"{name}, s" for name in actors]
    lines = [f"| {' | '.join(heads)} |", f"|{' --- |' * len(keys)}{' ---: |' * (len(heads) - len(keys))}"]
    for row in rows:
        peak = row["peak_rss_bytes"]
        cells = [row["settings"].get(key, "") for key in keys]
        cells += [_number(row["wall_s"], ".1f"), _number(row["of_fastest"], ".2f")]
        cells += [_number(row["real_time_factor"], ".1f"), _number(row["failed"], "d")]
        cells.append(_number(None if peak is None else peak / 2**20, ".0f"))
        cells += [_number(row["compute_s"].get(name), ".1f") for name in actors]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _number(value: float | None, form: str) -> str:
    return "–" if value is None else format(value, form)
