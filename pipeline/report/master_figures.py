"""The figures of the report's section on masters: one song before and after, and what all of them come to."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go

from pipeline.report.charts import figure, stepped
from pipeline.report.formatting import count, decimal, plural
from pipeline.report.master_rows import GRIDS, Masters
from pipeline.report.speech_figures import moment

POINTS = 400
"""Most points of a line."""

SHORT_TERM_S = 3
"""Seconds that a value of the short-term loudness is of."""

_BEFORE, _AFTER, _TARGET = "var(--soft)", "var(--accent)", "var(--warm)"
_LEGEND = {"orientation": "h", "y": 1.02, "yanchor": "bottom", "traceorder": "normal"}
_HEIGHT = 270
# dB: below it a band holds nothing.
_NOTHING_DB = -150.0
# dB below the loudest value of a line of loudness that its axis reaches down to.
_REACH_DB = 45.0
_LEAST_BINS = 10
_STEPS = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14_400, 43_200, 86_400)
_MARKS = 6


def values_of(row: dict[str, Any], name: str) -> np.ndarray:
    """A list of numbers of a row, float64 ``[n]``; NaN for what is null or infinite, empty where there is none."""
    found = np.array([np.nan if v is None else v for v in row.get(name) or ()], np.float64)
    return np.where(np.isfinite(found), found, np.nan)


def louder_within(row: dict[str, Any], start_s: int = 0, values: int | None = None) -> float | None:
    """LU that a stretch of the master is louder than the same of the original by; None where that is not known.

    Both by the mean power of their short-term loudness, where both have one.

    Args:
        row: of `tracks`.
        start_s: where the stretch begins in the master, whole seconds.
        values: of the short-term loudness, one a second; None for all from there on.
    """
    before, after = (values_of(row, f"master_loudness_{name}") for name in ("before", "after"))
    after = after[start_s:][:values]
    before = before[round(row.get("master_from_s") or 0.0) + start_s :][: len(after)]
    after = after[: len(before)]
    both = np.isfinite(before) & np.isfinite(after)
    if not both.any():
        return None
    powers = [np.mean(10.0 ** (levels[both] / 10.0)) for levels in (before, after)]
    return float(10.0 * np.log10(powers[1] / powers[0])) if min(powers) > 0.0 else None


def spectra(row: dict[str, Any], shift_db: float) -> dict[str, Any]:
    """Before and after on a logarithmic axis.

    Args:
        shift_db: what the master is drawn lower by.
    """
    hz, before, after = (values_of(row, f"master_spectrum_{name}") for name in ("hz", "before", "after"))
    made = {"title": "Spectrum", "figure": None, "caption": "", "empty": "No spectrum was measured."}
    if not len(hz) == len(before) == len(after) > 0:
        return made
    there = (hz > 0) & (before > _NOTHING_DB) & (after > _NOTHING_DB)
    if not there.any():
        return made | {"empty": "Silence has no spectrum."}
    hz, before, after = hz[there], before[there], after[there]
    said = [f"{_hertz(f)}: {decimal(b)} → {decimal(a)} dB" for f, b, a in zip(hz, before, after, strict=True)]
    drawn = _two_lines(hz, before, after - shift_db, (said, said))
    low, high = np.log10(hz[0]), np.log10(hz[-1])
    marks = [
        f for f in (20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000, 20_000) if low <= np.log10(f) <= high
    ]
    drawn.update_xaxes(
        type="log", range=[low - 0.02, high + 0.02], showgrid=True, tickvals=marks,
        ticktext=[_hertz(f) for f in marks],
    )  # fmt: skip
    drawn.update_yaxes(title_text="dB")
    change = after - before - shift_db
    most, least = int(np.argmax(change)), int(np.argmin(change))
    caption = (
        f"Thirds of an octave in the loudest parts{_lower(shift_db)}. So it differs by {_signed(change[most])} dB at "
        f"{_hertz(hz[most])} and by {_signed(change[least])} dB at {_hertz(hz[least])}."
    )
    return made | {"figure": drawn, "caption": caption}


def _lower(shift_db: float) -> str:
    if not shift_db:
        return ""
    where = "lower" if shift_db > 0 else "higher"
    return f"; the master is drawn {decimal(abs(shift_db))} dB {where}, as loud as the original"


def _hertz(frequency: float) -> str:
    return f"{frequency / 1000:.3g} kHz" if frequency >= 1000 else f"{frequency:.3g} Hz"


def _signed(value: float) -> str:
    return decimal(value) if value < 0 else f"+{decimal(value)}"


def _two_lines(
    x: np.ndarray, before: np.ndarray, after: np.ndarray, said: tuple[list[str], list[str]]
) -> go.Figure:
    traces = [
        _line(name, x, y, colour, text)
        for name, y, colour, text in (
            ("original", before, _BEFORE, said[0]),
            ("master", after, _AFTER, said[1]),
        )
    ]
    return figure(traces, _HEIGHT, showlegend=True, legend=_LEGEND)


def _line(name: str, x: np.ndarray, y: np.ndarray, colour: str, said: list[str], **more: Any) -> go.Scatter:
    return go.Scatter(
        name=name, x=_numbers(x), y=_numbers(y), mode="lines", line={"color": colour, "width": 2, **more},
        hovertext=said, hovertemplate="%{hovertext}<extra></extra>", connectgaps=False,
    )  # fmt: skip


def _numbers(values: np.ndarray) -> list[float | None]:
    return [round(v, 2) if np.isfinite(v) else None for v in values.tolist()]


def loudness(row: dict[str, Any], from_s: float) -> dict[str, Any]:
    """Short-term loudness of the original and of the master, which begins at ``from_s``, with what was asked for."""
    made = {
        "title": "Loudness over time", "figure": None, "caption": "",
        "empty": f"No loudness: it is silent, or shorter than {SHORT_TERM_S} s.",
    }  # fmt: skip
    lines = []
    for name, colour, start in (("before", _BEFORE, 0.0), ("after", _AFTER, from_s)):
        values = values_of(row, f"master_loudness_{name}")
        every, places = thinned(values, _mean_level)
        times = start + SHORT_TERM_S / 2 + every * (np.arange(len(places)) + 0.5) - 0.5
        lines.append(("original" if name == "before" else "master", times, places, colour))
    known = [places[np.isfinite(places)] for _, _, places, _ in lines]
    if not any(len(k) for k in known):
        return made
    traces = [
        _line(name, times, places, colour, _over_time(times, places))
        for name, times, places, colour in lines
    ]  # fmt: skip
    drawn = figure(traces, _HEIGHT, showlegend=True, legend=_LEGEND)
    ends = [times[-1] + SHORT_TERM_S / 2 for _, times, places, _ in lines if len(places)]
    _time_axis(drawn, max(ends))
    target = row.get("master_target_lufs")
    levels = [*np.concatenate(known), *([target] if target is not None else [])]
    top = max(levels)
    drawn.update_yaxes(title_text="LUFS", range=[max(min(levels), top - _REACH_DB) - 1.5, top + 1.5])
    caption = f"Short-term loudness, each value at the middle of its {SHORT_TERM_S} s"
    if target is not None:
        drawn.add_hline(target, line={"color": _TARGET, "width": 1.5, "dash": "dash"})
        caption += f"; dashed: {decimal(target)} LUFS, which the whole of it was to have"
    return made | {"figure": drawn, "caption": f"{caption}."}


def _over_time(times: np.ndarray, levels: np.ndarray) -> list[str]:
    return [f"{moment(t, 0)}: {decimal(v)} LUFS" for t, v in zip(times, levels, strict=True)]


def reduction(row: dict[str, Any], from_s: float) -> dict[str, Any]:
    """What the limiter took away, second by second."""
    made = {"title": "Gain reduction", "figure": None, "caption": "", "empty": "No gain reduction is known."}
    values = values_of(row, "master_gain_reduction")
    if not np.isfinite(values).any():
        return made
    if not np.nanmax(values):
        return made | {"empty": "The limiter took nothing away: no peak came up to the ceiling."}
    every, most = thinned(values, _largest)
    starts = from_s + every * np.arange(len(most))
    said = [f"{moment(t, 0)}: {decimal(v, 2)} dB" for t, v in zip(starts, most, strict=True)]
    bars = go.Bar(
        x=_numbers(starts + every / 2), y=_numbers(most), width=every * 0.92, hovertext=said,
        hovertemplate="%{hovertext}<extra></extra>", marker={"color": _TARGET, "line": {"width": 0}},
    )  # fmt: skip
    drawn = figure([bars], _HEIGHT)
    _time_axis(drawn, from_s + len(values), from_s)
    drawn.update_yaxes(title_text="dB", range=[max(1.0, 1.1 * np.nanmax(values)), 0])
    worked = int((values > 0).sum())
    caption = (
        f"The most that the limiter took away in each {'second' if every == 1 else f'{every} s'}: at most "
        f"{decimal(np.nanmax(values), 2)} dB, at {moment(from_s + int(np.nanargmax(values)), 0)}; it worked in "
        f"{count(worked)} of {plural(len(values), 'second')}."
    )
    return made | {"figure": drawn, "caption": caption}


def thinned(values: np.ndarray, together: Callable[[np.ndarray], np.ndarray]) -> tuple[int, np.ndarray]:
    """At most `POINTS` values for many.

    Args:
        values: NaN where there is none.
        together: takes ``[n, k]`` with NaN and gives ``[n]``.

    Returns:
        how many values became one, and those.
    """
    every = max(1, -(-len(values) // POINTS))
    if every == 1:
        return 1, values
    padded = np.concatenate([values, np.full(-len(values) % every, np.nan)])
    return every, together(padded.reshape(-1, every))


def _mean_level(groups: np.ndarray) -> np.ndarray:
    """The level of the mean power."""
    known = np.isfinite(groups).sum(axis=1)
    power = np.nansum(10.0 ** (groups / 10.0), axis=1)
    return np.where(known > 0, 10.0 * np.log10(np.maximum(power, 1e-30) / np.maximum(known, 1)), np.nan)


def _largest(groups: np.ndarray) -> np.ndarray:
    found = np.where(np.isfinite(groups), groups, -np.inf).max(axis=1)
    return np.where(np.isfinite(found), found, np.nan)


def _time_axis(drawn: go.Figure, end: float, start: float = 0.0) -> None:
    step = next((s for s in _STEPS if (end - start) / s <= _MARKS), (end - start) / _MARKS)
    marks = np.arange(np.ceil(start / step) * step, end + 1e-9, step)
    drawn.update_xaxes(
        range=[start, end], tickvals=marks.tolist(), ticktext=[moment(m, 0) for m in marks], zeroline=False
    )


def of_all(masters: Masters) -> dict[str, dict[str, Any]]:
    """Loudness error, true peak and gain reduction of all songs: name → chart."""
    low, high = masters.ceilings
    peaks = f"{count(masters.above)} above their ceiling"
    if low == high:
        peaks += f" of {decimal(low)} dBTP (dashed)"
    error = _histogram(
        masters, "error", "Loudness error", steps=(0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1), unit="LU",
        about="How far songs are from the loudness that was asked for", none="No song has a loudness.",
    )  # fmt: skip
    peak = _histogram(
        masters, "peak", "True peak of the masters", steps=(0.1, 0.2, 0.5, 1, 2), unit="dBTP", about=peaks,
        none="No song has a true peak.",
    )  # fmt: skip
    if peak["figure"] and low == high:
        peak["figure"].add_vline(low, line={"color": "var(--bad)", "width": 1, "dash": "dash"})
    taken = _histogram(
        masters, "reduction", "Largest gain reduction", steps=(0.1, 0.2, 0.5, 1), unit="dB",
        about="The most that the limiter took away of each song", none="No gain reduction is known.",
    )  # fmt: skip
    return {"masters-error": error, "masters-peak": peak, "masters-reduction": taken}


def _histogram(
    masters: Masters, name: str, title: str, *, steps: Sequence[float], unit: str, about: str, none: str
) -> dict[str, Any]:
    counts, edges = masters.counts[name], GRIDS[name]
    there = np.flatnonzero(counts)
    if not len(there):
        return {"title": title, "figure": None, "caption": "", "empty": none}
    middles = (edges[:-1] + edges[1:]) / 2
    bins = stepped(middles[there], steps)
    songs = np.histogram(middles, bins, weights=counts)[0].astype(int)
    places = 2 if np.diff(bins)[0] < 0.09 else 1
    said = [
        f"{decimal(a, places)} to {decimal(b, places)} {unit}: {plural(n, 'song')}"
        for a, b, n in zip(bins[:-1], bins[1:], songs.tolist(), strict=True)
    ]
    bars = go.Bar(
        x=((bins[:-1] + bins[1:]) / 2).tolist(), y=songs.tolist(), width=(np.diff(bins) * 0.92).tolist(),
        hovertext=said, hovertemplate="%{hovertext}<extra></extra>",
        marker={"color": _AFTER, "line": {"width": 0}},
    )  # fmt: skip
    drawn = figure([bars], 250)
    # A few bins are no wall across the figure.
    least = bins[0] + _LEAST_BINS * (bins[1] - bins[0])
    drawn.update_xaxes(title_text=unit, zeroline=False, range=[bins[0], max(bins[-1], least)])
    drawn.update_yaxes(tickformat=",d", nticks=5, rangemode="tozero")
    if max(songs) <= 4:
        drawn.update_yaxes(dtick=1)
    median = int(np.searchsorted(np.cumsum(counts), counts.sum() / 2))
    low, high = (decimal(edge, 2 if edges[1] - edges[0] < 0.09 else 1) for edge in edges[median : median + 2])
    caption = f"{about}; {plural(int(counts.sum()), 'song')}, median {low} to {high} {unit}."
    return {"title": title, "figure": drawn, "caption": caption, "empty": none}
