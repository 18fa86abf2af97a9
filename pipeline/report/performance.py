"""``performance.json`` and ``PERFORMANCE_METRICS.md``: what each stage cost and how it adds up."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from pipeline.counting import plural
from pipeline.engine.progress import OTHERS, Progress
from pipeline.report import money
from pipeline.report.cards import gpu_section, markdown_lines
from pipeline.report.formatting import clock

# Kinds of fallback in the report and the manifest, the most frequent ones.
MOST_FALLBACKS = 50


def group(stage: str) -> str:
    """The actor a stage ran in: ``features.mel`` ran in ``features``."""
    return stage.split(".", 1)[0]


def performance(
    run_id: str,
    progress: Progress,
    wall_s: float,
    startup_s: float,
    busy_s: dict[str, float],
    *,
    cache: dict[str, Any] | None = None,
    moments: Mapping[str, float] | None = None,
) -> dict[str, Any]:
    """The numbers of a run. ``audio_s`` and what is worked out from it are of what was computed: a file with the
    content of another is in ``files``, ``copies`` and ``copies_audio_s``. ``parallel_speedup`` is the compute of all
    stages over the wall time: how much work went on side by side. What it ``cost`` is known when it ends.

    Args:
        wall_s: of the whole graph, first block to last receipt, the start of its actors in it.
        startup_s: before it, from the beginning of the command: imports, listing, models, Ray.
        busy_s: per actor pool, the time Ray itself measured inside the stage classes.
        cache: what is left of the result cache; None where it is off.
        moments: name → Unix time at which the driver got there.
    """
    total = sum(s["compute_s"] for s in progress.stages.values())
    stages = {
        name: {
            "device": s["device"],
            "rows": int(s["rows"]),
            "cache_hits": int(s.get("cache_hits", 0)),
            "compute_s": s["compute_s"],
            "share": s["compute_s"] / total if total else None,
            "wait_s": s["wait_s"],
            "real_time_factor": progress.audio_s / s["compute_s"] if s["compute_s"] else None,
            "padding_fraction": s["padding_weighted"] / s["compute_s"] if s["compute_s"] else None,
            "gpu_peak_bytes": int(s.get("gpu_peak_bytes", 0)) or None,
        }
        for name, s in sorted(progress.stages.items(), key=lambda item: -item[1]["compute_s"])
    }
    timed: dict[str, float] = {}
    for name, s in progress.stages.items():
        timed[group(name)] = timed.get(group(name), 0.0) + s["compute_s"]
    busy_total = sum(busy_s.values())
    return {
        "run_id": run_id,
        "files": progress.files,
        "status": dict(progress.status),
        "audio_s": progress.audio_s,
        "copies": progress.copied,
        "copies_audio_s": progress.copied_s,
        "wall_s": wall_s,
        "startup_s": startup_s,
        "real_time_factor": progress.audio_s / wall_s if wall_s else None,
        "compute_s": total,
        "parallel_speedup": total / wall_s if wall_s else None,
        "busy_s": busy_total or None,
        "compute_over_busy": total / busy_total if busy_total else None,
        "stages": stages,
        "cache": None if cache is None else {**cache_counts(stages), **cache},
        "actors": {
            n: {"compute_s": timed.get(n, 0.0), "busy_s": busy_s.get(n), **startups(progress, n)}
            for n in {*timed, *busy_s}
        },
        "moments": dict(moments or {}),
        "cost": None,
        "gpu": gpu_section(on_cards(progress)),
        "processes": sorted(progress.processes.values(), key=lambda p: (p["stage"], -p["peak_rss_bytes"])),
        "failures": [
            {"stage": s, "error_class": c, "count": n} for (s, c), n in progress.failures.most_common()
        ],
        "fallbacks": fallback_counts(progress),
    }


def copies_text(p: Mapping[str, Any]) -> str:
    """``4 copies of what was computed, 6 min 10 s of audio``, which counts in no other figure; ``p`` has some."""
    audio = clock(p["copies_audio_s"])
    return f"{plural(p['copies'], 'copy', 'copies')} of what was computed, {audio} of audio"


def on_cards(progress: Progress) -> list[dict[str, Any]]:
    """Notes of the processes that worked on a card."""
    stages = {group(name) for name, s in progress.stages.items() if s["device"] == "cuda"}
    return [p for p in progress.processes.values() if p["stage"] in stages]


def startups(progress: Progress, stage: str) -> dict[str, Any]:
    """What starting the actors of a stage took, which is in no file's compute: ``processes`` of them that worked,
    ``startup_s`` of all together and ``startup_max_s`` of the slowest, wall time; None where no actor said."""
    seconds = [
        p["startup_s"] for p in progress.processes.values() if p["stage"] == stage and p.get("ready_at")
    ]
    return {
        "processes": len(seconds),
        "startup_s": sum(seconds) if seconds else None,
        "startup_max_s": max(seconds, default=None),
    }


def cache_counts(stages: dict[str, dict[str, Any]]) -> dict[str, int]:
    """``hits`` and ``misses``: results that came from the cache, and those that had to be computed."""
    asked = [s for name, s in stages.items() if name != "write"]
    hits = sum(s["cache_hits"] for s in asked)
    return {"hits": hits, "misses": sum(s["rows"] for s in asked) - hits}


def fallback_counts(progress: Progress, most: int = MOST_FALLBACKS) -> list[dict[str, Any]]:
    """Rows per kind of fallback, the most frequent first: ``stage, wanted, used, reason, count``.

    Beyond ``most`` kinds the rest is one entry per stage, ``other`` throughout, so that the counts always add up
    to all fallbacks of the run.
    """
    named: list[tuple[tuple[str, ...], int]] = []
    rest: Counter[tuple[str, ...]] = Counter()
    for kind, count in sorted(progress.fallbacks.items(), key=lambda item: (-item[1], item[0])):
        if kind[1:] != OTHERS and len(named) < most:
            named.append((kind, count))
        else:
            rest[(kind[0], *OTHERS)] += count
    return [
        {"stage": stage, "wanted": wanted, "used": used, "reason": reason, "count": count}
        for (stage, wanted, used, reason), count in (*named, *sorted(rest.items()))
    ]


def markdown(p: dict[str, Any], environment: dict[str, Any]) -> str:
    """The same for people, as Markdown."""
    lines = [
        f"# Performance of run {p['run_id']}",
        "",
        f"{plural(p['files'], 'file')}, {p['audio_s'] / 3600:.3f} h of audio in {p['wall_s']:.1f} s: "
        f"**{_number(p['real_time_factor'], '.1f')}× real time** "
        f"(and {p['startup_s']:.1f} s before the first block: imports, listing, models, Ray"
        + (f"; {p['command_s']:.1f} s since the command began)." if p.get("command_s") else ").")
        + (f" Besides {copies_text(p)}." if p.get("copies") else ""),
        "",
        f"Machine: {plural(environment['cpu_count'], 'CPU')}, GPU: {environment.get('gpu') or 'none'}; "
        f"Python {environment['python']}, Ray {environment['packages']['ray']}, "
        f"torch {environment['packages']['torch']}.",
        "",
        "## Stages",
        "",
        "| stage | device | files | from cache | compute s | share | waiting s | × real time | padding |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for name, s in p["stages"].items():
        lines.append(
            f"| {name} | {s['device']} | {s['rows']} | {s['cache_hits']} | {s['compute_s']:.2f} | "
            f"{_number(s['share'], '.1%')} | "
            f"{s['wait_s']:.1f} | {_number(s['real_time_factor'], '.1f')} | {_number(s['padding_fraction'], '.1%')} |"
        )
    lines += [
        "",
        "Compute is wall time in the stage, summed over files; actors work side by side, so it may exceed the "
        "wall time of the run. "
        + (
            f"Ray measured {p['busy_s']:.2f} s inside the actors; the stages account for "
            f"{p['compute_over_busy']:.1%} of it."
            if p["busy_s"]
            else "Ray gave no measurement of its own to compare with."
        ),
        *_cache_lines(p["cache"]),
        *markdown_lines(p.get("gpu")),
        *_startup_lines(p["actors"]),
        *money.markdown_lines(p.get("cost")),
        "",
        "## Peak memory per process",
        "",
        "| stage | node | pid | peak RSS, MiB (with pages shared with the object store) |",
        "| --- | --- | ---: | ---: |",
    ]
    lines += [
        f"| {q['stage']} | {q['node']} | {q['pid']} | {q['peak_rss_bytes'] / 2**20:.0f} |"
        for q in p["processes"]
    ]
    if p["fallbacks"]:
        lines += [
            "",
            "## Fallbacks",
            "",
            "| stage | wanted | used | rows | reason |",
            "| --- | --- | --- | ---: | --- |",
        ]
        lines += [
            f"| {f['stage']} | {f['wanted']} | {f['used']} | {f['count']} | {f['reason'].replace('|', '/')} |"
            for f in p["fallbacks"]
        ]
    if p["failures"]:
        lines += ["", "## Failures", "", "| stage | class | rows |", "| --- | --- | ---: |"]
        lines += [f"| {f['stage']} | {f['error_class']} | {f['count']} |" for f in p["failures"]]
    return "\n".join(lines) + "\n"


def _startup_lines(actors: dict[str, dict[str, Any]]) -> list[str]:
    told = {name: actor for name, actor in sorted(actors.items()) if actor["startup_s"] is not None}
    if not told:
        return []
    return [
        "",
        "## Starting",
        "",
        "| stage | actors | started in, s in all | the slowest, s |",
        "| --- | ---: | ---: | ---: |",
        *(
            f"| {name} | {a['processes']} | {a['startup_s']:.1f} | {a['startup_max_s']:.1f} |"
            for name, a in told.items()
        ),
        "",
        "Imports, weights and children, beside the other actors; no file's compute has it.",
    ]


def _cache_lines(cache: dict[str, Any] | None) -> list[str]:
    if cache is None:
        return []
    lines = ["", f"Result cache: {cache['hits']} results from it, {cache['misses']} computed."]
    if "bytes" in cache:
        lines[-1] += (
            f" It holds {cache['bytes'] / 1e6:.1f} MB in {plural(cache['shards'], 'shard')}; "
            f"{cache['removed_bytes'] / 1e6:.1f} MB were evicted."
        )
    return lines


def _number(value: float | None, form: str) -> str:
    return "–" if value is None else format(value, form)
