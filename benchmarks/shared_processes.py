"""Stages that share processes under Ray, and those that have one each: wall time, processes, memory of all together.

    python benchmarks/shared_processes.py --audio ../shared/audio    # all files below
    python benchmarks/shared_processes.py --audio out/demo/audio

Memory is the proportional set size of the whole tree of processes (a page that several share counts once), sampled
twice a second; processes are those that have a stage. The ten extractors, and Spleeter where its weights are here.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parents[1]


def main() -> None:
    """Measure and print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--audio", type=Path, required=True, help="folder with audio files")
    parser.add_argument("--repeats", type=int, default=1)
    options = parser.parse_args()
    print(
        "| ray.groups | from the shell, s | first block to last receipt, s | processes with a stage | memory, GB |"
    )
    print("| --- | ---: | ---: | ---: | ---: |")
    for _ in range(options.repeats):
        for groups in ("off", "auto"):
            with tempfile.TemporaryDirectory(prefix="groups-") as output:
                print(line(groups, *measured(options.audio, Path(output) / "out", groups)), flush=True)


def line(groups: str, wall_s: float, peak: int, numbers: dict) -> str:
    """A row of the table."""
    pids = {process["pid"] for process in numbers["processes"]}
    return f"| {groups} | {wall_s:.1f} | {numbers['wall_s']:.1f} | {len(pids)} | {peak / 1e9:.2f} |"


def measured(audio: Path, output: Path, groups: str) -> tuple[float, int, dict]:
    """Seconds and peak bytes of a run, and its ``performance.json``."""
    command = [
        sys.executable, "jobs/extract_features.py", f"source.uri={audio.resolve()}", f"output.uri={output}",
        "ray.address=local", f"ray.groups=[{groups}]", "stages=[separation]",
        "separation.backends=[spleeter,midside]",
    ]  # fmt: skip
    started, peak = time.perf_counter(), 0
    with tempfile.TemporaryFile() as errors:
        job = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=errors)  # noqa: S603
        while job.poll() is None:
            peak = max(peak, sum(memory(job.pid)))
            time.sleep(0.5)
        if job.returncode:
            errors.seek(0)
            raise SystemExit(f"exit code {job.returncode}: {errors.read().decode()[-2000:]}")
    wall_s = time.perf_counter() - started
    [path] = output.glob("runs/*/performance.json")
    return wall_s, peak, json.loads(path.read_text())


def memory(pid: int) -> Iterator[int]:
    """Proportional set size of a process and of all that descend from it, in bytes."""
    with suppress(psutil.Error):
        job = psutil.Process(pid)
        for process in (job, *job.children(recursive=True)):
            with suppress(psutil.Error, OSError):
                yield process.memory_full_info().pss


if __name__ == "__main__":
    main()
