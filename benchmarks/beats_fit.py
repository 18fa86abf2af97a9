"""Fits the rule by which `pipeline.models.beats.rhythm` says that there is no beat.

    python benchmarks/beats_fit.py --speech FOLDER ... --held-out FOLDER ...

Music is the half of `truth.py`'s that things are developed on, whole and in excerpts of 10 and 20 s. What has no beat:
the prompts of each folder (of 4 s and more, and joined to 45 s; as they are and at 8 kHz), tones, pads, glides and
noises, and bursts of noise at random. A logistic regression on strength, lack and unrest (see `is_beat`) tells them
apart, speech, noises and bursts with a third of the weight each; its limit is where --share of speech and noises are
let in. Folders that are held out, and other noises and bursts, take no part in it.
"""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import soundfile
import torch
from scipy.optimize import minimize

REPO = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(REPO), str(REPO / "benchmarks")]

from beats import noises
from speech_activity import read
from truth_sets import SETS, pieces

from pipeline.audio.reader import ArrayReader
from pipeline.audio.resample import make_view
from pipeline.models.beats import rhythm as rule
from pipeline.models.beats.front_end import FRAMES_PER_SECOND
from pipeline.models.beats.heard import Heard
from pipeline.models.beats.names import SAMPLE_RATE, BeatOptions
from pipeline.models.beats.network import load_ensemble
from pipeline.models.beats.tapped import TappedTempi, tapped
from pipeline.models.beats.tracker import BeatTracker

SPEECH_RATE, TELEPHONE_RATE = 16000, 8000
SUFFIXES = (".g722", ".wav", ".flac")
EXCERPTS = ((10, 20, 0), (20, 30, 5))
"""Seconds, seconds from one to the next, seconds to the first."""
LEAST_S, JOINED_S, MOST_JOINED = 4, 45, 12
SMALL = 0.01
"""Cost of a squared weight of a quantity of unit deviation."""
SEEDS = {"": range(6), ", held out": range(6, 12)}


def quantities(heard: Heard, tempi: TappedTempi) -> list[float] | None:
    """Strength, lack and unrest; None with next to no beats."""
    odds = heard.activations()
    path = rule.likeliest(odds, BeatOptions(), tempi)
    strength = rule.strength_of(odds, path)
    return None if strength is None else [strength, rule.lacking(odds, path), heard.unrest]


def heard_of(tracker: BeatTracker, samples: np.ndarray) -> tuple[Heard, TappedTempi]:
    reader = ArrayReader(np.ascontiguousarray(samples, np.float32).reshape(1, -1))
    [heard] = tracker.hear([reader])
    return heard, tapped(reader, heard, tracker.options.min_bpm, tracker.options.max_bpm)


def music(folder: Path, tracker: BeatTracker) -> Iterator[tuple[str, list[float] | None]]:
    """Kind and quantities of pieces whole, and of their excerpts."""
    for piece in pieces(folder, tuple(SETS)):
        if piece.tempo is None:
            continue
        audio, rate = soundfile.read(folder / piece.audio, dtype="float32", always_2d=True)
        heard, tempi = heard_of(tracker, make_view(np.ascontiguousarray(audio.T), rate, SAMPLE_RATE, 1))
        name = piece.set if piece.drums is not False else f"{piece.set}, alone"
        yield name, quantities(heard, tempi)
        for length, step, first in EXCERPTS:
            count = int(FRAMES_PER_SECOND * length)
            for start in range(
                int(FRAMES_PER_SECOND * first), len(heard.odds) - count, int(FRAMES_PER_SECOND * step)
            ):
                part = slice(start, start + count)
                cut = (curve[part] for curve in (heard.odds, heard.rises, heard.turns))
                yield "excerpts", quantities(Heard(*cut, heard.level), tempi)


def speech(folder: Path) -> Iterator[np.ndarray]:
    """Prompts of a voice, alone and joined, each also as a telephone lets them through."""
    names = (path for path in folder.iterdir() if path.suffix in SUFFIXES and path.stat().st_size)
    files = sorted(path for path in names if "monkeys" not in path.name)[::2]
    wide = [read(path) for path in files]
    for rate in (SPEECH_RATE, TELEPHONE_RATE):
        narrow = (make_view(prompt[None], SPEECH_RATE, rate, 1) for prompt in wide)
        prompts = [make_view(prompt, rate, SAMPLE_RATE, 1)[0] for prompt in narrow]
        yield from (prompt for prompt in prompts if len(prompt) > LEAST_S * SAMPLE_RATE)
        joined, length = np.concatenate(prompts), JOINED_S * SAMPLE_RATE
        for start in range(0, min(len(joined) - length, MOST_JOINED * length), length):
            yield joined[start : start + length]


