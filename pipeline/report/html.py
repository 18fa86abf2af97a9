"""``report.html``: one self-contained file, no network, light and dark, for a desk and for a phone."""

from __future__ import annotations

import datetime
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from pipeline.commands import as_typed
from pipeline.dataset.output import Output
from pipeline.dataset.run_folder import RunFolder
from pipeline.dataset.storage import one_line, public_uri
from pipeline.dataset.tables.failures import Summary, classes
from pipeline.features.key import UNSURE
from pipeline.report import cards, charts, devices, estimate, money
from pipeline.report import formatting as words
from pipeline.report.details import tracks
from pipeline.report.embedding_map import POINTS, Map, embedding_map
from pipeline.report.map_view import map_data, map_figure
from pipeline.report.master_view import section as master_section
from pipeline.report.outliers import MOST, Kind, outliers
from pipeline.report.overview import DESCRIPTORS, Overview, overview
from pipeline.report.performance import copies_text
from pipeline.report.speech_view import section as speech_section
from pipeline.report.thumbnails import Pictures, spread, thumbnails

PICTURES = 60
"""Points of the map that get pictures; and so many outliers do, the first of each kind."""

_OF_A_KIND = 6
_CLASSES = 20
_PROCESSES = 100
_CONTENTS = (
    ("glance", "At a glance"),
    ("map", "Map"),
    ("listen", "Worth a listen"),
    ("speech", "Speech"),
    ("masters", "Masters"),
    ("trouble", "Failures"),
    ("time", "Time"),
    ("estimate", "Estimate"),
)
_RUN = {"files": 0, "status": {}, "audio_s": 0.0, "copies": 0, "copies_audio_s": 0.0, "wall_s": None,
        "startup_s": None, "real_time_factor": None,
        "compute_s": 0.0, "busy_s": None, "compute_over_busy": None, "stages": {}, "cache": None, "gpu": None,
        "processes": [], "fallbacks": [], "cost": None}  # fmt: skip
_STAGE = {"device": "", "rows": 0, "cache_hits": 0, "compute_s": 0.0, "share": None, "wait_s": 0.0,
          "real_time_factor": None, "padding_fraction": None}  # fmt: skip


def write_report(folder: RunFolder, performance: dict[str, Any], environment: dict[str, Any]) -> str:
    """Write the report of a run and return its location; empty, with a line in the log, where it cannot be made."""
    try:
        return folder.write("report.html", render(folder.output, performance, environment))
    except Exception as error:  # noqa: BLE001  the tables are there, and hours of work in them
        text = f"report.html could not be made ({type(error).__name__}: {one_line(error)})"
        folder.log("report", f"{text}; python jobs/report.py output.uri=… tries again", level="error")
        return ""


