"""The figures of the report's section on speech: turns on a line of time, and what clips and languages come to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go

from pipeline.report.charts import figure, plain, stepped
from pipeline.report.formatting import clock, count, decimal, plural
from pipeline.report.speech_rows import GRIDS, LANGUAGE, Clips, Recording

BARS = 500
"""Most bars of one recording."""

UNSURE = "not sure"
_LANES, _RESOLUTION = 8, 600
_LONGEST_NAME, _LONGEST_TITLE = 40, 120
# Seconds between the marks of an axis of time, and how many of them there are at most.
_STEPS = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14_400, 43_200, 86_400)
_MARKS = 6
_FATES = {"kept": "var(--accent)", "dropped": "var(--warm)"}


def timeline(recording: Recording, title: str) -> dict[str, Any]:
    """The turns of a recording as bars, a row for each speaker."""
    length = max(np.nan_to_num(recording.duration_s), float(recording.ends.max()))
    lanes = _lanes(recording)
    bars = _bars(recording, lanes, length)
    traces = [
        go.Bar(
            orientation="h", base=starts, x=ends - starts, y=[lane] * len(starts), width=0.7,
            marker={"color": f"var(--cat-{lane})", "line": {"width": 0}},
            hovertext=[f"{plain(name)}: {moment(a)} – {moment(b)}" for a, b in zip(starts, ends, strict=True)],
            hovertemplate="%{hovertext}<extra></extra>",
        )
        for lane, ((name, _), (starts, ends)) in enumerate(zip(lanes, bars, strict=True))
    ]  # fmt: skip
    drawn = figure(traces, 58 + 26 * len(lanes), barmode="overlay")
    step = next((s for s in _STEPS if length / s <= _MARKS), length / _MARKS)
    marks = np.arange(0.0, length + 1e-9, step)
    drawn.update_xaxes(
        range=[0, length], tickvals=marks, ticktext=[moment(m, 0) for m in marks], showgrid=True
    )
    drawn.update_yaxes(
        tickvals=list(range(len(lanes))), ticktext=[plain(name) for name, _ in lanes], showgrid=False,
        zeroline=False, range=[len(lanes) - 0.5, -0.5], ticklabelstandoff=6,
    )  # fmt: skip
    different = len(set(recording.speakers.tolist()) - {""})
    caption = f"{plural(different, 'speaker')}, {plural(len(recording.starts), 'turn')}, {clock(length)}."
    return {"title": title[:_LONGEST_TITLE], "figure": drawn, "caption": caption, "empty": ""}


def _lanes(recording: Recording) -> list[tuple[str, np.ndarray]]:
    """What stands in each row: a name, and which turns; those who speak longest, in the order of their first turns."""
    names, whose = np.unique(recording.speakers.astype(str), return_inverse=True)
    seconds = np.bincount(whose, recording.ends - recording.starts)
    own = np.argsort(-seconds, kind="stable")[: _LANES if len(names) <= _LANES else _LANES - 1]
    own = sorted(own.tolist(), key=lambda n: int(np.argmax(whose == n)))
    lanes = [(named(names[n]), np.flatnonzero(whose == n)) for n in own]
    if len(names) > len(own):
        rest = np.flatnonzero(~np.isin(whose, own))
        lanes.append((f"{count(len(names) - len(own))} others", rest))
    return lanes


def named(speaker: str) -> str:
    """A speaker for people."""
    return speaker[:_LONGEST_NAME] or UNSURE


def _bars(
    recording: Recording, lanes: Sequence[tuple[str, np.ndarray]], length: float
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Starts and ends of the bars of each lane, at most `BARS` together."""
    finest = length / _RESOLUTION
    while True:
        bars = [joined(recording.starts[t], recording.ends[t], finest) for _, t in lanes]
        if sum(len(starts) for starts, _ in bars) <= BARS:
            return bars
        finest *= 2


def joined(starts: np.ndarray, ends: np.ndarray, finest: float) -> tuple[np.ndarray, np.ndarray]:
    """Spans in order of their starts as fewer: closer than ``finest`` seconds they are one, and none is shorter."""
    if not len(starts):
        return starts, ends
    reach = np.maximum.accumulate(np.maximum(ends, starts + finest))
    first = np.concatenate([[True], starts[1:] - reach[:-1] >= finest])
    last = np.concatenate([first[1:], [True]])
    return starts[first], reach[last]


def speakers(recording: Recording) -> list[tuple[str, int, float]]:
    """Speaker, turns and seconds, those who speak longest first; as in the figure, of many the rest is one."""
    seconds = recording.ends - recording.starts
    found = [(name, len(these), float(seconds[these].sum())) for name, these in _lanes(recording)]
    return sorted(found, key=lambda row: -row[2])


