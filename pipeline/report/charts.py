"""The charts as plotly figures. Everything is binned here, so a figure's size does not depend on the dataset's.

Colours are names of CSS variables: the page's script puts in what they are in the reader's colour scheme.
"""

from __future__ import annotations

import html
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go

from pipeline.features.key import KEYS
from pipeline.report.devices import Comparison
from pipeline.report.formatting import clock, count, decimal, key_label, memory
from pipeline.report.overview import Overview
from pipeline.report.performance import group

MOST_BARS = 12
POINTS = 1_500
"""Most points of a scatter plot, other than the map."""

_TARGETS = {-23.0: "−23", -14.0: "−14"}
_FIFTHS = [7 * n % 12 for n in range(12)]
# What an axis of durations may be marked with, coarse and fine.
_DURATIONS = {
    0.01: "10 ms", 0.1: "0.1 s", 1: "1 s", 10: "10 s", 60: "1 min", 600: "10 min", 3600: "1 h", 36_000: "10 h",
    360_000: "100 h",
}  # fmt: skip
_FINE_DURATIONS = {
    0.2: "0.2 s", 0.5: "0.5 s", 2: "2 s", 3: "3 s", 4: "4 s", 5: "5 s", 7: "7 s", 15: "15 s", 20: "20 s", 30: "30 s",
    45: "45 s", 90: "1½ min", 120: "2 min", 180: "3 min", 240: "4 min", 300: "5 min", 1200: "20 min", 1800: "30 min",
    7200: "2 h", 18_000: "5 h",
}  # fmt: skip
_INK, _SOFT, _LINE, _BAD = "var(--ink)", "var(--soft)", "var(--line)", "var(--bad)"
# Colours that actors have; the last is everything else's.
_COLOURS = 7
_OTHERS = f"var(--cat-{_COLOURS})"


def plain(text: Any) -> str:
    """``text`` for a figure, which would take markup in it for markup."""
    return html.escape(" ".join(str(text).split()), quote=False)


def figure(traces: Sequence[Any], height: int, **layout: Any) -> go.Figure:
    """A figure in the page's style."""
    axis = {
        "gridcolor": _LINE, "linecolor": _LINE, "zerolinecolor": _LINE, "fixedrange": True, "automargin": True,
        "title": {"font": {"size": 12, "color": _SOFT}, "standoff": 8},
    }  # fmt: skip
    drawn = go.Figure(list(traces))
    drawn.update_layout(
        template=go.layout.Template(),
        height=height,
        autosize=True,
        margin={"l": 8, "r": 8, "t": 8, "b": 8},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        font={"color": _SOFT, "size": 12, "family": "system-ui, sans-serif"},
        hoverlabel={"bgcolor": "var(--card)", "bordercolor": _LINE, "font": {"color": _INK}},
        separators=".\u202f",
        showlegend=False,
        modebar={"bgcolor": "rgba(0,0,0,0)", "color": _SOFT, "activecolor": _INK},
        dragmode=False,
        bargap=0.08,
        xaxis={**axis, "showgrid": False},
        yaxis=axis,
    )
    return drawn.update_layout(**layout)


def _histogram(
    values: np.ndarray, edges: np.ndarray, said: Callable[[float, float], str], colour: str
) -> go.Bar:
    counts, edges = np.histogram(values, bins=edges)
    return go.Bar(
        x=(edges[:-1] + edges[1:]) / 2,
        y=counts,
        width=np.diff(edges) * 0.92,
        hovertext=[
            f"{said(a, b)}: {count(n)}" for a, b, n in zip(edges[:-1], edges[1:], counts, strict=True)
        ],
        hovertemplate="%{hovertext}<extra></extra>",
        marker={"color": colour, "line": {"width": 0}},
    )


def _counted(bars: go.Bar, height: int = 250, **layout: Any) -> go.Figure:
    """A figure of bars that count."""
    drawn = figure([bars], height, **layout)
    drawn.update_yaxes(tickformat=",d", nticks=5, rangemode="tozero")
    return drawn.update_yaxes(dtick=1) if max(bars.y) <= 4 else drawn