def render(output: Output, performance: dict[str, Any], environment: dict[str, Any]) -> str:
    """The report of a run and of the tables as they are now, as HTML.

    Args:
        performance: what ``performance.json`` of the run holds; one of an older version may lack parts.
        environment: what ``environment.json`` holds, may be empty.
    """
    p = {**_RUN, **performance}
    colours = charts.colours_of(p["stages"])
    p["stages"] = {name: {**_STAGE, **stage, "colour": colours[name]} for name, stage in p["stages"].items()}
    found = overview(output)
    atlas, kinds = embedding_map(found), outliers(found)
    compared = devices.compare(output, found, p)
    shown = [identity for kind in kinds for these, _ in kind.items for identity in these]
    first = [these[0] for kind in kinds for these, _ in kind.items[:_OF_A_KIND]]
    on_map = [int(atlas.ids[n]) for n in spread(atlas.places, PICTURES)]
    pictures = thumbnails(output, found, [*on_map, *first])
    known = tracks(output, found, {*shown, *(int(i) for i in atlas.ids)})
    own = {"speech": speech_section(output, found), "masters": master_section(output, found)}
    figures = _figures(found, p, compared)
    for section in filter(None, own.values()):
        figures |= section.charts
    data = {name: json.loads(c["figure"].to_json()) for name, c in figures.items() if c["figure"]}
    points = map_data(atlas, found, known, pictures) if len(atlas.ids) else None
    if points is not None:
        data["map"] = json.loads(map_figure(atlas).to_json())
    failed = classes(output)
    templates = Environment(
        loader=PackageLoader("pipeline.report"), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    templates.filters |= {
        name: getattr(words, name)
        for name in ("clock", "count", "decimal", "percent", "memory", "plural", "factor")
    }
    templates.filters["money"] = money.money
    templates.filters["as_typed"] = as_typed
    templates.filters["capitalise"] = lambda text: text[:1].upper() + text[1:]
    uri = public_uri(output.uri)
    return templates.get_template("report.html.j2").render(
        p=p,
        uri=uri,
        name="/".join(uri.rstrip("/").rsplit("/", 2)[-2:]),
        when=_when(p["run_id"]),
        lead=_lead(found, p),
        cards=_cards(found, p),
        contents=[(name, title) for name, title in _CONTENTS if own.get(name, True)],
        found=found,
        charts=figures,
        keys=charts.key_counts(found),
        formats=charts.format_rows(found),
        map=_map_words(atlas, found, points),
        kinds=[_shown(kind, known, pictures) for kind in kinds],
        most=MOST,
        **own,
        failures=_failures(failed),
        time_said=" ".join([_time_words(p), *money.sentences(p["cost"])]),
        processes=sorted(p["processes"], key=lambda q: (q["stage"], -q["peak_rss_bytes"]))[:_PROCESSES],
        devices=compared,
        cards_said=cards.sentences(p["gpu"]),
        estimate=estimate.compare(output, p),
        machine=_machine(environment),
        data=script_json({"figures": data, "map": points}),
        plotly=Markup(get_plotlyjs()),  # noqa: S704  plotly's own text
    )


def script_json(value: Any) -> Markup:
    """JSON that can stand in a ``<script>``: nothing in it ends the element or begins a comment."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)  # noqa: S704  escaped above


def _figures(
    found: Overview, p: dict[str, Any], compared: Sequence[devices.Comparison]
) -> dict[str, dict[str, Any]]:
    def chart(title: str, figure: go.Figure | None, caption: str, empty: str) -> dict[str, Any]:
        return {"title": title, "figure": figure, "caption": caption, "empty": empty}

    return {
        "durations": chart("Durations", charts.durations(found), _quantiles(found, "duration_s", words.clock),
                           "No track was decoded."),
        "loudness": chart("Integrated loudness", charts.loudness(found),
                          _quantiles(found, "loudness_integrated_lufs", lambda v: f"{words.decimal(v)} LUFS")
                          + " Dashed: −23 LUFS (EBU R 128) and −14 LUFS (streaming).",
                          "No loudness was measured: the loudness extractor is off, or all is silent."),
        "tempo": chart("Tempo", charts.tempo(found), _quantiles(found, "tempo_bpm", lambda v: f"{v:.0f} BPM"),
                       "No tempo was found: the tempo extractor is off, or nothing has a beat."),
        "peaks": chart("True peak and loudness", charts.peaks(found), _peak_words(found),
                       "Needs loudness and true peak: the loudness extractor is off, or all is silent."),
        "keys": chart("Keys", charts.key_wheel(found),
                      f"{_key_words(found)} Major outside, the relative minor inside, around the circle of fifths.",
                      "No key was found: the key extractor is off, or nothing is tonal."),
        "formats": chart("Formats", charts.formats(found), "", "No track was decoded."),
        "compute": chart("Compute", charts.stage_seconds(p["stages"], "compute_s"),
                         "Wall time in the stage, summed over tracks; actors work side by side, so the sum may "
                         "exceed the run's wall time.", "This run measured no stage."),
        "waiting": chart("Waiting", charts.stage_seconds(charts.waits(p["stages"]), "wait_s"),
                         "Time between the end of the stage before and the start of this one, summed over tracks: "
                         "the queue before the slowest stage is the longest.", "No track had to wait."),
        "memory": chart("Peak memory per process", charts.peak_memory(p["processes"]),
                        "Pages shared with Ray's object store are included.", "No process was measured."),
        "devices": chart("CPU and GPU", charts.devices(compared), "Results from the cache are left out.",
                         "No stage was computed on both, in this run or in another one of this output."),
    }  # fmt: skip


def _quantiles(found: Overview, column: str, said: Any) -> str:
    values = found.known(column)
    if not len(values):
        return ""
    low, middle, high = (said(float(v)) for v in np.percentile(values, [5, 50, 95]))
    text = f"{words.plural(len(values), 'track')}, median {middle}"
    return f"{text}; nine in ten between {low} and {high}." if len(values) >= 20 else f"{text}."


def _key_words(found: Overview) -> str:
    keyed, unsure = int((found.keys >= 0).sum()), int(found.unsure.sum())
    said = f"{words.count(keyed)} of {words.plural(found.rows['tracks'], 'track')} with a key"
    if unsure:
        said += f", {words.count(unsure)} of them unsure (key_confidence below {UNSURE:g})"
    return f"{said}."


def _peak_words(found: Overview) -> str:
    peaks, loudness = found.values["loudness_true_peak_dbtp"], found.values["loudness_integrated_lufs"]
    known = np.isfinite(peaks)
    text = f"{words.count(int((peaks > 0).sum()))} of {words.plural(int(known.sum()), 'track')} above 0 dBTP."
    if (known & np.isfinite(loudness)).sum() > charts.POINTS:
        text += f" Shown is a random sample of {words.count(charts.POINTS)}."
    return text


def _map_words(atlas: Map, found: Overview, points: dict[str, Any] | None) -> dict[str, Any]:
    drawn = points is not None
    total = words.plural(found.rows["tracks"], "track")
    said = ""
    if atlas.source == "embeddings":
        said = (
            f"Tracks that sound alike, by {atlas.columns[0]}, lie close together. "
            f"{words.count(atlas.seen)} of {total} with an embedding."
        )
    elif drawn:
        said = (
            "No embeddings in these tables, so this is a map of descriptors: "
            f"{', '.join(DESCRIPTORS[column] for column in atlas.columns)}. "
            f"{words.count(atlas.seen)} of {total} with all of them."
        )
    if drawn and atlas.seen > len(atlas.ids):
        kind = (
            "a random sample, the same each time"
            if len(atlas.ids) == POINTS
            else "equal contents are one point"
        )
        said += f" {words.count(len(atlas.ids))} points are shown: {kind}."
    pictured = len(points["pictures"]) if drawn else 0
    return {
        "drawn": drawn,
        "title": "Map of descriptors" if atlas.source == "descriptors" else "Map of the embeddings",
        "said": said,
        "empty": "No map: fewer than three tracks have an embedding, and fewer than three have descriptors "
        "(mfcc, chroma, spectral).",
        "no_picture": f"No picture of this one: {words.count(pictured)} points have one, those in a ring."
        if pictured
        else "No pictures: these tables refer to no mel or chroma arrays (blobs.names).",
    }


def _shown(kind: Kind, known: dict[int, Any], pictures: dict[int, Pictures]) -> dict[str, Any]:
    rows = []
    for these, said in kind.items:
        named = [known[identity] for identity in these if identity in known]
        if named:
            picture = pictures.get(these[0])
            rows.append((named, said, picture.mel if picture else ""))
    return {
        **vars(kind),
        "shown": rows,
        "total_of_files": kind.noun == "content",
    }


def _failures(failed: Summary) -> dict[str, Any]:
    ranked = sorted(failed.classes.items(), key=lambda item: (-item[1].rows, item[0]))
    said = f"{words.plural(failed.rows, 'row')} in failures, of all runs"
    if failed.worker_died:
        said += f"; {words.count(failed.worker_died)} killed their worker"
    return {
        "rows": failed.rows,
        "classes": ranked[:_CLASSES],
        "more": max(0, len(ranked) - _CLASSES),
        "said": f"{said}.",
    }


def _lead(found: Overview, p: dict[str, Any]) -> str:
    audio = float(found.known("duration_s").sum(dtype=np.float64))
    said = f"{words.plural(found.rows['tracks'], 'track')}, {words.clock(audio)} of audio."
    if p["wall_s"]:
        said += f" This run worked on {_of(p['files'] - p['copies'], found.rows['tracks'])}, "
        said += f"{words.clock(p['audio_s'])} of audio, in {words.clock(p['wall_s'])}"
        times = p["real_time_factor"]
        said += f": {words.factor(times)} times as fast as they play." if times else "."
        said += f" Besides {copies_text(p)}." if p["copies"] else ""
    return said


def _of(files: int, tracks: int) -> str:
    return "all of them" if files == tracks > 1 else f"{words.count(files)} of them"


def _cards(found: Overview, p: dict[str, Any]) -> list[tuple[str, str, str]]:
    status = found.status
    return [
        (words.count(found.rows["tracks"]), "tracks", ""),
        (words.clock(float(found.known("duration_s").sum(dtype=np.float64))), "of audio", ""),
        (words.clock(p["wall_s"]), "wall time of this run", ""),
        (
            f"{words.factor(p['real_time_factor'])}×" if p["real_time_factor"] else "–",
            f"real time, of {words.clock(p['audio_s'])} computed",
            "",
        ),
        (words.count(status["partial"]), "partial", ""),
        (words.count(status["failed"]), "failed", "bad" if status["failed"] else ""),
    ]


def _time_words(p: dict[str, Any]) -> str:
    said = []
    if p["wall_s"] is not None:
        said.append(f"{words.clock(p['compute_s'])} of compute in {words.clock(p['wall_s'])} of wall time")
        if p["startup_s"] is not None:
            before = words.clock(p["startup_s"])
            said[-1] += f", and {before} before the first block (imports, listing, models, Ray)"
        if p.get("command_s"):
            said[-1] += f"; {words.clock(p['command_s'])} from the command to this report"
        said[-1] += "."
    if p["busy_s"]:
        said.append(
            f"Ray measured {words.clock(p['busy_s'])} inside the actors; the stages account for "
            f"{words.percent(p['compute_over_busy'])} of it."
        )
    if p["cache"]:
        said.append(
            f"The result cache gave {words.count(p['cache']['hits'])} results, {words.count(p['cache']['misses'])} "
            "were computed."
        )
    return " ".join(said)


def _when(run_id: str) -> str:
    """When a run began, from its id."""
    try:
        then = datetime.datetime.strptime(run_id[:15], "%Y%m%dT%H%M%S")
    except ValueError:
        return ""
    return f"{then.day} {then:%B %Y, %H:%M} UTC"


def _machine(environment: dict[str, Any]) -> str:
    packages = environment.get("packages") or {}
    said = [
        f"Python {environment['python']}" if environment.get("python") else "",
        *(f"{name} {packages[name]}" for name in ("ray", "torch") if packages.get(name)),
        words.plural(environment["cpu_count"], "CPU") if environment.get("cpu_count") else "",
        f"GPU {environment.get('gpu') or 'none'}" if environment else "",
    ]
    return " · ".join(part for part in ("Made by Soundmill", *said) if part)
