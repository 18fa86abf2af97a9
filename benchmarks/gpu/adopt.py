"""Take the results of a measured card into the project: documents, and the rates that plans reckon with.

    python benchmarks/gpu/adopt.py /tmp/gpu/results.json
    python benchmarks/gpu/adopt.py /tmp/gpu/results.json --against before

It writes, whole and anew, what lies between the markers in benchmarks/RESULTS.md and docs/tuning.md,
benchmarks/gpu/results.json, and pipeline/workflows/planning/gpu_rates.json, which installed packages carry. A step
that failed or was skipped is said to be so; rates are taken only from steps that were measured.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

from ledger import SCHEMA, read_results

BEGIN, END = "<!-- gpu figures: written by benchmarks/gpu/adopt.py -->", "<!-- end of the gpu figures -->"
RATES = Path("pipeline/workflows/planning/gpu_rates.json")
Row = dict[str, Any]


def whole(value: Any) -> str:
    return "–" if value is None else f"{value:,.0f}"


def plain(value: Any) -> str:
    return "–" if value is None else str(value)


def percent(value: Any) -> str:
    return "–" if value is None else f"{100 * value:.0f} %"


def mib(value: Any) -> str:
    return "–" if value is None else f"{value / 2**20:,.0f}"


def yes(value: Any) -> str:
    return "yes" if value else "no"


@dataclass(frozen=True)
class Table:
    """How the rows of one kind become a table.

    Args:
        keys: headers and fields that tell the rows apart.
        figures: headers, fields and how they are written; the first is the one that is compared.
    """

    title: str
    step: str
    whats: tuple[str, ...]
    keys: tuple[tuple[str, str], ...]
    figures: tuple[tuple[str, str, Callable[[Any], str]], ...]


TABLES = (
    Table("Ceilings: matrix products of 8192", "probe", ("matrix product",),
          (("format", "dtype"),), (("TFLOP/s", "tflops", plain),)),
    Table("Copies", "probe", ("copy on the device", "host to card", "card to host"),
          (("copy", "what"), ("host memory", "memory")), (("GB/s", "gb_per_s", plain),)),
    Table("CLAP: the network alone", "clap", ("tower", "laion_clap's tower", "transformers' tower"),
          (("of", "what"), ("network", "network"), ("format", "dtype"), ("way", "way"), ("clips", "batch")),
          (("audio-s per s", "audio_s_per_s", whole), ("of the bf16 ceiling", "share_of_matmul", percent),
           ("least cosine to float32", "least_cosine", plain), ("peak, MiB", "peak_bytes", mib),
           ("compiled in, s", "compile_s", plain))),
    Table("CLAP: the stage's own call, windows of 10 s every 5 s", "embed", ("embed_tracks",),
          (("network", "network"), ("batch, s", "batch_s"), ("threads", "threads")),
          (("window-audio-s per s", "window_audio_s_per_s", whole), ("track-s per s", "track_audio_s_per_s", whole),
           ("ms per window", "ms_per_window", plain), ("least cosine to float32", "least_cosine", plain),
           ("peak, MiB", "peak_bytes", mib))),
    Table("Separation: the networks alone, as × real time of a long track", "separation",
          ("htdemucs network", "spleeter network", "openunmix network", "htdemucs by apply_model"),
          (("network", "what"), ("format", "dtype"), ("windows", "batch")),
          (("× real time", "times_real_time", plain), ("peak, MiB", "peak_bytes", mib))),
    Table("Separation: the stage's stream", "separation",
          ("htdemucs stream", "spleeter stream", "openunmix stream"),
          (("stream", "what"), ("format", "dtype"), ("windows", "batch"), ("stems to the host", "stems_to_host")),
          (("× real time", "times_real_time", plain), ("SI-SDR to apply_model, dB", "si_sdr_to_apply_model_db", plain),
           ("peak, MiB", "peak_bytes", mib))),
    Table("All extractors on one CPU core", "descriptors", ("all extractors on one core",),
          (("tracks", "tracks"), ("of, s", "seconds_each")), (("× real time", "times_real_time", plain),)),
    Table("Decoding, three views", "decode", ("decoder",), (("processes", "processes"),),
          (("× real time", "times_real_time", whole), ("of each", "times_real_time_per_process", whole),
           ("started in, s", "start_s", plain))),
    Table("The main job, files of 30 s", "job", ("job",), (("files", "files"), ("separation", "separation")),
          (("× real time", "times_real_time", plain), ("from the first block, s", "wall_s", plain),
           ("in the shell, s", "shell_s", plain), ("card busy while used", "busy_share_while_used", percent),
           ("of the shell's time", "busy_share_of_shell", percent))),
)  # fmt: skip
MEMORY = Table(
    "Memory of a card",
    "memory",
    ("memory",),
    (("network", "network"), ("format", "dtype")),
    (("weights, MiB", "resident_bytes", mib), ("per window in a batch, MiB", "bytes_per_item", mib)),
)


def rows_of(rows: Sequence[Row], table: Table) -> list[Row]:
    """The rows of a table that were measured."""
    kept = [r for r in rows if r["step"] == table.step and r["what"] in table.whats]
    return [r for r in kept if r.get(table.figures[0][1]) is not None]


def table_lines(rows: Sequence[Row], table: Table, before: Sequence[Row] = (), label: str = "") -> list[str]:
    """Markdown; nothing where nothing was measured. Columns without a figure are left out."""
    found = rows_of(rows, table)
    if not found:
        return []
    keys = [k for k in table.keys if any(r.get(k[1]) is not None for r in found)]
    figures = [f for f in table.figures if any(r.get(f[1]) is not None for r in found)]
    key_of = lambda row: tuple(row.get(field) for _, field in table.keys)  # noqa: E731
    known = {key_of(row): row for row in rows_of(before, table)}
    heads = [head for head, _ in keys] + [head for head, _, _ in figures]
    marks = ["---"] * len(keys) + ["---:"] * len(figures)
    if known:
        heads.append(f"{figures[0][0]}, {label}")
        marks.append("---:")
    lines = [f"| {' | '.join(heads)} |", f"| {' | '.join(marks)} |"]
    for row in found:
        cells = [yes(row[f]) if isinstance(row.get(f), bool) else plain(row.get(f)) for _, f in keys]
        cells += [write(row.get(field)) for _, field, write in figures]
        if known:
            cells.append(figures[0][2](known.get(key_of(row), {}).get(figures[0][1])))
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def machine_words(rows: Sequence[Row], about: Mapping[str, Any]) -> str:
    """Date, card, versions."""
    found = next((r for r in rows if r["what"] == "machine"), {})
    where = f"{found.get('card', 'an unknown card')}, {found.get('cpus', '?')} CPU cores"
    versions = ", ".join(
        f"{name} {found[name]}" for name in ("python", "torch", "numpy", "pyarrow") if name in found
    )
    music = "excerpts of songs" if about.get("music") == "songs" else "synthetic songs"
    known = [f"{about.get('date', 'undated')}, {where}", versions, f"random weights, {music}"]
    return "; ".join(filter(None, known)) + "."


def problems(rows: Sequence[Row]) -> list[str]:
    """What failed or was left out, a line each."""
    lines = []
    for row in rows:
        for kind in ("error", "skipped"):
            if row.get(kind):
                lines.append(f"- {row['step']}, {row['what']}: {kind}: {' '.join(str(row[kind]).split())}")
    return list(dict.fromkeys(lines))


def results_section(
    rows: Sequence[Row], about: Mapping[str, Any], before: Sequence[Row], label: str
) -> list[str]:
    """The section of RESULTS.md."""
    lines = ["## On a GPU", "", machine_words(rows, about), "", "```"]
    lines += ["python benchmarks/gpu/measure.py --device cuda --out OUT", "```"]
    for table in (*TABLES, MEMORY):
        found = table_lines(rows, table, before, label)
        if found:
            lines += ["", f"{table.title}:", "", *found]
    for row in rows:
        if row["what"] == "absurd batch" and "failed" in row:
            lines += ["", f"A batch of 10,000 clips where {mib(row['limit_bytes'])} MiB are allowed: {row['failed']} "
                      f"tracks failed, least cosine {row['least_cosine']}, batches of "
                      f"{', '.join(map(str, row['batches']))}."]  # fmt: skip
        if row["step"] == "tests" and "exit_code" in row:
            counts = ", ".join(f"{row[n]} {n}" for n in ("passed", "failed", "skipped") if n in row)
            lines += ["", f"Tests that need a card: {counts or 'none ran'}."]
            lines += (
                [f"Failing: {', '.join(f'`{name}`' for name in row['failing'])}."] if row["failing"] else []
            )
    lines += job_words(rows)
    said = problems(rows)
    return lines + (["", "Not measured:", "", *said] if said else [])


def job_words(rows: Sequence[Row]) -> list[str]:
    """Where the seconds of the largest job with and without separation went."""
    lines: list[str] = []
    for separation in ("none", "htdemucs"):
        jobs = [
            r for r in rows if r["what"] == "job" and r.get("separation") == separation and r.get("stages")
        ]
        if jobs:
            row = max(jobs, key=lambda r: r["files"])
            stages = sorted(row["stages"].items(), key=lambda item: -item[1]["compute_s"])[:8]
            said = ", ".join(f"{name} {s['compute_s']:.1f} ({s['device']})" for name, s in stages)
            lines += ["", f"{row['files']} files, separation {separation}, seconds in the stages: {said}."]
            parts = (row.get("gpu") or {}).get("stages", {})
            for name, s in parts.items():
                lines[-1] += (
                    f" {name} had work on the card for {s['device_s']:.1f} s, prepared for {s['host_s']:.1f} s "
                )
                lines[-1] += f"and waited for {s['starved_s']:.1f} s."
    return lines


# Name, fields by which a row is recognised, the figure and its unit; the fastest row counts.
SPEED = ("times_real_time", "× real time")
WINDOWS = ("window_audio_s_per_s", "window-seconds per second")
PICKS: tuple[tuple[str, dict[str, Any], tuple[str, str]], ...] = (
    ("CLAP, one thread", {"what": "embed_tracks", "threads": 1}, WINDOWS),
    ("CLAP, eight threads", {"what": "embed_tracks", "threads": 8}, WINDOWS),
    ("htdemucs, statistics only", {"what": "htdemucs stream", "stems_to_host": False}, SPEED),
    ("htdemucs, stems to the host", {"what": "htdemucs stream", "stems_to_host": True}, SPEED),
    ("Spleeter, statistics only", {"what": "spleeter stream", "stems_to_host": False}, SPEED),
    ("Open-Unmix, statistics only", {"what": "openunmix stream", "stems_to_host": False}, SPEED),
    ("the job without separation", {"what": "job", "separation": "none"}, SPEED),
    ("the job with htdemucs", {"what": "job", "separation": "htdemucs"}, SPEED),
)


def tuning_section(rows: Sequence[Row], about: Mapping[str, Any]) -> list[str]:
    """The figures of docs/tuning.md."""
    lines, body = ["## How fast a card is", "", machine_words(rows, about)], []
    for name, marks, (field, unit) in PICKS:
        best = fastest([r for r in rows if marks.items() <= {k: r.get(k) for k in marks}.items()], field)
        if best is None:
            continue
        found = [str(best[k]) for k in ("network", "dtype") if k in best]
        sizes = {"batch": "batches of {} windows", "batch_s": "batches of {} s", "files": "{} files"}
        found += [text.format(best[k]) for k, text in sizes.items() if k in best]
        body.append(f"| {name} | {whole(best[field])} {unit} | {', '.join(found)} |")
    if body:
        lines += ["", "| what | figure | with |", "| --- | ---: | --- |", *body]
    memory = table_lines(rows, MEMORY)
    if memory:
        lines += ["", "What a stage needs of a card, besides the CUDA context:", "", *memory]
    return lines


def fastest(rows: Sequence[Row], field: str) -> Row | None:
    """The row with the largest figure."""
    found = [r for r in rows if r.get(field) is not None]
    return max(found, key=lambda r: r[field], default=None)


def rates(rows: Sequence[Row], about: Mapping[str, Any]) -> dict[str, Any]:
    """What a plan reckons with where it has no card to try: the stages' own calls."""
    machine = next((r for r in rows if r["what"] == "machine"), {})
    clap: dict[str, float] = {}
    for row in rows:
        if row["step"] == "embed" and row.get("window_audio_s_per_s"):
            clap[row["network"]] = max(clap.get(row["network"], 0.0), row["window_audio_s_per_s"] / 10)
    separation: dict[str, float] = {}
    for backend, what in (("demucs", "htdemucs"), ("spleeter", "spleeter"), ("openunmix", "openunmix")):
        best = fastest(
            [r for r in rows if r["what"] == f"{what} stream" and not r.get("stems_to_host")],
            "times_real_time",
        )
        if best is not None:
            separation[backend] = best["times_real_time"]
    return {
        "card": machine.get("card"),
        "date": about.get("date"),
        "clap_windows_per_s": clap,
        "separation_times_real_time": separation,
    }


