"""Where a key, and where an onset, begins: `key_evidence` and onsets of real music, and of what has neither.

Recordings are cut into excerpts of 25 s. Half of the pieces, and of what is made here, choose the bound: the one at
which the larger of two rates is least, keys claimed of what has none and keys lost of music. The other half judges it,
and `pipeline.features.key.LEAST_EVIDENCE` beside it. Then, per confidence, how often the key of an excerpt is that of
the rest of its piece (pieces modulate: it is less than the share of right keys, which `truth.py` counts).
Last, how many of the onsets that librosa's rules find lie below `pipeline.dsp.onsets.LEAST_RISE_DB`, and how large
the ripple of steady sounds is.

    python benchmarks/tonality.py --music music --drums drums --speech ../shared/audio/speech
"""

from __future__ import annotations

import argparse
import itertools
import sys
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import KW_ONLY, dataclass
from pathlib import Path

import numpy as np
import soundfile
import torch

REPO = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPO))

from pipeline.audio import synth
from pipeline.audio.resample import make_view
from pipeline.dsp.onsets import LEAST_RISE_DB, OnsetCurve, pick_onsets
from pipeline.features.key import KEYS, LEAST_EVIDENCE, _KeyRun
from pipeline.features.key import Key as KeyExtractor
from pipeline.features.key_profiles import key_clearness, key_confidence, key_scores
from pipeline.features.spectra import SharedSpectra

RATE, SECONDS, PER_PIECE = 22050, 25, 3
STARTS = (0.1, 0.4, 0.7)
MADE = {2: 120, 5: 60, 25: 30}
"""Seconds → excerpts of each kind that are made here."""
CONFIDENCES = (0.5, 0.6, 0.7, 0.8, 0.9, 1.01)
PROFILE = KeyExtractor().profile


@dataclass
class Excerpt:
    """What is measured of one."""

    kind: str
    piece: str
    half: int
    evidence: float
    chroma: np.ndarray | None
    _: KW_ONLY
    onsets: np.ndarray

    @property
    def key(self) -> str:
        return best_key(self.chroma)


def best_key(chroma: np.ndarray) -> str:
    return " ".join(KEYS[int(np.argmax(key_scores(chroma, PROFILE)))])


def measured(kind: str, piece: str, half: int, samples: np.ndarray) -> Excerpt:
    samples = samples.astype(np.float32)
    spectra = SharedSpectra(samples, RATE, samples[None], RATE)
    run = KeyExtractor().start(spectra.track)
    assert isinstance(run, _KeyRun)
    run.add(spectra)
    evidence = run.finish().values["key_evidence"]
    curve = OnsetCurve(2048, 512)
    curve.add(spectra.rises(2048, 512, 128))
    strength = curve.strength()
    chroma = run.chroma()
    return Excerpt(
        kind, piece, half, evidence or 0.0, chroma, onsets=strength[pick_onsets(strength, RATE / 512)]
    )


def recordings(kind: str, folder: Path) -> Iterator[Excerpt]:
    """Up to three excerpts of every file; those of a file are of one half."""
    for number, file in enumerate(
        sorted(p for p in folder.iterdir() if p.suffix in (".ogg", ".wav", ".flac"))
    ):
        info = soundfile.info(file)
        for start in STARTS[:PER_PIECE]:
            frames = SECONDS * info.samplerate
            begin = min(int(start * info.frames), max(0, info.frames - frames))
            audio, rate = soundfile.read(file, frames, begin, dtype="float32", always_2d=True)
            if np.abs(audio).max() > 1e-3:
                yield measured(kind, file.name, number % 2, make_view(audio.T, rate, RATE, 1)[0])
            if info.frames < 1.5 * frames:
                break