def stepped(values: np.ndarray, steps: Sequence[float], most: int = 60) -> np.ndarray:
    """Edges of bins at multiples of the first of ``steps`` that needs at most ``most`` of them."""
    low, high = float(values.min()), float(values.max())
    step = next((s for s in steps if (high - low) / s <= most), (high - low) / most)
    first = np.floor(low / step)
    return step * np.arange(first, max(np.floor(high / step), first) + 2)


def durations(found: Overview) -> go.Figure | None:
    """How long the tracks are, in logarithmic bins; None without any."""
    values = found.known("duration_s")
    values = np.log10(values[values > 0].astype(np.float64))
    if not len(values):
        return None
    low, high = values.min(), values.max()
    margin = max(0.03 * (high - low), 0.25 - (high - low) / 2)  # tracks of about one length are bars, too
    low, high = low - margin, high + margin
    edges = np.linspace(low, high, 33)
    bars = _histogram(values, edges, lambda a, b: f"{clock(10**a)} – {clock(10**b)}", "var(--accent)")
    marks: dict[float, str] = {}
    for choice in (_DURATIONS, {**_DURATIONS, **_FINE_DURATIONS}):
        marks = {np.log10(s): word for s, word in choice.items() if low <= np.log10(s) <= high}
        if len(marks) >= 3:
            break
    return _counted(bars).update_xaxes(tickvals=list(marks), ticktext=list(marks.values()), range=[low, high])


def loudness(found: Overview) -> go.Figure | None:
    """Integrated loudness, with the usual delivery targets; None without any."""
    values = found.known("loudness_integrated_lufs")
    if not len(values):
        return None
    edges = stepped(values, (1, 2))
    bars = _histogram(values, edges, lambda a, b: f"{decimal(a, 0)} to {decimal(b, 0)} LUFS", "var(--warm)")
    drawn = _counted(bars, margin={"l": 8, "r": 8, "t": 24, "b": 8})
    low, high = min(edges[0], -24.0) - 1, max(edges[-1], -13.0) + 1
    drawn.update_xaxes(title_text="LUFS", range=[low, high])
    for target, name in _TARGETS.items():
        drawn.add_vline(target, line={"color": _SOFT, "width": 1, "dash": "dash"})
        drawn.add_annotation(
            x=target, y=1, yref="paper", yanchor="bottom", text=name, showarrow=False,
            font={"size": 11, "color": _SOFT},
        )  # fmt: skip
    return drawn


def tempo(found: Overview) -> go.Figure | None:
    """Tempi in steps of a few BPM; None without any."""
    values = found.known("tempo_bpm")
    if not len(values):
        return None
    edges = stepped(values, (5, 10))
    bars = _histogram(values, edges, lambda a, b: f"{a:.0f} – {b:.0f} BPM", "var(--plum)")
    low, high = min(edges[0], 60), max(edges[-1], 180)
    return _counted(bars).update_xaxes(title_text="BPM", range=[low, high])


def format_rows(found: Overview) -> list[tuple[str, int]]:
    """Formats with their files, the most frequent first and the rest as one."""
    named = [
        (f"{container}{_codec(container, codec)} · {(rate or 0) / 1000:g} kHz · {_channels(channels)}", n)
        for (container, codec, rate, channels), n in sorted(
            found.formats.items(), key=lambda item: (-item[1], str(item[0]))
        )
    ]
    rest = sum(n for _, n in named[MOST_BARS - 1 :])
    if len(named) > MOST_BARS:
        named = [*named[: MOST_BARS - 1], (f"{count(len(named) - MOST_BARS + 1)} others", rest)]
    return named


def _codec(container: str, codec: str | None) -> str:
    return "" if codec in (None, "", container) else f" {codec}"


def _channels(channels: int | None) -> str:
    return {1: "mono", 2: "stereo"}.get(channels or 0, f"{channels or '?'} channels")


def formats(found: Overview) -> go.Figure | None:
    """Formats as horizontal bars; None where nothing was decoded."""
    rows = format_rows(found)
    return _ranking(rows, "var(--accent)", count, 36) if rows else None


