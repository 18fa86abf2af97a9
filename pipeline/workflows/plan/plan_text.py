"""A plan as text for a terminal: sections, aligned tables, and the command of the run at the end."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.report.formatting import clock, plural
from pipeline.report.money import HOW, held, money

EXAMPLES = 2
FORMATS_SHOWN = 8
Numbers = Mapping[str, Any]


def plan_text(p: Numbers) -> str:
    """What ``plan.json`` holds, for people."""
    sections = [
        ("Files", _files(p)),
        ("Audio", _audio(p)),
        ("Problems to expect", _problems(p)),
        ("Stages", _stages(p)),
        ("Estimate", _estimate(p)),
        ("To know", [f"- {note}" for note in (*p["notes"], *p["hints"])]),
        ("The run", [p["command"]]),
    ]
    if not p["files"]:
        sections = [sections[0], ("The run", ["nothing to do"])]
    return "\n".join(
        line for title, lines in sections if lines for line in ("", title, *(f"  {text}" for text in lines))
    )


def _files(p: Numbers) -> list[str]:
    work = p["work"]
    lines = [
        f"{p['listed']} listed in {p['source']}; {p['done']} done already, {p['files']} to do, {size(p['bytes'])}"
    ]
    kinds = [
        ("new", "new"),
        ("all_again", "changed or failed in reading before"),
        ("to_compare", "to be compared"),
    ]
    said = [f"{work[key]} {text}" for key, text in kinds if work[key]]
    if work["missing"]:
        said.append("lacking " + ", ".join(f"{name} ({n})" for name, n in work["missing"].items()))
    if p["files"] and (p["done"] or len(said) > 1):
        lines.append("; ".join(said))
    if p["cache"]:
        lines.append(
            "in the cache, of the sample: "
            + ", ".join(f"{name} {share:.0%}" for name, share in p["cache"].items())
        )
    return lines


def _audio(p: Numbers) -> list[str]:
    hours, low, high = p["audio_hours"], *(p["audio_hours_range"][k] for k in ("low", "high"))
    read = p["headers"]["read"]
    how = (
        "all headers read"
        if read == p["files"]
        else f"from {plural(read, 'header')}, 90 % within {low:.3g}–{high:.3g} h"
    )
    lines = [f"{_hours(hours)} of audio ({how})"]
    if p["durations_s"]:
        lines[0] += ", " + ", ".join(f"{name} {clock(s)}" for name, s in p["durations_s"].items())
    rows = [("format", "files", "audio")]
    for f in p["formats"][:FORMATS_SHOWN]:
        form = f"{f['container']}/{f['codec']} {f['sample_rate'] / 1000:g} kHz ×{f['channels']}"
        rows.append((form, str(f["files"]), clock(f["audio_s"])))
    rest = p["formats"][FORMATS_SHOWN:]
    if rest:
        rows.append(
            (f"{len(rest)} more", str(sum(f["files"] for f in rest)), clock(sum(f["audio_s"] for f in rest)))
        )
    return lines + (table(rows, "lrr") if len(rows) > 1 else [])


def _problems(p: Numbers) -> list[str]:
    sample = p["sample"]
    if not sample["files"]:
        unreadable = p["headers"]["unreadable"]
        return [
            f"{unreadable} of {plural(p['headers']['read'], 'header')} cannot be read; no file was decoded "
            "(plan.sample=0)"
        ]
    lines = [_rate("fail", p["failures_expected"], p["files"])]
    if p["partial_expected"]["rate"]:
        lines.append(_rate("lack something", p["partial_expected"], p["files"]))
    lines[0] += (
        f" ({plural(sample['files'], 'file')} decoded, {p['headers']['unreadable']} of "
        f"{plural(p['headers']['read'], 'header')} bad)"
    )
    kinds = Counter((f["stage"], f["error_class"]) for f in p["problems"])
    for (stage, error_class), count in kinds.most_common():
        examples = [f for f in p["problems"] if (f["stage"], f["error_class"]) == (stage, error_class)]
        lines.append(f"{count} × {error_class} in {stage}")
        lines += [f"    {f['uri'].rsplit('/', 1)[-1]!r}: {f['message']}" for f in examples[:EXAMPLES]]
    lines += [
        f"{f['stage']}: {f['used']} instead of {f['wanted']} for {plural(f['files'], 'file')} of the sample"
        for f in p["fallbacks"]
    ]
    return lines


def _rate(what: str, found: Numbers, files: int) -> str:
    low, high = found["low"] * files, found["high"] * files
    return f"{found['rate']:.1%} of the files will {what}, {low:.0f} to {high:.0f} of {files}"


def _stages(p: Numbers) -> list[str]:
    rows = [
        ("stage", "device", "actors", "GPU each", "s per audio hour", "memory each", "VRAM", "compute, alone")
    ]
    for name, s in p["stages"].items():
        memory = p["peak_rss_bytes"].get(name)
        told = "–" if memory is None else size(memory)
        if s.get("decoder_rss_bytes"):
            told += f" + {size(s['decoder_rss_bytes'])}"
        share = f"1/{round(1 / s['num_gpus'])}" if s["num_gpus"] else "–"
        hour = s.get("s_per_audio_hour")
        rows.append(
            (
                name, s["device"], str(s["actors"]), share, "–" if hour is None else f"{hour:.1f}", told,
                size(p["vram_bytes"].get(name)), clock(s.get("alone_s")),
            )
        )  # fmt: skip
    hardware = p["hardware"]
    machine = f"{plural(hardware['cpus'], 'CPU')}, {plural(hardware['gpus'], 'GPU')}" + (
        f", {size(hardware['memory_bytes'])} of memory" if hardware["memory_bytes"] else ""
    )
    head = f"hardware={hardware['name']} on {machine}; {plural(p['blocks'], 'block')}"
    lines = [head, *table(rows, "llrrrrrr"), *hardware["reasons"]]
    if p["peak_rss_bytes"]:
        lines.append(
            "memory without the pages of Ray's object store, which a run's report counts to each process"
        )
    return lines


def _estimate(p: Numbers) -> list[str]:
    wall = p["wall_s"]
    if wall is None:
        return ["none: no file was run through the stages"]
    rows = [("", "low", "expected", "high")]
    for name, range_ in (("from the command to its end", p["command_s"]), ("of it the work", wall)):
        rows.append((name, *(clock(range_[k]) for k in ("low", "expected", "high"))))
    if p["gpu_hours"]:
        rows.append(("GPU-hours", *(f"{p['gpu_hours'][k]:.2f}" for k in ("low", "expected", "high"))))
    if p["cost"]:
        rows.append(("cost", *(money(p["cost"][k]) for k in ("low", "expected", "high"))))
    lines = table(rows, "lrrr")
    lines += _cost(p["cost"])
    expected = wall["expected"]
    audio = 3600 * p["audio_hours"]
    lines.append(
        f"the work is bound by {p['limit']}, {audio / expected:.1f}× real time; before it {clock(p['startup_s'])} for "
        "imports, listing, models and Ray"
    )
    if p["output_bytes"] is not None:
        lines.append(f"output about {size(p['output_bytes'])}")
    below, above = (abs(1 - factor) for factor in p["range"]["unmodelled"])
    lines.append(
        f"The range: a bootstrap over the sample's files ({p['range']['confidence']:.0%}), made {below:.0%} wider"
    )
    lines.append(
        f"below and {above:.0%} above for what was not measured: other load, slow storage, how stages overlap."
    )
    return lines


def _cost(c: Numbers | None) -> list[str]:
    if not c:
        return []
    parts = sorted(c["stages"].items(), key=lambda item: -item[1])
    lines = [f"the cost is that of {held(c)}"]
    if c["per_audio_hour"] is not None:
        lines[0] += f": {money(c['per_audio_hour'])} per hour of audio"
    lines.append("of it " + ", ".join(f"{name} {money(part)}" for name, part in parts))
    return [*lines, *textwrap.wrap(HOW, 120)]


def _hours(hours: float) -> str:
    return f"{hours:.1f} h" if hours >= 10 else clock(3600 * hours)


def size(number: float | None) -> str:
    """Bytes as people read them."""
    if number is None:
        return "–"
    for unit in ("B", "KiB", "MiB"):
        if number < 1024:
            return f"{number:.0f} {unit}"
        number /= 1024
    return f"{number:.1f} GiB" if number < 1024 else f"{number / 1024:.2f} TiB"


def table(rows: Sequence[Sequence[str]], sides: str) -> list[str]:
    """Aligned columns; ``sides`` has an ``l`` or an ``r`` for each."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.ljust(width) if side == "l" else cell.rjust(width)
            for cell, width, side in zip(row, widths, sides, strict=True)
        ).rstrip()
        for row in rows
    ]