def talk(folder: Path) -> Iterator[Excerpt]:
    """Every prompt of two seconds or more, and all of a speaker in excerpts of 25 s."""
    for speaker in sorted(folder.iterdir()):
        prompts = []
        for number, file in enumerate(sorted(speaker.glob("*.wav"))):
            audio, rate = soundfile.read(file, dtype="float32", always_2d=True)
            prompts.append(make_view(audio.T, rate, RATE, 1)[0])
            if len(prompts[-1]) >= 2 * RATE:
                yield measured("speech", file.name, number % 2, prompts[-1])
        joined = np.concatenate(prompts)
        for number in range(len(joined) // (SECONDS * RATE)):
            part = joined[number * SECONDS * RATE :][: SECONDS * RATE]
            yield measured("speech, joined", f"{speaker.name} {number}", number % 2, part)


def coloured(exponent: int, length: int, rng: np.random.Generator) -> np.ndarray:
    spectrum = np.fft.rfft(rng.standard_normal(length))
    samples = np.fft.irfft(spectrum / np.maximum(np.arange(len(spectrum)), 1) ** (exponent / 2), length)
    return 0.1 * samples / samples.std()


def clicks(length: int, rng: np.random.Generator) -> np.ndarray:
    samples, count = np.zeros(length), int(rng.integers(1, 12))
    samples[rng.integers(0, length, count)] = rng.uniform(-1, 1, count)
    return samples


def made() -> Iterator[Excerpt]:
    """Noise, clicks, drums and DC."""
    for seconds, count in MADE.items():
        for number in range(count):
            rng = np.random.default_rng([seconds, number])
            length = seconds * RATE
            sounds = {
                "white noise": coloured(0, length, rng),
                "pink noise": coloured(1, length, rng),
                "brown noise": coloured(2, length, rng),
                "clicks": clicks(length, rng),
                "synthetic drums": synth.drum_pattern(rng.uniform(60, 180), seconds, RATE, seed=number),
                "DC": np.full(length, rng.uniform(-0.5, 0.5)),
            }
            for kind, samples in sounds.items():
                yield measured(kind, f"{kind} {number}", number % 2, samples)


def steady() -> dict[str, np.ndarray]:
    """Sounds of 20 s in which nothing begins."""
    time = np.arange(20 * RATE) / RATE
    organ = [f * h for f in (65.41, 130.81, 196.0, 261.63) for h in range(1, 9)]
    rise = np.log(200) / 20
    return {
        "sine, 440 Hz": np.sin(2 * np.pi * 440 * time),
        "three sines": sum(np.sin(2 * np.pi * f * time) for f in (261.63, 329.63, 392.0)),
        "organ drone": sum(np.sin(2 * np.pi * f * time) / f for f in organ),
        "square, 100 Hz": np.sign(np.sin(2 * np.pi * 100 * time)),
        "sweep, 50 Hz to 10 kHz": np.sin(2 * np.pi * 50 * np.expm1(rise * time) / rise),
    }


def rates(music: list[float], other: list[float], bound: float) -> tuple[float, float]:
    """Keys claimed of what has none, and lost of music, as shares."""
    return float(np.mean(np.array(other) >= bound)), float(np.mean(np.array(music) < bound))


def print_evidence(excerpts: list[Excerpt]) -> None:
    print("| kind | excerpts | least | 5 % | median | 95 % | largest | with a key |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    groups = defaultdict(list)
    for e in excerpts:
        groups[e.kind].append(e.evidence)
    for kind, found in groups.items():
        numbers = " | ".join(f"{q:.3f}" for q in np.percentile(found, [0, 5, 50, 95, 100]))
        print(f"| {kind} | {len(found)} | {numbers} | {np.mean(np.array(found) >= LEAST_EVIDENCE):.1%} |")


def print_bound(excerpts: list[Excerpt]) -> None:
    halves = []
    for half in (0, 1):
        music = [e.evidence for e in excerpts if e.half == half and e.kind == "music"]
        halves.append((music, [e.evidence for e in excerpts if e.half == half and e.kind != "music"]))
    bounds = np.arange(0.05, 0.5, 0.01)
    worst = np.array([max(rates(*halves[0], bound)) for bound in bounds])
    best = float(np.median(bounds[worst == worst.min()]))
    print("\n| bound | half | keys claimed of what has none | keys lost of music |")
    print("| --- | --- | ---: | ---: |")
    for name, bound in (("chosen here", best), ("in use", LEAST_EVIDENCE)):
        for half, said in enumerate(("the one it is chosen on", "the other")):
            claimed, lost = rates(*halves[half], bound)
            music, other = halves[half]
            print(
                f"| {bound:.2f}, {name} | {said} | {claimed:.2%} of {len(other)} | {lost:.1%} of {len(music)} |"
            )


def print_confidence(excerpts: list[Excerpt]) -> None:
    pieces = defaultdict(list)
    for e in excerpts:
        if e.kind == "music" and e.evidence >= LEAST_EVIDENCE:
            pieces[e.piece].append(e)
    found = []
    for these in pieces.values():
        for e in these:
            rest = [o.chroma for o in these if o is not e]
            if rest:
                scores = key_scores(e.chroma, PROFILE)
                confidence = key_confidence(key_clearness(e.chroma, scores, PROFILE))
                found.append((confidence, best_key(np.mean(rest, axis=0)) == e.key))
    confidence, same = np.array(found).T
    print("\n| key_confidence | excerpts | with the key of the rest of the piece |")
    print("| --- | ---: | ---: |")
    for low, high in itertools.pairwise(CONFIDENCES):
        inside = (confidence >= low) & (confidence < high)
        if inside.any():
            print(f"| {low:g} to {min(high, 1):g} | {inside.sum()} | {same[inside].mean():.0%} |")


def print_onsets(excerpts: list[Excerpt]) -> None:
    for kind in ("music", "drums"):
        these = [e.onsets for e in excerpts if e.kind == kind]
        if these:
            below = np.mean(np.concatenate(these) < LEAST_RISE_DB)
            print(f"\n{kind}: {below:.2%} of {sum(map(len, these))} onsets lie below {LEAST_RISE_DB:g} dB")
    print("\n| steady sound | onsets by librosa's rules | largest, dB | onsets left |")
    print("| --- | ---: | ---: | ---: |")
    for name, samples in steady().items():
        onsets = measured(name, name, 0, 0.3 * samples / np.abs(samples).max()).onsets
        print(f"| {name} | {len(onsets)} | {onsets.max(initial=0):.2f} | {np.sum(onsets >= LEAST_RISE_DB)} |")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--music", type=Path, required=True, help="folder of tonal music")
    parser.add_argument("--drums", type=Path, help="folder of drums alone")
    parser.add_argument("--speech", type=Path, help="folder with a folder of prompts per speaker")
    told = parser.parse_args()
    torch.set_num_threads(1)
    excerpts = [*recordings("music", told.music), *made()]
    if told.drums:
        excerpts += recordings("drums", told.drums)
    if told.speech:
        excerpts += talk(told.speech)
    print_evidence(excerpts)
    print_bound(excerpts)
    print_confidence(excerpts)
    print_onsets(excerpts)


if __name__ == "__main__":
    main()
