"""How far the descriptors are from their references, on real music and speech, as a Markdown table.

    python benchmarks/agreement.py --audio ../shared/audio --seconds 30

Music is an excerpt from the middle of each track, speech the prompts of each speaker in a row; both are faded over
10 ms at the ends, because meters differ in what they take to lie beyond a cut. Each figure is the worst of all
excerpts. Figures without an aim differ for a reason: two trackers may count a song at different tempi, and librosa
tunes a constant-Q chroma to the nearest third of a semitone, so that the notes of a track that is farther off fall
between two pitch classes. Where a reference is not installed the last lines say so. Keys and tempi are those of
synthetic songs; quality has no peer and is compared with what its signals have by construction.

The exit code is 1 where an aim is missed.
"""

from __future__ import annotations

import argparse
import platform
import shutil
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import soundfile
import torch
from agreement_checks import ON_CLIPS, SYNTHETIC, Clip, Figure, tempo
from feature_peers import DSP_RATE

from pipeline.optional import look_up

SUFFIXES = {".ogg", ".flac", ".wav", ".mp3"}
FADE_SECONDS = 0.01


def worst(figures: list[Figure]) -> list[Figure]:
    """The worst figure of each quantity, in the order of their first."""
    kept: dict[tuple[str, str, str], Figure] = {}
    for figure in figures:
        key = (figure.extractor, figure.quantity, figure.reference)
        # NaN is worse than anything.
        if key not in kept or figure.worse(figure.value, kept[key].value) == figure.value or figure.is_nan():
            kept[key] = figure
    return list(kept.values())


def show(material: str, figures: list[Figure]) -> int:
    """Print a line of the table for each figure; return how many aims are missed."""
    for f in figures:
        aim = "" if f.aim is None else f"{'≤' if f.worse is max else '≥'} {f.aim:g}"
        passed = "" if f.aim is None else "yes" if f.met() else "**no**"
        cells = (
            f.extractor,
            f.quantity,
            f.reference,
            material,
            "–" if f.is_nan() else f"{f.value:.4g} {f.unit}".strip(),
            aim,
            passed,
        )
        print(f"| {' | '.join(cells)} |", flush=True)
    return sum(not f.met() for f in figures)


def read(path: Path, seconds: float) -> Clip:
    """An excerpt from the middle, all of it where ``seconds`` is 0."""
    info = soundfile.info(path)
    count = min(info.frames, round(seconds * info.samplerate)) if seconds else info.frames
    samples, rate = soundfile.read(path, count, (info.frames - count) // 2, dtype="float32", always_2d=True)
    return Clip.of(f"{path.parent.name}/{path.name}", faded(samples.T, rate), rate)


def read_in_a_row(paths: list[Path], seconds: float) -> Clip:
    """Files of one rate and channel count one after the other, until there are ``seconds``; 0 is all of them."""
    parts: list[np.ndarray] = []
    for path in paths:
        samples, rate = soundfile.read(path, dtype="float32", always_2d=True)
        parts.append(faded(samples.T, rate))
        if seconds and sum(part.shape[1] for part in parts) >= seconds * rate:
            break
    return Clip.of(paths[0].parent.name, np.concatenate(parts, axis=1), rate)


def faded(samples: np.ndarray, rate: int) -> np.ndarray:
    fade = np.linspace(0, 1, round(FADE_SECONDS * rate), dtype=np.float32)
    samples[:, : len(fade)] *= fade
    samples[:, -len(fade) :] *= fade[::-1]
    return samples


def material(folder: Path, seconds: float) -> dict[str, list[Clip]]:
    """Music and speech below ``folder``."""
    tracks = sorted(p for p in (folder / "music").rglob("*") if p.suffix.lower() in SUFFIXES)
    speakers = [sorted(p.glob("*.wav")) for p in sorted((folder / "speech").glob("*")) if p.is_dir()]
    if not tracks or not any(speakers):
        raise SystemExit(f"no music/ and speech/ with audio below {folder}; pass --audio FOLDER")
    return {
        "music": [read(path, seconds) for path in tracks],
        "speech": [read_in_a_row(prompts, seconds) for prompts in speakers if prompts],
    }


def report(options: argparse.Namespace) -> int:
    torch.set_num_threads(1)
    clips = material(options.audio, options.seconds)
    names = ("torch", "numpy", "librosa", "pyloudnorm")
    found = [f"{name} {look_up(name).version}" for name in names if look_up(name).available]
    print(f"Python {platform.python_version()}, {', '.join(found)}, {ffmpeg_version() or 'no ffmpeg'}\n")
    minutes = {name: sum(len(clip.mono) for clip in clips[name]) / DSP_RATE / 60 for name in clips}
    print(
        "; ".join(f"{name}: {len(clips[name])} excerpts, {minutes[name]:.1f} min" for name in clips) + ".\n"
    )
    print("| extractor | quantity | reference | material | worst | aim | met |")
    print("| --- | --- | --- | --- | ---: | ---: | --- |")
    missed = 0
    for name, checks in (("music", (*ON_CLIPS, tempo)), ("speech", ON_CLIPS)):
        for check in checks:
            missed += show(name, worst([figure for clip in clips[name] for figure in check(clip)]))
    for check in SYNTHETIC:
        missed += show("synthetic", list(check()))
    print(f"\n{missed} aims missed." if missed else "\nAll aims met.")
    for name, there in (("pyloudnorm", look_up("pyloudnorm").available), ("ffmpeg", ffmpeg_version())):
        if not there:
            print(f"- {name}: not installed, not compared with")
    return 1 if missed else 0


def ffmpeg_version() -> str | None:
    """Such as ``ffmpeg 5.1.8``; None where it is not installed."""
    path = shutil.which("ffmpeg")
    if path is None:
        return None
    done = subprocess.run([path, "-version"], capture_output=True, text=True, check=True)  # noqa: S603
    return " ".join(done.stdout.split()[:3:2])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    default = Path(__file__).resolve().parents[2] / "shared" / "audio"
    parser.add_argument("--audio", type=Path, default=default, help="folder with music/ and speech/")
    parser.add_argument("--seconds", type=float, default=30.0, help="of each track and speaker; 0 is all")
    sys.exit(report(parser.parse_args()))


if __name__ == "__main__":
    main()
