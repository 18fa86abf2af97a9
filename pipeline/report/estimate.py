"""What ``plan.json`` foresaw against what the run took."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pipeline.commands import as_typed
from pipeline.dataset.output import Output
from pipeline.report.formatting import clock, count, decimal, memory, percent, size
from pipeline.report.money import money

NO_ESTIMATE = "No estimate was made: python jobs/plan.py … before a run writes one."
UNREADABLE = "plan.json is there and is not a JSON object: it was cut off, or something else wrote it."


@dataclass(frozen=True)
class Row:
    """One quantity.

    Args:
        estimate, fact: as people read them; ``estimate`` with its range, where it has one.
        ratio: fact over estimate, ``1.08×``; ``–`` where there is none.
        within: whether the fact lies in the range; None where there is no range.
    """

    what: str
    estimate: str
    fact: str
    ratio: str
    within: bool | None = None


@dataclass(frozen=True)
class Comparison:
    """The rows, or the one line to say instead."""

    rows: list[Row]
    instead: str = ""


def compare(output: Output, performance: dict[str, Any]) -> Comparison:
    """The run's ``plan.json``, if it has one, against its measured ``performance``."""
    try:
        plan = json.loads(output.read(f"runs/{performance['run_id']}/plan.json"))
    except FileNotFoundError:
        return Comparison([], as_typed(NO_ESTIMATE))
    except ValueError:
        plan = None
    if not isinstance(plan, dict):
        return Comparison([], UNREADABLE)
    rows = _rows(plan, performance)
    if _number(plan.get("output_bytes")) is not None:
        rows.append(_row("output on disk, all runs", plan["output_bytes"], output_bytes(output), size))
    return Comparison(rows + _stage_rows(plan, performance))


def _rows(plan: dict[str, Any], p: dict[str, Any]) -> list[Row]:
    files = p.get("files")
    failed = (p.get("status") or {}).get("failed", 0)
    expected = plan.get("failures_expected")
    expected = expected if isinstance(expected, dict) else {}
    cuda = [s["compute_s"] for s in p["stages"].values() if s.get("device") == "cuda"]
    rows = [
        _row("files", plan.get("files"), files, count),
        _row("hours of audio", plan.get("audio_hours"), _over(p.get("audio_s"), 3600), _hours),
        _row("wall time of the work", plan.get("wall_s"), p.get("wall_s"), clock),
        _row("wall time of the command", plan.get("command_s"), p.get("command_s"), clock),
        _row("cost", plan.get("cost"), (p.get("cost") or {}).get("total"), money),
        _row(
            "GPU hours, in stages on a GPU", plan.get("gpu_hours"), sum(cuda) / 3600 if cuda else None, _hours
        ),
    ]
    sampled = _number(expected.get("sampled"))
    what = "files that fail" + (f", of {count(sampled)} probed" if sampled is not None else "")
    rows.append(_row(what, expected.get("rate"), _over(failed, files), percent))
    return [row for row in rows if row is not None]


def _stage_rows(plan: dict[str, Any], p: dict[str, Any]) -> list[Row]:
    stages, peaks = plan.get("stages"), plan.get("peak_rss_bytes")
    rows = []
    for name, foreseen in sorted(stages.items()) if isinstance(stages, dict) else ():
        seconds = foreseen.get("compute_s") if isinstance(foreseen, dict) else None
        rows.append(_row(f"compute in {name}", seconds, p["stages"].get(name, {}).get("compute_s"), clock))
    facts: dict[str, int] = {}
    for process in p.get("processes") or ():
        facts[process["stage"]] = max(facts.get(process["stage"], 0), process["peak_rss_bytes"])
    for name, foreseen in sorted(peaks.items()) if isinstance(peaks, dict) else ():
        rows.append(_row(f"peak memory of {name}", foreseen, facts.get(name), memory))
    return [row for row in rows if row is not None]


def _row(what: str, estimate: Any, fact: float | None, form: Callable[[float | None], str]) -> Row | None:
    """None where nothing was estimated."""
    low = high = None
    if isinstance(estimate, dict):
        low, estimate, high = (_number(estimate.get(k)) for k in ("low", "expected", "high"))
    estimate = _number(estimate)
    if estimate is None:
        return None
    said = form(estimate)
    within = None
    if low is not None and high is not None:
        said += f" ({form(low)} – {form(high)})"
        within = None if fact is None else low <= fact <= high
    ratio = f"{decimal(fact / estimate, 2)}×" if fact is not None and estimate else "–"
    return Row(what, said, form(fact), ratio, within)


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        return None
    return value


def _over(value: float | None, by: float | None) -> float | None:
    return value / by if value is not None and by else None


def _hours(value: float | None) -> str:
    return decimal(value, 3 if value is not None and value < 1 else 2)


def output_bytes(output: Output) -> int:
    """Size of the tables, arrays and artifacts."""
    total = 0
    for folder in (*output.tables, *output.folders()):
        root = output.path(folder)
        if output.fs.exists(root):
            total += sum(int(info["size"] or 0) for info in output.fs.find(root, detail=True).values())
    return total
