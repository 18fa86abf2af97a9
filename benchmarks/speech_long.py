"""Memory of the speech job on long recordings and on many calls, as Markdown tables.

    python benchmarks/speech_long.py --prompts FOLDER                       # 10 minutes and 10 hours of one recording
    python benchmarks/speech_long.py --prompts FOLDER --hours --calls 200 10000
    python benchmarks/speech_long.py --prompts FOLDER --hours 0.05 --calls 3 --steps vad    # does it work?

A recording is conversations of `speech_talks.py` one after another, in another order each time they are through,
FLAC at 16 kHz. Calls last two minutes: a stretch of the same conversations that begins anywhere, at 8 kHz, u-law WAV as
a telephone exchange writes it; no two have the same content. Memory is the largest sum of the proportional set sizes of
all processes of the job, looked at once a second. Times say little unless nothing else ran.

Bounded means: ten hours take at most `AIM` times the memory of the first length, ten thousand calls of the first count.
All steps on ten thousand calls would take days on two cores, so that `--steps vad --keys vad.backend=energy` is what is
for them: what grows with the number of calls is the same.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow.dataset
import soundfile
import soxr

REPO = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(REPO), str(REPO / "benchmarks")]

from karaoke_memory import Run, watched
from speech_talks import talks
from speech_words import LANGUAGES, SAMPLE_RATE

AIM = 1.5
CALL_S = 120
CALL_RATE = 8000
TABLES = ("tracks", "turns", "words", "clips", "failures")


def conversations(prompts: Path) -> list[np.ndarray]:
    """Nine conversations of two minutes."""
    return [talk.samples for talk in talks(prompts, LANGUAGES, 3, seconds=CALL_S)]


def write_recording(path: Path, parts: Sequence[np.ndarray], hours: float) -> None:
    """One recording of that length."""
    rng, left = np.random.default_rng(6), round(3600 * hours * SAMPLE_RATE)
    with soundfile.SoundFile(path, "w", SAMPLE_RATE, 1, subtype="PCM_16") as file:
        while left:
            for number in rng.permutation(len(parts)):
                piece = parts[number][:left]
                file.write(piece)
                left -= len(piece)


def write_calls(folder: Path, parts: Sequence[np.ndarray], count: int) -> None:
    """So many calls, a hundred to a folder."""
    narrow = soxr.resample(np.concatenate(parts), SAMPLE_RATE, CALL_RATE)
    rng = np.random.default_rng(7)
    for number in range(count):
        begin = int(rng.integers(len(narrow) - CALL_S * CALL_RATE))
        path = folder / f"{number // 100:04}" / f"{number:06}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        call = narrow[begin : begin + CALL_S * CALL_RATE] * rng.uniform(0.3, 1.0)
        soundfile.write(path, call, CALL_RATE, subtype="ULAW")


def prepare(source: Path, output: Path, keys: Sequence[str]) -> Run:
    """The job on all files of a folder. Raises `SystemExit` where it failed."""
    run = watched(
        [sys.executable, "jobs/prepare_speech.py", f"source.uri={source}", f"output.uri={output}", *keys],
        every_s=1.0,
    )
    if run.code:
        raise SystemExit(f"{source}: exit code {run.code}: {run.errors[-2000:]}")
    return run


def rows(output: Path, table: str) -> int:
    """Rows of a table; 0 where there is none."""
    folder = output / table
    return pyarrow.dataset.dataset(folder, format="parquet").count_rows() if folder.exists() else 0


def measured(what: str, source: Path, hours: float, keys: Sequence[str]) -> int:
    """Print the row of a table; the peak in bytes."""
    with tempfile.TemporaryDirectory(prefix="soundmill-bench-", dir=source.parent) as output:
        run = prepare(source, Path(output), keys)
        found = [rows(Path(output), table) for table in TABLES]
    speed = 3600 * hours / run.wall_s
    cells = [what, f"{run.peak / 2**20:.0f}", f"{run.wall_s:.0f}", f"{speed:.0f}", *map(str, found)]
    print(f"| {' | '.join(cells)} |", flush=True)
    return run.peak


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--prompts", type=Path, required=True, help="unpacked packages of prompts")
    parser.add_argument(
        "--hours", type=float, nargs="*", default=[1 / 6, 10.0], help="lengths of one recording"
    )
    parser.add_argument("--calls", type=int, nargs="*", default=[], help="how many calls")
    parser.add_argument("--steps", nargs="+", default=["vad", "diarize", "transcribe", "clips"])
    parser.add_argument(
        "--keys", nargs="*", default=[], help="more of the config, transcribe.model=tiny.en and such"
    )
    parser.add_argument(
        "--folder", type=Path, help="where recordings and results lie meanwhile; 10,000 calls: 10 GB"
    )
    options = parser.parse_args()
    keys = [f"speech.steps=[{','.join(options.steps)}]", *options.keys]
    parts = conversations(options.prompts)
    print(f"{' '.join(keys)}\n")
    print(f"| | peak, MiB | wall time, s | × real time | {' | '.join(TABLES)} |\n{'| --- ' * 9}|")
    for kind, amounts in (("hours", options.hours), ("calls", options.calls)):
        peaks = []
        for amount in amounts:
            with tempfile.TemporaryDirectory(prefix="soundmill-bench-", dir=options.folder) as folder:
                source = Path(folder) / "source"
                source.mkdir()
                if kind == "hours":
                    write_recording(source / "recording.flac", parts, amount)
                    what, hours = f"one recording, {amount:.3g} h", amount
                else:
                    write_calls(source, parts, amount)
                    what, hours = f"{amount:,} calls", amount * CALL_S / 3600
                peaks.append(measured(what, source, hours, keys))
        if len(peaks) > 1:
            ratio = peaks[-1] / peaks[0]
            verdict = "met" if ratio <= AIM else "NOT met"
            print(
                f"\nlast / first {kind}: {ratio:.2f} times the memory; aim {AIM:g}, {verdict}\n", flush=True
            )


if __name__ == "__main__":
    main()