def _ranking(
    rows: Sequence[tuple[str, float]],
    colours: str | list[str],
    said: Callable[[float], str],
    row_height: int = 27,
) -> go.Figure:
    """Horizontal bars, the first at the top, each with its value; a name breaks at its first dot in the middle."""
    names, values = [plain(name) for name, _ in rows], [value for _, value in rows]
    said_values = [said(value) for value in values]
    bars = go.Bar(
        x=values, y=list(range(len(rows))), orientation="h", marker={"color": colours}, text=said_values,
        textposition="outside", cliponaxis=False, textfont={"color": _SOFT, "size": 11},
        hovertext=[f"{name}: {value}" for name, value in zip(names, said_values, strict=True)],
        hovertemplate="%{hovertext}<extra></extra>",
    )  # fmt: skip
    drawn = figure([bars], 24 + row_height * len(rows), bargap=0.3)
    drawn.update_xaxes(visible=False, range=[0, max([*values, 1e-9]) * 1.45])
    return drawn.update_yaxes(
        tickvals=list(range(len(rows))),
        ticktext=[name.replace(" · ", "<br>", 1) for name in names],
        autorange="reversed",
        showgrid=False,
        zeroline=False,
        ticklabelstandoff=6,
    )


def key_counts(found: Overview) -> list[tuple[str, int, int]]:
    """Tracks by key, the most frequent first, and how many of them are unsure; keys without a track are left out."""
    counts = np.bincount(found.keys[found.keys >= 0], minlength=len(KEYS))
    unsure = np.bincount(found.keys[found.unsure], minlength=len(KEYS))
    order = np.lexsort((np.arange(len(KEYS)), -counts))
    return [(key_label(*KEYS[n]), int(counts[n]), int(unsure[n])) for n in order if counts[n]]


def fifth_names(place: int) -> tuple[str, str]:
    """The major key at a place of the circle of fifths, from C, and its relative minor: ``("C", "Am")``."""
    tonic = _FIFTHS[place]
    major, minor = key_label(*KEYS[tonic]), key_label(*KEYS[12 + (tonic + 9) % 12])
    return major.split()[0], f"{minor.split()[0]}m"


def key_wheel(found: Overview) -> go.Figure | None:
    """Keys around the circle of fifths: major outside, each with its relative minor inside; None without any."""
    counts = np.bincount(found.keys[found.keys >= 0], minlength=len(KEYS))
    weak = np.bincount(found.keys[found.unsure], minlength=len(KEYS))
    if not counts.sum():
        return None
    angles = [30 * n for n in range(12)]
    major = [("major", tonic) for tonic in _FIFTHS]
    minor = [("minor", (tonic + 9) % 12) for tonic in _FIFTHS]
    traces = []
    for ring, base, depth in ((minor, 0.45, 0.85), (major, 1.45, 1.0)):
        numbers = [tonic + (12 if mode == "minor" else 0) for mode, tonic in ring]
        these = counts[numbers]
        names = [key_label(*KEYS[n]) for n in numbers]
        traces.append(
            go.Barpolar(
                r=[depth] * 12, base=base, theta=angles, width=28, hoverinfo="skip",
                marker={"color": "var(--well)", "line": {"width": 0}},
            )
        )  # fmt: skip
        traces.append(
            go.Barpolar(
                r=depth * these / max(1, counts.max()), base=base, theta=angles, width=28,
                marker={
                    "color": [f"var(--key-{n})" for n in range(12)], "line": {"width": 0},
                    "opacity": 1.0 if ring is major else 0.72,
                },
                hovertext=[
                    f"{name}: {count(n)}" + (f", {count(w)} unsure" if w else "")
                    for name, n, w in zip(names, these, weak[numbers], strict=True)
                ],
                hovertemplate="%{hovertext}<extra></extra>",
            )
        )  # fmt: skip
    words = ["<b>{}</b> {}".format(*fifth_names(n)) for n in range(12)]
    drawn = figure(traces, 330, margin={"l": 34, "r": 34, "t": 26, "b": 26})
    return drawn.update_layout(
        polar={
            "bgcolor": "rgba(0,0,0,0)",
            "hole": 0,
            "barmode": "overlay",
            "radialaxis": {"visible": False, "range": [0, 2.5]},
            "angularaxis": {
                "tickvals": angles, "ticktext": words, "rotation": 90, "direction": "clockwise",
                "showline": False, "showgrid": False, "ticks": "", "tickfont": {"size": 11, "color": _SOFT},
            },
        }
    )  # fmt: skip


