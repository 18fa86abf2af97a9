"""The main job on files of hours: memory of every process against a file of minutes, and a whole against its halves.

    python benchmarks/long_files.py --audio ../shared/audio/music --minutes 600 --mp3-minutes 180
    python benchmarks/long_files.py --minutes 30 --mp3-minutes 20                     # a quick look

FLAC and MP3 files of the songs one after the other, worked on by all extractors, one file per job. Memory is sampled
five times a second from all processes that the job started, the decoder's among them. Then a file is worked on whole
and in two halves: means over frames are averaged by length, peaks are the larger one.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

REPO = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(REPO), str(REPO / "benchmarks")]

import numpy as np
import pyarrow.parquet as pq
import soundfile
from long_track import RATE, SUFFIXES, write

SHORT_MINUTES = 5.0


def kind(command: str) -> str:
    """What a process of the job is, by its command line."""
    for mark, name in (
        ("DecodeWorker", "decode actor"),
        ("FeaturesWorker", "features actor"),
        ("SinkWorker", "write actor"),
        ("isolated_child", "decoder"),
        ("extract_features.py", "driver"),
    ):
        if mark in command:
            return name
    return "Ray"


def sample(driver: int, peaks: dict[str, int]) -> None:
    """Note the peak resident set of the driver and all its descendants, by kind."""
    parents, found = {}, {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            status = (folder / "status").read_text()
            fields = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
            parents[int(fields["Pid"])] = int(fields["PPid"])
            command = (folder / "cmdline").read_text().replace("\0", " ")
            found[int(fields["Pid"])] = (kind(command), int(fields["VmHWM"].split()[0]) * 1024)
        except (OSError, KeyError, ValueError):
            continue
    for pid, (name, peak) in found.items():
        ancestor = pid
        while ancestor > 1 and ancestor != driver:
            ancestor = parents.get(ancestor, 0)
        if ancestor == driver:
            peaks[name] = max(peaks.get(name, 0), peak)


def run(files: list[Path], output: Path) -> tuple[float, dict[str, int], list[dict]]:
    """Wall seconds of a job over ``files``, peak memory by kind of process, and the rows in order of name."""
    folder = output.with_suffix(".in")
    folder.mkdir()
    for file in files:
        (folder / file.name).symlink_to(file)
    listing = folder / "list.csv"
    listing.write_text("uri\n" + "".join(f"{f}\n" for f in files))
    command = [
        sys.executable, "jobs/extract_features.py", f"source.manifest={listing}", f"output.uri={output}",
        "stages=[]", "blobs.names=[]",
    ]  # fmt: skip
    started, peaks = time.perf_counter(), {}
    process = subprocess.Popen(command, cwd=REPO, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)  # noqa: S603
    while process.poll() is None:
        sample(process.pid, peaks)
        time.sleep(0.2)
    if process.returncode:
        raise SystemExit(f"exit code {process.returncode}: {process.stderr.read().decode()[-1000:]}")
    rows = pq.read_table(output / "tracks").sort_by("uri").to_pylist()
    if any(row["status"] != "ok" for row in rows):
        raise SystemExit("not all files are ok")
    return time.perf_counter() - started, peaks, rows


def to_mp3(flac: Path, target: Path) -> None:
    """The same audio as MP3."""
    with soundfile.SoundFile(flac) as source, soundfile.SoundFile(target, "w", RATE, 2, format="MP3") as out:
        for block in source.blocks(RATE * 60, dtype="float32"):
            out.write(block)


def halves(flac: Path, folder: Path) -> list[Path]:
    """The first and the second half of a file."""
    with soundfile.SoundFile(flac) as source:
        middle = len(source) // 2
        paths = [folder / "half1.flac", folder / "half2.flac"]
        for path, count in zip(paths, (middle, len(source) - middle), strict=True):
            with soundfile.SoundFile(path, "w", RATE, 2) as out:
                while count:
                    block = source.read(min(count, RATE * 60), dtype="float32")
                    out.write(block)
                    count -= len(block)
    return paths


def compare(whole: dict, parts: list[dict]) -> list[tuple[str, float]]:
    """Largest difference between a whole and its halves, by column."""
    weights = np.array([p["duration_s"] for p in parts])

    def mean(name: str) -> np.ndarray:
        return np.average([np.asarray(p[name], float) for p in parts], axis=0, weights=weights)

    found = []
    for name in ("mel_mean", "mfcc_mean", "spectral_centroid_mean_hz", "hpss_harmonic_share"):
        found.append((name, float(np.abs(np.asarray(whole[name], float) - mean(name)).max())))
    for name in ("loudness_true_peak_dbtp", "loudness_sample_peak_dbfs"):
        found.append((name, abs(whole[name] - max(p[name] for p in parts))))
    power = np.average([10 ** (p["loudness_integrated_lufs"] / 10) for p in parts], weights=weights)
    found.append(("loudness_integrated_lufs", abs(whole["loudness_integrated_lufs"] - 10 * np.log10(power))))
    return found


def measure_memory(songs: list[Path], root: Path, options: argparse.Namespace) -> None:
    """A short file and two long ones, each in a job of its own: print the table."""
    measured = {}
    for name, minutes in (
        ("flac", SHORT_MINUTES),
        ("flac", options.minutes),
        ("mp3", options.mp3_minutes),
    ):
        file = root / f"{minutes:g}.flac"
        write(songs, file, 60 * minutes)
        if name == "mp3":
            to_mp3(file, file.with_suffix(".mp3"))
            file.unlink()
            file = file.with_suffix(".mp3")
        measured[f"{minutes:g} min {name}"] = run([file], root / f"out-{minutes:g}-{name}")
        file.unlink()
    first = next(iter(measured))
    print("| file | wall, s | " + " | ".join(f"{k}, MiB" for k in sorted(measured[first][1])) + " |")
    print("| --- | ---: |" + " ---: |" * len(measured[first][1]))
    for name, (wall, peaks, _) in measured.items():
        cells = [
            f"{peaks.get(k, 0) >> 20} ({peaks.get(k, 0) / measured[first][1][k]:.2f}×)"
            for k in sorted(measured[first][1])
        ]
        print(f"| {name} | {wall:.0f} | {' | '.join(cells)} |")


def main() -> None:
    """Write the files, run the jobs, print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--audio", type=Path, default=Path("../shared/audio/music"))
    parser.add_argument("--minutes", type=float, default=600)
    parser.add_argument("--mp3-minutes", type=float, default=180)
    parser.add_argument("--halves-minutes", type=float, default=20, help="of the file that is halved")
    parser.add_argument("--only-halves", action="store_true", help="compare halves, measure no memory")
    options = parser.parse_args()
    songs = sorted(p for p in options.audio.rglob("*") if p.suffix.lower() in SUFFIXES)
    if not songs:
        raise SystemExit(f"no audio below {options.audio}; pass --audio FOLDER")
    root = Path(tempfile.mkdtemp(prefix="long-files-"))
    try:
        if not options.only_halves:
            measure_memory(songs, root, options)
        whole = root / "whole.flac"
        write(songs, whole, 60 * options.halves_minutes)
        _, _, [row] = run([whole], root / "out-whole")
        _, _, parts = run(halves(whole, root), root / "out-halves")
        print(f"\n{options.halves_minutes:g} min whole and in two halves, largest difference:\n")
        for name, difference in compare(row, parts):
            print(f"- {name}: {difference:.2g}")
    finally:
        shutil.rmtree(root, ignore_errors=True)


if __name__ == "__main__":
    main()
