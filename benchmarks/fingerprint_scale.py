"""Centre and spread of each number of the fingerprint over a library: the constants of `pipeline.mastering.distance`.

    python benchmarks/fingerprint_scale.py FOLDER [FOLDER ...] --seconds 120

Reads every song of the folders that is long enough, up to ``--seconds`` of it. Where a folder has ``guitar.ogg`` beside
``song.ogg``, as the songs of Frets on Fire have, the two are stems and the song is their sum. Prints the lines of
``SCALE``: mean and standard deviation over the songs in which the number is defined. The same samples count once.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import soundfile
import torch

from pipeline.audio.resample import make_view
from pipeline.features.extraction import TrackAudio, run_extractors
from pipeline.features.fingerprint import Fingerprint

SUFFIXES = {".ogg", ".flac", ".wav", ".mp3", ".opus"}
DSP_RATE = 22050
LEAST_SECONDS = 30.0


def songs(folders: list[Path]) -> Iterator[list[Path]]:
    """The files of each song: one, or its two stems."""
    for folder in folders:
        for path in sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file()):
            stem = path.with_name("guitar.ogg")
            if path.name == "song.ogg" and stem.exists():
                yield [path, stem]
            elif path.name != "guitar.ogg":
                yield [path]


def decoded(paths: list[Path], seconds: float) -> tuple[np.ndarray, int] | None:
    """Samples ``[channels, n]`` and their rate; None of a jingle."""
    parts = []
    for path in paths:
        with soundfile.SoundFile(path) as file:
            rate = file.samplerate
            if file.frames < LEAST_SECONDS * rate:
                return None
            parts.append(file.read(round(seconds * rate), dtype="float32", always_2d=True).T)
    length = min(part.shape[1] for part in parts)
    return np.ascontiguousarray(sum(part[:, :length] for part in parts)), rate


def fingerprint(samples: np.ndarray, rate: int) -> dict[str, float | None]:
    """The columns of a song."""
    extractor = Fingerprint()
    mono = make_view(samples, rate, DSP_RATE, 1)[0]
    audio = TrackAudio(mono, DSP_RATE, samples, rate, context_seconds=extractor.context_seconds(DSP_RATE))
    [outcome] = run_extractors([extractor], audio.track, audio.blocks)
    if outcome.error is not None:
        raise outcome.error
    return outcome.extraction.values


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--seconds", type=float, default=120.0, help="most of a song that is read")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows, seen, seconds = [], set(), 0.0
    for paths in songs(arguments.folders):
        audio = decoded(paths, arguments.seconds)
        if audio is None:
            continue
        digest = hashlib.sha256(audio[0].tobytes()).digest()
        if digest in seen:
            continue
        seen.add(digest)
        rows.append(fingerprint(*audio))
        seconds += audio[0].shape[1] / audio[1]
        print(f"{len(rows)} {paths[0]}", file=sys.stderr, flush=True)
    if not rows:
        sys.exit(f"no song of {LEAST_SECONDS:g} s or more")
    print(f"# {len(rows)} songs, {seconds / 3600:.1f} hours")
    for name in rows[0]:
        values = np.array([row[name] for row in rows if row[name] is not None])
        low, median, high = np.percentile(values, [5, 50, 95])
        print(
            f'    "{name.removeprefix("fingerprint_")}": ({values.mean():.4g}, {values.std():.4g}),'
            f"  # n={len(values)} p5={low:.4g} p50={median:.4g} p95={high:.4g}"
        )


if __name__ == "__main__":
    main()
