"""``report.html``: one self-contained file, no network, light and dark."""

from __future__ import annotations

from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from pipeline.report.overview import Overview, histogram


def render(performance: dict[str, Any], environment: dict[str, Any], found: Overview, uri: str) -> str:
    """The report of a run as HTML."""
    templates = Environment(
        loader=PackageLoader("pipeline.report"), autoescape=True, undefined=StrictUndefined
    )
    templates.filters["clock"] = clock
    return templates.get_template("report.html.j2").render(
        p=performance,
        env=environment,
        found=found,
        uri=uri,
        durations=histogram(found.durations_s, log=True),
        loudness=histogram(found.loudness_lufs),
        formats=found.formats.most_common(20),
    )


def clock(seconds: float | None) -> str:
    """Seconds as people read them: ``0.42 s``, ``3 min 05 s``, ``2 h 14 min``."""
    if seconds is None:
        return "–"
    if seconds < 60:
        return f"{seconds:.2f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min"
