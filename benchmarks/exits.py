"""How commands end: each is run many times over one output, and whatever does not end as it should is counted.

    python benchmarks/exits.py --runs 200

A library that is torn down in the wrong order may abort a command that has done all its work (exit code 134, "terminate
called without an active exception"), in one of many runs. ``--peer`` shows that with pyarrow alone: a part read by
``pq.read_table`` from a file object, which the project does not use for that, and the same by ``pq.ParquetFile``.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import soundfile

ROOT = Path(__file__).resolve().parents[1]
QUICK = [
    "stages=[]",
    "features.enabled=[loudness]",
]
READERS = {
    "pq.read_table(file object), three times": "[pq.read_table(open(f, 'rb')) for _ in range(3)]",
    "pq.ParquetFile(file object).read(), three times": "[pq.ParquetFile(open(f, 'rb')).read() for _ in range(3)]",
}


def make_output(folder: Path) -> tuple[Path, Path]:
    """A source of a few tones and one broken file, and the output of a run over it."""
    source, output = folder / "in", folder / "out"
    source.mkdir()
    for number in range(6):
        tone = 0.3 * np.sin(2 * np.pi * 220 * 1.1**number * np.arange(22050) / 22050)
        soundfile.write(source / f"{number}.wav", tone, 22050)
    (source / "broken.wav").write_bytes(b"RIFF and nothing else")
    command = ["jobs/extract_features.py", f"source.uri={source}", f"output.uri={output}", *QUICK]
    subprocess.run([sys.executable, *command], cwd=ROOT, check=True, capture_output=True)  # noqa: S603
    return source, output


def commands(source: Path, output: Path) -> dict[str, list[str]]:
    """What is run over an output that is done."""
    return {
        "extract_features.py, nothing to do": [
            "jobs/extract_features.py",
            f"source.uri={source}",
            f"output.uri={output}",
            *QUICK,
        ],
        "failures.py": ["jobs/failures.py", f"output.uri={output}"],
        "verify.py": ["jobs/verify.py", f"output.uri={output}"],
        "report.py": ["jobs/report.py", f"output.uri={output}"],
        "models.py list": ["jobs/models.py", "list"],
        "columns.py": ["jobs/columns.py"],
    }


def exits(command: list[str], runs: int, at_once: int) -> tuple[Counter[int], str]:
    """Exit code → how many runs had it, and the last line of one that was not 0."""

    def once(_: int) -> tuple[int, str]:
        done = subprocess.run([sys.executable, *command], cwd=ROOT, capture_output=True, text=True)  # noqa: S603
        return done.returncode, (done.stderr.strip().splitlines() or [""])[-1]

    with ThreadPoolExecutor(at_once) as pool:
        found = list(pool.map(once, range(runs)))
    return Counter(code for code, _ in found), next((said for code, said in found if code), "")


def main() -> int:
    """Run the benchmark; 1 where a command did not end with 0."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--at-once", type=int, default=2, help="runs side by side (2)")
    parser.add_argument("--peer", action="store_true", help="pyarrow alone, too")
    parser.add_argument("--only", help="commands with this word")
    options = parser.parse_args()
    wrong = 0
    with tempfile.TemporaryDirectory(prefix="soundmill-exits-") as folder:
        source, output = make_output(Path(folder))
        print("| command | runs | exit codes |\n| --- | ---: | --- |")
        for name, command in commands(source, output).items():
            if options.only and options.only not in name:
                continue
            # One job at a time writes to an output.
            alone = command[0] == "jobs/extract_features.py"
            codes, said = exits(command, options.runs, 1 if alone else options.at_once)
            wrong += options.runs - codes[0]
            print(f"| {name} | {options.runs} | {_words(codes)} {said} |", flush=True)
        if options.peer:
            part = next((output / "tracks").glob("part-*.parquet"))
            for name, code in READERS.items():
                script = f"import pyarrow.parquet as pq; f = {str(part)!r}; {code}"
                codes, said = exits(["-c", script], options.runs, options.at_once)
                print(f"| {name} | {options.runs} | {_words(codes)} {said} |", flush=True)
    return 1 if wrong else 0


def _words(codes: Counter[int]) -> str:
    return ", ".join(f"{count} × {code}" for code, count in sorted(codes.items()))


if __name__ == "__main__":
    sys.exit(main())
