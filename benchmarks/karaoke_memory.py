"""Peak memory of the karaoke job by the length of the song and the format of the file, as Markdown tables.

    python benchmarks/karaoke_memory.py                            # 5, 23, 40 minutes and 3 hours; an hour per format
    python benchmarks/karaoke_memory.py --minutes 5 180 --formats
    python benchmarks/karaoke_memory.py --minutes 5 60 --formats --method spleeter

The job runs without Ray, with centre extraction unless another method is named, and one song per run. Memory is the
largest sum of the proportional set sizes (a page that several processes share counts once) of the process and its
children, looked at five times a second; temporary files are not in it. Songs are synthetic stereo FLAC at 44.1 kHz:
drums, chords and a formant voice, the same half minute again and again. What travels between stages lies in memory up
to hardware.max_track_bytes (1.5 GB of views, 23 minutes); a longer song is read in pieces. Aim: three hours take at
most 1.5 times the memory of five minutes.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile

REPO = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(REPO), str(REPO / "benchmarks")]

from shared_processes import memory

RATE, LOOP_SECONDS = 44100, 30
AIM, AIM_MINUTES = 1.5, (5.0, 180.0)


@dataclass(frozen=True)
class Run:
    """A command that ended.

    Args:
        code: its exit code.
        errors: what it wrote to stderr.
        wall_s: from start to end, s.
        peak: largest sum of proportional set sizes, bytes.
    """

    code: int
    errors: str
    wall_s: float
    peak: int


def watched(command: Sequence[str], *, every_s: float = 0.2) -> Run:
    """Run a command and look at its memory so often. Raises `OSError` where it cannot be started."""
    started, peak = time.perf_counter(), 0
    with tempfile.TemporaryFile() as errors:
        job = subprocess.Popen(command, cwd=REPO, stdout=subprocess.DEVNULL, stderr=errors)  # noqa: S603
        try:
            while job.poll() is None:
                peak = max(peak, sum(memory(job.pid)))
                time.sleep(every_s)
        finally:
            job.kill()  # nothing where it has ended
            job.wait()
        wall_s = time.perf_counter() - started
        errors.seek(0)
        return Run(job.returncode, errors.read().decode(errors="replace"), wall_s, peak)


def loop() -> np.ndarray:
    """Half a minute of music with a voice in its centre: float32 ``[2, samples]``."""
    from pipeline.audio import synth

    notes = [synth.pitch_hz(pitch, octave) for pitch, octave in ((1, 3), (4, 3), (9, 2))]
    left, right = (
        synth.chord_progression("A", "major", LOOP_SECONDS, RATE, bpm=96.0, seed=seed) for seed in (8, 108)
    )
    drums, voice = synth.drum_pattern(96.0, LOOP_SECONDS, RATE), synth.voice(LOOP_SECONDS, RATE, notes)
    return synth.mixture([(voice, 1.0, 0.0), (drums, 0.7, 0.0), (left, 0.5, -0.5), (right, 0.5, 0.5)])


def write_song(path: Path, minutes: float) -> None:
    """A song of that length, 16-bit FLAC."""
    sound, left = 0.5 * loop().T, round(60 * minutes * RATE)
    with soundfile.SoundFile(path, "w", RATE, 2, subtype="PCM_16") as file:
        while left:
            piece = sound[:left]
            file.write(piece)
            left -= len(piece)


def karaoke(song: Path, method: str, *keys: str) -> Run:
    """The job on one song.

    Args:
        song: a FLAC of `write_song`.
        method: that takes the vocals out.
        keys: of the config, ``karaoke.format=ogg`` and such.

    Raises:
        SystemExit: it failed.
    """
    with tempfile.TemporaryDirectory(prefix="soundmill-bench-") as output:
        run = watched(
            [sys.executable, "jobs/karaoke.py", f"source.uri={song.parent}", f"source.glob={song.name}",
             f"output.uri={output}", "ray.address=inline", f"karaoke.method={method}", *keys]
        )  # fmt: skip
        written = list(Path(output).glob("instrumentals_*/*/*/instrumental.*"))
    if run.code or not written:
        raise SystemExit(f"{song.name} {keys}: exit code {run.code}: {run.errors[-2000:]}")
    return run


def lengths_table(minutes: Sequence[float], method: str, folder: Path) -> None:
    """Print memory by length, and whether the aim is met."""
    print(f"| song, {method} | peak, MiB | of the first | wall time, s | × real time |\n{'| --- ' * 5}|")
    peaks: dict[float, int] = {}
    for length in minutes:
        song = folder / f"{length:g}min.flac"
        write_song(song, length)
        run = karaoke(song, method)
        peaks[length] = run.peak
        song.unlink()
        ratio, speed = run.peak / next(iter(peaks.values())), 60 * length / run.wall_s
        print(
            f"| {length:g} min | {run.peak / 2**20:.0f} | {ratio:.2f} | {run.wall_s:.0f} | {speed:.0f} |",
            flush=True,
        )
    if set(AIM_MINUTES) <= set(peaks):
        ratio = peaks[AIM_MINUTES[1]] / peaks[AIM_MINUTES[0]]
        print(f"\n3 hours take {ratio:.2f} times the memory of 5 minutes: aim {AIM:g}, "
              f"{'met' if ratio <= AIM else 'NOT met'}")  # fmt: skip


def formats_table(forms: Sequence[str], minutes: float, method: str, folder: Path) -> None:
    """Print memory by format of the file."""
    song = folder / f"{minutes:g}min.flac"
    write_song(song, minutes)
    print(
        f"\n| {minutes:g} minutes, {method}, into | peak, MiB | wall time, s | × real time |\n{'| --- ' * 4}|"
    )
    for form in forms:
        run = karaoke(song, method, f"karaoke.format={form}")
        speed = 60 * minutes / run.wall_s
        print(f"| {form} | {run.peak / 2**20:.0f} | {run.wall_s:.0f} | {speed:.0f} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, nargs="*", default=[5.0, 23.0, 40.0, 180.0])
    parser.add_argument("--formats", nargs="*", default=["mp3", "ogg", "opus", "m4a", "flac", "wav"])
    parser.add_argument(
        "--format-minutes", type=float, default=60.0, help="length of the song for each format"
    )
    parser.add_argument("--method", default="midside", help="karaoke.method")
    parser.add_argument("--folder", type=Path, help="where songs and results lie meanwhile, some GB")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="soundmill-bench-", dir=options.folder) as folder:
        if options.minutes:
            lengths_table(options.minutes, options.method, Path(folder))
        if options.formats:
            formats_table(options.formats, options.format_minutes, options.method, Path(folder))


if __name__ == "__main__":
    main()