def between_markers(text: str, lines: Sequence[str]) -> str:
    """``text`` with ``lines`` in place of what is between its markers; at its end where it has none."""
    body = "\n".join([BEGIN, "", *lines, "", END])
    if BEGIN not in text or END not in text:
        return f"{text.rstrip()}\n\n{body}\n"
    return text[: text.index(BEGIN)] + body + text[text.index(END) + len(END) :]


def adopt(content: Mapping[str, Any], label: str, against: str, root: Path) -> list[Path]:
    """Write all files below ``root``; returns them."""
    about = content.get("about", {}).get(label, {})
    rows = [r for r in content["rows"] if r["label"] == label]
    before = [r for r in content["rows"] if against and r["label"] == against]
    sections = {
        root / "benchmarks" / "RESULTS.md": results_section(rows, about, before, against),
        root / "docs" / "tuning.md": tuning_section(rows, about),
    }
    for path, lines in sections.items():
        path.write_text(between_markers(path.read_text(), lines))
    labels = {label, against}
    kept = {
        "schema": SCHEMA,
        "about": {k: v for k, v in content.get("about", {}).items() if k in labels},
        "rows": [r for r in content["rows"] if r["label"] in labels],
    }
    written = [*sections]
    for path, value in ((root / "benchmarks/gpu/results.json", kept), (root / RATES, rates(rows, about))):
        path.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n")
        written.append(path)
    return written


def main(argv: Sequence[str] | None = None) -> int:
    """Parse the command line and write."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("results", type=Path, help="of benchmarks/gpu/measure.py")
    parser.add_argument("--label", default="now", help="whose rows are adopted")
    parser.add_argument("--against", default="", help="label whose figures stand beside them")
    parser.add_argument("--root", type=Path, default=HERE.parents[1], help="checkout to write into")
    parser.add_argument(
        "--rehearsal", action="store_true", help="even figures of a rehearsal, which mean nothing"
    )
    options = parser.parse_args(argv)
    content = read_results(options.results)
    about = content.get("about", {})
    for label in filter(None, (options.label, options.against)):
        if not any(r["label"] == label for r in content["rows"]):
            parser.error(f"{options.results} has no rows of {label}: there are {', '.join(about) or 'none'}")
        if about.get(label, {}).get("rehearsal") and not options.rehearsal:
            parser.error(f"{label} is a rehearsal on a CPU: its figures mean nothing")
    for path in adopt(content, options.label, options.against, options.root):
        print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
