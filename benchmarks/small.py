"""Small jobs from the shell, in one process and with Ray: where they cross.

    python benchmarks/small.py                         # made-up music
    python benchmarks/small.py --audio ../shared/audio # cuts of real songs
    python benchmarks/small.py --files 1 4 --once      # does it work?

Each row is the wall time of ``python jobs/extract_features.py``, from the shell's prompt to the next one, over so many
FLACs: the ten extractors, then Spleeter beside them where its weights are in the store. Both drivers take turns.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import soundfile
from starting import make_files

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
from pipeline.models import weights

RATE = 44100
DRIVERS = ("inline", "local")
TEN = ("stages=[]",)
SPLEETER = ("stages=[separation]", "separation.backends=[spleeter]")


def make_up_files(folder: Path, count: int, seconds: float) -> None:
    """Chords on a beat with noise beneath, stereo; no two files are alike."""
    clock = np.arange(round(seconds * RATE)) / RATE
    for number in range(count):
        rng = np.random.default_rng(number)
        root = 110.0 * 2 ** (number % 12 / 12)
        chord = sum(np.sin(2 * np.pi * root * r * n * clock) / n for r in (1, 1.26, 1.5) for n in (1, 2, 3))
        beat = np.exp(-(clock % (60 / (90 + number))) / 0.05)
        noise = rng.normal(size=(2, clock.size))
        soundfile.write(folder / f"{number:04d}.flac", (0.08 * chord * beat + 0.02 * noise).T, RATE)


def timed(source: Path, output: Path, driver: str, keys: Sequence[str]) -> float:
    """Wall seconds of one command; leaves if it fails."""
    command = [
        sys.executable, "jobs/extract_features.py", f"source.uri={source}", f"output.uri={output}",
        "output.overwrite=true", f"ray.address={driver}", *keys,
    ]  # fmt: skip
    started = time.perf_counter()
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)  # noqa: S603
    seconds = time.perf_counter() - started
    if done.returncode:
        raise SystemExit(f"exit code {done.returncode} of {' '.join(command)}\n{done.stderr}")
    return seconds


def crossing(counts: Sequence[int], inline: Sequence[float], ray: Sequence[float]) -> str:
    """Where the two lines cross, in files; between two counts as straight as can be."""
    apart = [mine - other for mine, other in zip(inline, ray, strict=True)]
    for n in range(1, len(counts)):
        if apart[n - 1] < 0 <= apart[n]:
            share = -apart[n - 1] / (apart[n] - apart[n - 1])
            return f"they cross at about {counts[n - 1] + share * (counts[n] - counts[n - 1]):.0f} files"
    return "one process is quicker throughout" if apart[-1] < 0 else "Ray is quicker throughout"


def main() -> None:
    """Measure and print Markdown tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--audio", type=Path, help="folder with song.ogg files to cut; without one music is made up"
    )
    parser.add_argument("--files", type=int, nargs="+", default=[1, 4, 16, 64])
    parser.add_argument("--seconds", type=float, default=25.0, help="of audio in a file")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--once", action="store_true", help="one run of each, the ten extractors only")
    options = parser.parse_args()
    jobs = {"ten extractors": TEN}
    if not options.once and weights.find("spleeter-2stems") is not None:
        jobs["ten extractors and Spleeter"] = SPLEETER
    print(f"{os.cpu_count()} cores, {platform.machine()}, files of {options.seconds:g} s")
    with tempfile.TemporaryDirectory(prefix="small-") as root:
        source, output = Path(root) / "in", Path(root) / "out"
        source.mkdir()
        make = make_up_files if options.audio is None else lambda *given: make_files(options.audio, *given)
        make(source, max(options.files), options.seconds)
        for name, keys in jobs.items():
            table = measure(source, output, options, keys)
            print(f"\n{name}\n\n| files | one process, s | Ray, s |\n| ---: | ---: | ---: |")
            for count, row in zip(options.files, zip(*table, strict=True), strict=True):
                print(f"| {count} | {row[0]:.1f} | {row[1]:.1f} |")
            print(f"\n{crossing(options.files, *table)}", flush=True)


def measure(
    source: Path, output: Path, options: argparse.Namespace, keys: Sequence[str]
) -> list[list[float]]:
    """Median wall seconds for each count of files, of each driver."""
    table: list[list[float]] = [[] for _ in DRIVERS]
    for count in options.files:
        taken: dict[str, list[float]] = {driver: [] for driver in DRIVERS}
        for _ in range(1 if options.once else options.repeats):
            for driver in DRIVERS:
                taken[driver].append(timed(source, output, driver, [*keys, f"source.limit={count}"]))
        for column, driver in zip(table, DRIVERS, strict=True):
            column.append(statistics.median(taken[driver]))
    return table


if __name__ == "__main__":
    main()