def moment(seconds: float, places: int = 1) -> str:
    """A time in a recording: ``0:06.7``, ``12:05.0``, ``1:02:03.4``."""
    whole, fraction = divmod(round(float(seconds) * 10**places), 10**places)
    minutes, rest = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    said = f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
    return f"{said}.{fraction:0{places}d}" if places else said


def of_clips(clips: Clips) -> dict[str, dict[str, Any]]:
    """Lengths, quality and signal-to-noise ratio of the clips: name → chart."""
    return {
        "speech-seconds": _histogram(
            clips, "seconds", "Lengths of clips", steps=(0.25, 0.5, 1, 2, 5), unit="s",
            about="How long clips are", none="No clip was cut.",
        ),
        "speech-dnsmos": _histogram(
            clips, "dnsmos_ovrl", "Quality of clips (DNSMOS)", steps=(0.1,), unit="",
            about="What listeners would say of the whole, predicted: 1 is bad, 5 excellent",
            none="No clip has a dnsmos_ovrl: clips.dnsmos is off, or all are shorter than a second.",
        ),
        "speech-snr": _histogram(
            clips, "snr_db", "Signal-to-noise ratio of clips", steps=(1, 2, 5), unit="dB",
            about="Speech over the level of what is between it", none="No clip has an snr_db.",
        ),
    }  # fmt: skip


def _histogram(
    clips: Clips, name: str, title: str, *, steps: Sequence[float], unit: str, about: str, none: str
) -> dict[str, Any]:
    counts, edges = clips.counts[name], GRIDS[name]
    there = np.flatnonzero(counts.sum(axis=0))
    if not len(there):
        return {"title": title, "figure": None, "caption": "", "empty": none}
    middles = (edges[:-1] + edges[1:]) / 2
    bins = stepped(middles[there], steps)
    both = [np.histogram(middles, bins, weights=row)[0].astype(int) for row in counts]
    places = 2 if steps[0] < 1 else 0
    said = [
        f"{decimal(a, places)} to {decimal(b, places)} {unit}: {count(k)} kept, {count(d)} dropped"
        for a, b, k, d in zip(bins[:-1], bins[1:], *both, strict=True)
    ]
    traces = [
        go.Bar(
            name=fate, x=(bins[:-1] + bins[1:]) / 2, y=these, width=np.diff(bins) * 0.92, hovertext=said,
            hovertemplate="%{hovertext}<extra></extra>", marker={"color": colour, "line": {"width": 0}},
        )
        for (fate, colour), these in zip(_FATES.items(), both, strict=True)
    ]  # fmt: skip
    legend = {"orientation": "h", "y": 1.02, "yanchor": "bottom", "traceorder": "normal"}
    drawn = figure(traces, 270, barmode="stack", showlegend=True, legend=legend)
    drawn.update_xaxes(title_text=unit or None, zeroline=False)
    _count_upwards(drawn, max(both[0] + both[1]))
    medians = [
        f"{plural(int(row.sum()), 'clip')} {fate}, median about {decimal(_median(row, middles))} {unit}".rstrip()
        for fate, row in zip(_FATES, counts, strict=True)
        if row.sum()
    ]
    return {"title": title, "figure": drawn, "caption": f"{about}; {'; '.join(medians)}.", "empty": none}


def _count_upwards(drawn: go.Figure, most: int) -> None:
    drawn.update_yaxes(tickformat=",d", nticks=5, rangemode="tozero")
    if most <= 4:
        drawn.update_yaxes(dtick=1)


def _median(counts: np.ndarray, middles: np.ndarray) -> float:
    return float(middles[np.searchsorted(np.cumsum(counts), counts.sum() / 2)])


def languages(rows: Sequence[tuple[str, int]]) -> dict[str, Any]:
    """Recordings by language; those without one, under an empty name, are only counted."""
    known = [(plain(name), n) for name, n in rows if name]
    made = {"title": "Languages", "figure": None, "caption": "", "empty": f"No recording has a {LANGUAGE}."}
    if not known:
        return made
    places = list(range(len(known)))
    bars = go.Bar(
        x=places, y=[n for _, n in known], marker={"color": "var(--plum)"}, width=0.8,
        hovertext=[f"{name}: {count(n)}" for name, n in known], hovertemplate="%{hovertext}<extra></extra>",
    )  # fmt: skip
    drawn = figure([bars], 270)
    labels, room = [name for name, _ in known], [-0.6, max(len(known), 4) - 0.4]
    drawn.update_xaxes(tickvals=places, ticktext=labels, range=room, zeroline=False)
    _count_upwards(drawn, max(n for _, n in known))
    sure, total = sum(n for _, n in known), sum(n for _, n in rows)
    caption = f"What is spoken in {plural(sure, 'recording')}"
    caption += "." if sure == total else f"; of {count(total - sure)} more it is not sure."
    return made | {"figure": drawn, "caption": caption}