def peaks(found: Overview) -> go.Figure | None:
    """True peak against loudness, of a sample that depends on the contents only; None without both."""
    x, y = found.values["loudness_integrated_lufs"], found.values["loudness_true_peak_dbtp"]
    both = np.flatnonzero(np.isfinite(x) & np.isfinite(y))
    if not len(both):
        return None
    if len(both) > POINTS:
        both = both[np.argsort(found.ids[both], kind="stable")[:POINTS]]
    dots = go.Scatter(
        x=x[both], y=y[both], mode="markers", hovertemplate="%{x:.1f} LUFS, %{y:.1f} dBTP<extra></extra>",
        marker={
            "size": 7 if len(both) < 200 else 5, "opacity": 0.75 if len(both) < 200 else 0.5,
            "color": np.where(y[both] > 0, _BAD, "var(--accent)").tolist(), "line": {"width": 0},
        },
    )  # fmt: skip
    drawn = figure([dots], 330)
    drawn.add_hline(0, line={"color": _BAD, "width": 1, "dash": "dash"})
    drawn.update_xaxes(title_text="loudness, LUFS", showgrid=True)
    return drawn.update_yaxes(title_text="true peak, dBTP")


def stage_seconds(stages: dict[str, dict[str, Any]], field: str) -> go.Figure | None:
    """Seconds per stage, the largest first; None where there are none."""
    ranked = sorted(
        ((name, s.get(field) or 0.0) for name, s in stages.items()), key=lambda item: (-item[1], item[0])
    )
    if not any(seconds for _, seconds in ranked):
        return None
    if len(ranked) > MOST_BARS:
        rest = sum(seconds for _, seconds in ranked[MOST_BARS - 1 :])
        ranked = [*ranked[: MOST_BARS - 1], (f"{len(ranked) - MOST_BARS + 1} others", rest)]
    colours = colours_of(stages)
    return _ranking(ranked, [colours.get(name, _OTHERS) for name, _ in ranked], clock)


def waits(stages: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Waiting per actor: the extractors wait together, so one of them speaks for all."""
    found: dict[str, dict[str, Any]] = {}
    for name, stage in stages.items():
        longest = max(stage.get("wait_s") or 0.0, found.get(group(name), {}).get("wait_s", 0.0))
        found[group(name)] = {"wait_s": longest}
    return found


def colours_of(stages: Iterable[str]) -> dict[str, str]:
    """Stage → the colour of the actor that it ran in: the same wherever the same stages are shown."""
    names = list(stages)
    actors = sorted({group(name) for name in names})
    return {name: f"var(--cat-{actors.index(group(name)) % _COLOURS})" for name in names}


def peak_memory(processes: Sequence[dict[str, Any]]) -> go.Figure | None:
    """The largest process of each stage; None where none was measured."""
    peaks: dict[str, int] = {}
    number: dict[str, int] = {}
    for process in processes:
        stage = process["stage"]
        peaks[stage] = max(peaks.get(stage, 0), process["peak_rss_bytes"])
        number[stage] = number.get(stage, 0) + 1
    ranked = sorted(peaks.items(), key=lambda item: (-item[1], item[0]))
    named = [
        (name if number[name] == 1 else f"{name}, largest of {number[name]}", size) for name, size in ranked
    ]
    colours = colours_of(peaks)
    return _ranking(named, [colours[name] for name, _ in ranked], memory) if ranked else None


def devices(compared: Sequence[Comparison]) -> go.Figure | None:
    """Times real time on a CPU and on a GPU; None where there is nothing to compare."""
    if not compared:
        return None
    names = [plain(c.stage) for c in compared]
    traces = [
        go.Bar(
            name=name, y=names, x=[getattr(c, side).real_time_factor for c in compared], orientation="h",
            marker={"color": colour}, hovertemplate=f"{name}, %{{y}}: %{{x:.1f}}× real time<extra></extra>",
        )
        for name, side, colour in (("CPU", "cpu", "var(--soft)"), ("GPU", "gpu", "var(--accent)"))
    ]  # fmt: skip
    drawn = figure(
        traces,
        90 + 46 * len(names),
        showlegend=True,
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom"},
    )
    drawn.update_xaxes(type="log", title_text="× real time, logarithmic", showgrid=True)
    return drawn.update_yaxes(autorange="reversed", showgrid=False)
