"""What the shell waits for besides the work: a timeline of a run, from its start in the shell to its return.

    python benchmarks/starting.py --files 24 -- {clap,separation,tags,beats}.enabled=false

Every moment comes from what the run itself left behind: its log, ``performance.json``, and the times of the parts of
`tracks`. ``--tree`` runs another checkout of the project, so that figures before and after a change come from one call
on one machine; what an older one does not say is ``–``.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import soundfile

MOMENTS = (
    ("imports", "interpreter and imports"),
    ("config", "config composed and checked"),
    ("models", "inputs listed, models found"),
    ("start", "run folder and lock"),
    ("ray", "Ray is up"),
    ("plan", "graph planned"),
    ("actors", "an actor of every stage is up"),
    ("all_actors", "all actors are up"),
    ("first_row", "first row committed"),
    ("last_row", "last row committed"),
    ("done", "tables closed, report written"),
    ("returned", "the shell has its prompt back"),
)


def make_files(audio: Path, folder: Path, count: int, seconds: float) -> None:
    """Cut ``count`` FLACs of ``seconds`` from the songs below ``audio``, each from another place."""
    songs = [soundfile.read(path, dtype="float32") for path in sorted(audio.rglob("song.ogg"))]
    if not songs:
        raise SystemExit(f"no song.ogg below {audio}")
    for number in range(count):
        samples, rate = songs[number % len(songs)]
        length = int(seconds * rate)
        start = int(number * 7.31 * rate) % max(1, len(samples) - length)
        soundfile.write(folder / f"{number:04d}.flac", samples[start : start + length], rate)


def timed_run(tree: Path, source: Path, output: Path, overrides: list[str]) -> dict[str, Any]:
    """Run the main job of ``tree`` once: moments in seconds since the shell's start, and the run's own numbers."""
    shutil.rmtree(output, ignore_errors=True)
    command = [
        sys.executable,
        "jobs/extract_features.py",
        f"source.uri={source}",
        f"output.uri={output}",
        "ray.address=local",  # so little work would be done without Ray
        *overrides,
    ]
    started = time.time()
    done = subprocess.run(command, cwd=tree, capture_output=True, text=True)  # noqa: S603
    returned = time.time()
    if done.returncode:
        raise SystemExit(f"exit code {done.returncode}\n{done.stderr}")
    [folder] = (f for f in (output / "runs").iterdir() if f.is_dir())
    numbers = json.loads((folder / "performance.json").read_text())
    seen = {**moments(output, folder, numbers), "returned": returned}
    return {
        "moments": {name: at - started for name, at in seen.items()},
        "shell_s": returned - started,
        "wall_s": numbers["wall_s"],
        "beyond_s": returned - started - numbers["wall_s"],
        "compute_s": {
            name: stage["compute_s"] for name, stage in numbers["stages"].items() if "." not in name
        },
        "actors": numbers.get("actors", {}),
        "audio_s": numbers["audio_s"],
        "pools": pools(folder),
    }


def log_of(folder: Path) -> list[dict[str, Any]]:
    """The lines of a run's log."""
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def pools(folder: Path) -> dict[str, int]:
    """Stage → size of its pool."""
    [plan] = (line for line in log_of(folder) if line["event"] == "plan" and "resources" in line)
    return {name: share["actors"] for name, share in plan["resources"].items()}


def moments(output: Path, folder: Path, numbers: dict[str, Any]) -> dict[str, float]:
    """Name of a moment → Unix time, as far as the run told."""
    found: dict[str, float] = dict(numbers.get("moments", {}))
    for line in log_of(folder):
        name = {"start": "start", "plan": "plan", "report": "done"}.get(line["event"])
        if line["event"] == "device" and "cpus" in line:
            name = "ray" if "ray" not in found else None
        if name:
            found[name] = datetime.datetime.fromisoformat(line["time"]).timestamp()
    parts = sorted(part.stat().st_mtime for part in (output / "tracks").glob("*.parquet"))
    found["first_row"], found["last_row"] = parts[0], parts[-1]
    ready: dict[str, list[float]] = {}
    for process in numbers["processes"]:
        if process.get("ready_at"):
            ready.setdefault(process["stage"], []).append(process["ready_at"])
    if ready:
        found["actors"] = max(min(times) for times in ready.values())
        found["all_actors"] = max(max(times) for times in ready.values())
    return found


def print_timeline(runs: list[dict[str, Any]]) -> None:
    """The medians of all runs: when each moment was, and what had passed since the one before."""
    print("| moment | at, s | took, s |\n| --- | ---: | ---: |")
    before = 0.0
    for name, label in MOMENTS:
        times = [run["moments"][name] for run in runs if name in run["moments"]]
        if not times:
            print(f"| {label} | – | – |")
            continue
        at = statistics.median(times)
        print(f"| {label} | {at:.1f} | {at - before:.1f} |")
        before = at
    shell, wall, beyond = (
        ", ".join(f"{run[name]:.1f}" for run in runs) for name in ("shell_s", "wall_s", "beyond_s")
    )
    print(f"\nshell {shell} s; work (wall_s of the run) {wall} s; beyond the work {beyond} s")
    pool = ", ".join(f"{name}×{count}" for name, count in runs[-1]["pools"].items())
    print(f"pools {pool}")
    for name, seconds in runs[-1]["compute_s"].items():
        actor = runs[-1]["actors"].get(name, {})
        text = f"{name}: {seconds:.2f} s of compute, {runs[-1]['audio_s'] / seconds:.0f}× real time per actor"
        if actor.get("startup_s") is not None:
            text += (
                f"; starting {actor['startup_s']:.1f} s in all, {actor['startup_max_s']:.1f} s the slowest"
            )
        print(text)


def main() -> None:
    """Cut the files, run, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--audio", type=Path, default=Path("../shared/audio/music"))
    parser.add_argument("--source", type=Path, help="a folder of files as they are, instead of cutting some")
    parser.add_argument("--files", type=int, default=24)
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument(
        "--tree", type=Path, action="append", help="a checkout to run; several take turns; default: this one"
    )
    parser.add_argument("overrides", nargs="*", help="for the job, after --")
    options = parser.parse_args()
    trees = [tree.resolve() for tree in options.tree or [Path(__file__).resolve().parents[1]]]
    root = Path(tempfile.mkdtemp(prefix="starting-"))
    runs: dict[Path, list[dict[str, Any]]] = {tree: [] for tree in trees}
    try:
        source = options.source
        if source is None:
            source = root / "in"
            source.mkdir()
            make_files(options.audio, source, options.files, options.seconds)
        for _ in range(options.repeats):
            for tree in trees:
                runs[tree].append(timed_run(tree, source.resolve(), root / "out", options.overrides))
    finally:
        shutil.rmtree(root)
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    print(f"{os.cpu_count()} cores, load {load}; {' '.join(options.overrides)}")
    for tree, found in runs.items():
        print(f"\n{tree}\n")
        print_timeline(found)


if __name__ == "__main__":
    main()