def made(seeds: Sequence[int]) -> Iterator[tuple[str, np.ndarray]]:
    """Noises, pads and glides, and bursts at random, 20 s each."""
    count = 20 * SAMPLE_RATE
    time = np.arange(count) / SAMPLE_RATE
    for seed in seeds:
        rng = np.random.default_rng(seed)
        white = rng.standard_normal(count)
        brown = np.cumsum(white)
        brown -= np.convolve(brown, np.ones(2001) / 2001, "same")
        swell = 1 + 0.7 * np.sin(2 * np.pi * time / rng.uniform(2, 6))
        for noise in (
            0.1 * white,
            brown / np.abs(brown).max(),
            np.convolve(white, np.ones(200), "same") * swell,
        ):
            yield "noises", noise
        low = rng.uniform(60, 300)
        yield "noises", low * time + low * time**2 / 4 - np.round(low * time + low * time**2 / 4)
        parts = (1, 1.5, 2, 2.5, 3)
        swells = [1 + 0.5 * np.sin(2 * np.pi * time / rng.uniform(4, 12)) for _ in parts]
        waves = [np.sin(2 * np.pi * low * k * time * (1 + 1e-4 * np.sin(k * time))) for k in parts]
        yield "noises", sum(wave * swell for wave, swell in zip(waves, swells, strict=True))
        for each_s in (1, 2, 4, 6, 10):
            for fade in (60, 400):
                yield "bursts", bursts(rng, each_s, fade)


def bursts(rng: np.random.Generator, each_s: int, fade: int) -> np.ndarray:
    """20 s of bursts of noise, so many a second on average, that fade within so many samples."""
    audio, shape = np.zeros(20 * SAMPLE_RATE), np.exp(-np.arange(5 * fade) / fade)
    for start in rng.integers(0, len(audio) - len(shape), 20 * each_s):
        audio[start : start + len(shape)] += rng.random() * shape * rng.standard_normal(len(shape))
    return audio


def fitted(music_rows: np.ndarray, others: dict[str, np.ndarray]) -> np.ndarray:
    """Weights of the quantities, and last a constant."""
    rows = np.concatenate([music_rows, *others.values()])
    is_music = np.arange(len(rows)) < len(music_rows)
    share = [np.full(len(music_rows), 0.5 / len(music_rows))]
    share += [np.full(len(part), 0.5 / len(others) / len(part)) for part in others.values()]
    weight, mean, scale = np.concatenate(share), rows.mean(0), rows.std(0)
    z = np.column_stack([(rows - mean) / scale, np.ones(len(rows))])

    def loss(v: np.ndarray) -> tuple[float, np.ndarray]:
        logit = z @ v
        cost = np.logaddexp(0, np.where(is_music, -logit, logit))
        pull = weight * (1 / (1 + np.exp(-logit)) - is_music)
        small = np.append(v[:-1], 0.0)
        return float(weight @ cost + SMALL * small @ small), z.T @ pull + 2 * SMALL * small

    found = minimize(loss, np.zeros(z.shape[1]), jac=True, method="L-BFGS-B").x
    slopes = found[:-1] / scale
    return np.append(slopes, found[-1] - slopes @ mean)


def gathered(options: argparse.Namespace, tracker: BeatTracker) -> dict[str, list[list[float] | None]]:
    """Quantities of everything, by kind."""
    found: dict[str, list[list[float] | None]] = {}
    for name, row in music(options.folder, tracker):
        found.setdefault(f"music, {name}", []).append(row)
    for suffix, folders in (("", options.speech), (", held out", options.held_out)):
        sounds = [("speech", samples) for folder in folders for samples in speech(folder)]
        plain = [] if suffix else [("noises", samples) for _, samples in noises()]
        for name, samples in itertools.chain(sounds, made(SEEDS[suffix]), plain):
            found.setdefault(name + suffix, []).append(quantities(*heard_of(tracker, samples)))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, default=REPO / "out" / "truth", help="of truth.py's sets")
    parser.add_argument("--speech", type=Path, nargs="+", required=True, help="folders of prompts")
    parser.add_argument("--held-out", type=Path, nargs="*", default=[], help="of which nothing is learnt")
    parser.add_argument("--share", type=float, default=0.01, help="of speech and noises that may be let in")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows: dict[str, np.ndarray] = {}
    none: dict[str, int] = {}
    for name, found in gathered(options, BeatTracker(load_ensemble())).items():
        none[name] = sum(row is None for row in found)
        rows[name] = np.array([row for row in found if row is not None]).reshape(-1, 3)
    restless = {name: part[part[:, 2] >= rule.LEAST_UNREST] for name, part in rows.items()}
    learnt = {name: restless[name] for name in ("speech", "noises", "bursts")}
    weights = fitted(np.concatenate([p for n, p in restless.items() if n.startswith("music")]), learnt)
    refused = np.concatenate([restless[name] @ weights[:-1] for name in ("speech", "noises")])
    limit = float(np.quantile(refused, 1 - options.share))
    print(
        "| what | so many | without a beat by this fit | by the rule as it is |\n| --- | ---: | ---: | ---: |"
    )
    for name, part in rows.items():
        steady = part[:, 2] < rule.LEAST_UNREST
        fit = np.mean(steady | (part @ weights[:-1] < limit))
        now = np.mean([not rule.is_beat(*row) for row in part])
        print(f"| {name} | {len(part)} (and {none[name]} with next to no beats) | {fit:.3f} | {now:.3f} |")
    named = ", ".join(f"{weight:.1f}" for weight in weights[:-1])
    print(f"\nstrength, lack, unrest: {named}; limit: {limit:.2f}")


if __name__ == "__main__":
    main()
