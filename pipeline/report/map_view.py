"""What the page needs to draw the map: places, names, colours to choose from, and pictures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
import plotly.graph_objects as go

from pipeline.report.charts import fifth_names, figure, plain
from pipeline.report.details import Track, common_folder
from pipeline.report.embedding_map import Map
from pipeline.report.formatting import clock, decimal
from pipeline.report.overview import Overview
from pipeline.report.thumbnails import Pictures

SHADES = 8
"""Steps of a colour scale, ``--ramp-0`` to ``--ramp-7`` in the page's style."""

CATEGORIES = 7
_SCALES = {
    "loudness_integrated_lufs": ("loudness", lambda v: f"{decimal(v)} LUFS"),
    "tempo_bpm": ("tempo", lambda v: f"{v:.0f} BPM"),
    "duration_s": ("duration", lambda v: clock(10**v)),
    "spectral_centroid_mean_hz": ("brightness", lambda v: f"{v / 1000:.1f} kHz"),
}


def map_figure(atlas: Map) -> go.Figure:
    """The points, rings around those with pictures, and the chosen one; the script colours and fills them."""
    size = 11 if len(atlas.ids) <= 100 else 8 if len(atlas.ids) <= 1000 else 6
    traces = [
        go.Scatter(
            x=[], y=[], mode="markers",
            marker={"size": size, "opacity": 0.85, "line": {"width": 0.5, "color": "var(--card)"}},
            hovertemplate="%{text}<extra></extra>",
        ),
        go.Scatter(
            x=[], y=[], mode="markers", hoverinfo="skip",
            marker={"size": size + 5, "symbol": "circle-open", "color": "var(--soft)", "line": {"width": 1}},
        ),
        go.Scatter(
            x=[], y=[], mode="markers", hoverinfo="skip",
            marker={"size": size + 9, "symbol": "circle-open", "color": "var(--ink)", "line": {"width": 2.5}},
        ),
    ]  # fmt: skip
    drawn = figure(traces, 460, hovermode="closest")
    axis = {"fixedrange": False, "showticklabels": False, "showgrid": False, "zeroline": False, "ticks": ""}
    first, second = (
        f"component {n + 1}: {100 * s:.0f} % of the variance" for n, s in enumerate(atlas.explained)
    )
    drawn.update_xaxes(title_text=first, **axis)
    return drawn.update_yaxes(title_text=second, **axis)


def map_data(
    atlas: Map, found: Overview, tracks: Mapping[int, Track], pictures: Mapping[int, Pictures]
) -> dict[str, Any]:
    """All of it as JSON types. Texts are raw but for ``hover``, which plotly would take markup in for markup."""
    ids = [int(i) for i in atlas.ids]
    known = [tracks.get(i, Track(["(written anew meanwhile)"], 1, "")) for i in ids]
    folder = common_folder(track.uris[0] for track in known)
    return {
        "x": np.round(atlas.places[:, 0].astype(np.float64), 4).tolist(),
        "y": np.round(atlas.places[:, 1].astype(np.float64), 4).tolist(),
        "folder": folder,
        "uris": [track.uris[0][len(folder) :] for track in known],
        "hover": [plain(track.name[:80]) for track in known],
        "facts": [track.facts for track in known],
        "copies": [track.files for track in known],
        "colours": _colours(atlas, found, known),
        "pictures": {n: [pictures[i].mel, pictures[i].chroma] for n, i in enumerate(ids) if i in pictures},
    }


def _colours(atlas: Map, found: Overview, known: list[Track]) -> list[dict[str, Any]]:
    """What the points can be coloured by; what most of them have comes first."""
    order = np.argsort(found.ids, kind="stable")
    rows = order[np.searchsorted(found.ids[order], atlas.ids)]
    choices = []
    keys = found.keys[rows]
    if (keys >= 0).any():
        # A minor key has the place of its relative major on the circle of fifths, and so its colour.
        tonic = np.where(keys >= 12, keys - 12 + 3, keys) % 12
        codes = np.where(keys >= 0, tonic * 7 % 12, -1)
        choices.append(
            {"label": "key", "palette": [f"var(--key-{n})" for n in range(12)], "codes": codes.tolist(),
             "names": [" / ".join(fifth_names(n)) for n in range(12)]}
        )  # fmt: skip
    for column, (label, said) in _SCALES.items():
        values = found.values[column][rows].astype(np.float64)
        if column == "duration_s":
            values = np.log10(np.where(values > 0, values, np.nan))
        there = values[np.isfinite(values)]
        if len(there) and there.min() < there.max():
            choices.append({"label": label, **_scale(values, there, said)})
    formats = [track.format for track in known]
    common = [name for name, _ in Counter(formats).most_common(CATEGORIES) if name]
    if len(common) > 1:
        codes = [common.index(name) if name in common else -1 for name in formats]
        palette = [f"var(--cat-{n})" for n in range(len(common))]
        choices.append({"label": "format", "palette": palette, "codes": codes, "names": common})
    return sorted(choices, key=lambda c: 2 * sum(code >= 0 for code in c["codes"]) < len(known))


def _scale(values: np.ndarray, there: np.ndarray, said: Any) -> dict[str, Any]:
    low, high = np.percentile(there, [5, 95])
    low, high = (low, high) if low < high else (there.min(), there.max())
    steps = np.clip((values - low) / (high - low) * SHADES, 0, SHADES - 1)
    codes = np.where(np.isfinite(values), np.nan_to_num(steps).astype(int), -1)
    return {
        "palette": [f"var(--ramp-{n})" for n in range(SHADES)],
        "codes": codes.tolist(),
        "ends": [said(low), said(high)],
    }
