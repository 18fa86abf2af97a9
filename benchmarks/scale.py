"""Very many tiny files on local Ray: is the cost of a file flat, what does the driver take, how fast is nothing to do?

    python benchmarks/scale.py --files 100000
    python benchmarks/scale.py --files 2000 --features loudness,quality       # a quick look

The files are noise of a tenth of a second, 8 kHz mono WAV, all of one size and each with its own content: the worst
case for telling equal files apart. Deciles are of the files as they were committed; the first is counted from the
first committed file, when all actors are up. Then the same command three times again, which finds nothing to do.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

REPO = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPO))

import numpy as np
import soundfile

RATE, SAMPLES, PER_FOLDER = 8000, 800, 1000


def write_files(folder: Path, count: int) -> None:
    """``count`` files of different noise, a thousand to a folder."""
    rng = np.random.default_rng(0)
    for number in range(count):
        place = folder / f"{number // PER_FOLDER:05d}"
        if number % PER_FOLDER == 0:
            place.mkdir(parents=True)
        noise = rng.integers(-8000, 8000, SAMPLES, dtype=np.int16)
        soundfile.write(place / f"{number:08d}.wav", noise, RATE)


def rss_bytes(pid: int) -> int:
    """Resident memory of a process; 0 where it has ended, and is a zombie or gone."""
    status = Path(f"/proc/{pid}/status")
    for line in status.read_text().splitlines() if status.exists() else ():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    return 0


def run(source: Path, output: Path, features: str) -> tuple[float, list[tuple[float, int, int]]]:
    """Wall seconds of a job, and (seconds, files committed, driver's memory) as it went."""
    command = [
        sys.executable, "jobs/extract_features.py", f"source.uri={source}", f"output.uri={output}",
        "stages=[]",
    ]  # fmt: skip
    if features:
        command.append(f"features.enabled=[{features}]")
    started, seen = time.perf_counter(), []
    process = subprocess.Popen(command, cwd=REPO, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # noqa: S603
    while process.returncode is None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(1.0)
        seen.append((time.perf_counter() - started, committed(output), rss_bytes(process.pid)))
    wall = seen[-1][0]
    if process.returncode:
        raise SystemExit(f"the job ended with exit code {process.returncode}")
    return wall, seen


def committed(output: Path) -> int:
    """Files that the log of the newest run says are committed."""
    runs = sorted((output / "runs").glob("2*/log.jsonl")) if (output / "runs").exists() else []
    done = 0
    for line in runs[-1].read_text().splitlines() if runs else ():
        if '"event": "progress"' in line:
            done = json.loads(line)["files_done"]
    return done


def deciles(seen: list[tuple[float, int, int]], files: int) -> list[float]:
    """Milliseconds per file in each tenth of the files, interpolated between progress lines."""
    times, counts = [], []
    for seconds, count, _ in seen:
        if count and (not counts or count > counts[-1]):
            times.append(seconds)
            counts.append(count)
    edges = np.linspace(counts[0], min(files, counts[-1]), 11)
    at = np.interp(edges, counts, times)
    return list(np.diff(at) / np.diff(edges) * 1000)


def print_again(root: Path, options: argparse.Namespace) -> None:
    """Run the same command three times more, which finds nothing to do."""
    runs = [run(root / "in", root / "out", options.features) for _ in range(3)]
    if any(seen[-1][1] for _, seen in runs):
        raise SystemExit(f"{root} was not finished: now it is, once more")
    took = sorted(wall for wall, _ in runs)
    print(f"- with nothing to do: {took[1]:.2f} s from the shell ({took[0]:.2f} to {took[2]:.2f}), "
          f"{options.files / took[1]:.0f} files checked per second")  # fmt: skip


def main() -> None:
    """Write the files, run twice, print the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--files", type=int, default=100_000)
    parser.add_argument("--features", default="", help="all by default; example: --features loudness,quality")
    parser.add_argument(
        "--folder", type=Path, help="an empty one, which is kept; a filled one is only run again"
    )
    options = parser.parse_args()
    root = options.folder.resolve() if options.folder else Path(tempfile.mkdtemp(prefix="scale-"))
    try:
        if (root / "out").exists():
            print_again(root, options)  # says so itself if there is something to do
            return
        write_files(root / "in", options.files)
        wall, seen = run(root / "in", root / "out", options.features)
        each = deciles(seen, options.files)
        memory = [m for _, count, m in seen if count and m]
        grown = (memory[-1] - memory[0]) / max(1, seen[-1][1] - next(c for _, c, _ in seen if c))
        parts = len(list((root / "out" / "tracks").glob("*.parquet")))
        print("| files | wall, s | ms per file, by decile of the run | last / first |")
        print("| ---: | ---: | --- | ---: |")
        row = ", ".join(f"{ms:.2f}" for ms in each)
        print(f"| {options.files} | {wall:.0f} | {row} | {each[-1] / each[0]:.2f} |\n")
        print(f"- driver: {memory[0] >> 20} MiB at the first committed file, {memory[-1] >> 20} MiB at the end, "
              f"{grown:.0f} bytes per file")  # fmt: skip
        print(f"- parts of tracks: {parts}")
        print_again(root, options)
    finally:
        if not options.folder:
            shutil.rmtree(root, ignore_errors=True)


if __name__ == "__main__":
    main()
