"""Fits what `pipeline.dsp.beat_period` makes of the correlations at multiples and parts of a period.

    python benchmarks/tempo_fit.py --speech ../shared/audio/speech
    python benchmarks/tempo_fit.py --speech ../shared/audio/speech --of beats    # of `pipeline.models.beats.tapped`

Of each piece of the half of `truth.py`'s music that things are developed on, whole and in excerpts of 10 and 20 s, the
periods that may be the beat's are taken, and log odds that are linear in their correlations are fitted to say which
one is (softmax, squared weights held small), with the prior of the default search. Beside them stand bare clicks and
drums of 46 to 178 BPM, which are what they are, and speech, which has no beat. The folds are of whole pieces: the
figures are of pieces that the weights were not fitted on; the weights printed last are fitted on all.
"""

from __future__ import annotations

import argparse
import sys
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import torch
from scipy.optimize import minimize, minimize_scalar
from scipy.special import expit, logit

REPO = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPO))
sys.path.insert(0, str(Path(__file__).resolve().parent))

from truth_sets import SETS, pieces

from pipeline.audio import synth
from pipeline.audio.reader import ArrayReader
from pipeline.audio.resample import resample
from pipeline.dsp.beat_period import Periods, TempoSearch, correlations, periods
from pipeline.dsp.onsets import LEAST_RISE_DB, OnsetCurve, pick_onsets
from pipeline.features.spectra import SharedSpectra
from pipeline.models.beats.front_end import FRAMES_PER_SECOND
from pipeline.models.beats.network import load_ensemble
from pipeline.models.beats.tapped import accents, tapped_periods
from pipeline.models.beats.tracker import BeatTracker

RATE, N_FFT, HOP, N_MELS = 22050, 2048, 512, 128
FRAMES = RATE / HOP
EXCERPTS_S, STEP_S = (10.0, 20.0), 20.0
FOLDS = 10
SMALL = 0.003
"""Cost of a squared weight of correlations of unit deviation."""
SAME = 0.04
SEARCH = TempoSearch()
MADE = ("clicks", "drums", "drums in noise")
Listen = Callable[[np.ndarray, Sequence[float]], Iterator[tuple[bool, Periods]]]
"""The periods of a whole of samples, and of excerpts of so many seconds, each with whether it is the whole."""


@dataclass
class Heard:
    """Periods of a stretch of sound.

    Args:
        set: of the piece.
        fold: of the piece.
        whole: not an excerpt.
        bpm: the true tempo; None where there is no beat.
        periods: that may be the beat's.
    """

    set: str
    fold: int
    whole: bool
    bpm: float | None
    periods: Periods

    def right(self) -> np.ndarray:
        """Which of the periods, and last whether none, is the true one."""
        if self.bpm is None:
            return np.append(np.zeros(len(self.periods.seconds), bool), True)
        near = np.abs(60.0 / self.periods.seconds / self.bpm - 1.0) <= SAME
        return np.append(near, not near.any())


def spans(frames: int, excerpts: Sequence[float]) -> list[tuple[int, int]]:
    """First frame of the whole and of its excerpts of so many seconds, and the one behind their last."""
    found = [(0, frames)]
    for seconds in excerpts:
        length, step = (round(s * FRAMES) for s in (seconds, max(seconds, STEP_S)))
        found += [(start, start + length) for start in range(0, frames - length, step)]
    return found


def stretches(samples: np.ndarray, excerpts: Sequence[float]) -> Iterator[tuple[bool, Periods]]:
    """The periods of the whole and of its excerpts."""
    curve = OnsetCurve(N_FFT, HOP)
    curve.add(SharedSpectra(samples, RATE, samples[None], RATE).rises(N_FFT, HOP, N_MELS))
    strength, strokes = curve.strength(), curve.accents()
    for start, stop in spans(len(strength), excerpts):
        onsets = pick_onsets(strength[start:stop], FRAMES, LEAST_RISE_DB)
        fine = correlations(strokes[start:stop], FRAMES, onsets)
        found = None if fine is None else periods(fine, FRAMES, SEARCH)
        if found is not None:
            yield stop - start == len(strength), found


def tapped_stretches(tracker: BeatTracker) -> Listen:
    """The same of what the beat tracker hears."""

    def listen(samples: np.ndarray, excerpts: Sequence[float]) -> Iterator[tuple[bool, Periods]]:
        reader = ArrayReader(np.ascontiguousarray(samples, np.float32)[None])
        [heard] = tracker.hear([reader])
        strokes, rate = accents(reader), FRAMES_PER_SECOND / FRAMES
        for start, stop in spans(len(strokes), excerpts):
            rest = slice(round(start * rate), round(stop * rate))
            found = tapped_periods(strokes[start:stop], [heard.turns[rest], heard.rises[rest]], SEARCH)
            if found is not None:
                yield stop - start == len(strokes), found

    return listen


def music(folder: Path, listen: Listen) -> Iterator[Heard]:
    """The half of the pieces with a known tempo that things are developed on."""
    for piece in pieces(folder, tuple(SETS)):
        if piece.tempo is not None:
            audio, rate = soundfile.read(folder / piece.audio, dtype="float32", always_2d=True)
            samples = resample(audio.mean(axis=1), rate, RATE)
            name = piece.set if piece.drums else f"{piece.set}, alone"
            for whole, found in listen(samples, EXCERPTS_S):
                yield Heard(name, zlib.crc32(piece.piece.encode()) % FOLDS, whole, piece.tempo, found)


def made(listen: Listen) -> Iterator[Heard]:
    """Bare clicks, and drums alone and in noise."""
    seconds = 12
    for number, bpm in enumerate(range(46, 179, 6)):
        clicks = np.zeros(seconds * RATE, np.float32)
        clicks[(np.arange(0, seconds, 60.0 / bpm) * RATE).astype(int)] = 1.0
        drums = synth.drum_pattern(bpm, seconds, RATE, seed=bpm).astype(np.float32)
        noise = 0.05 * np.random.default_rng(bpm).standard_normal(len(drums)).astype(np.float32)
        for name, sound in zip(MADE, (clicks, drums, drums + noise), strict=True):
            for whole, found in listen(sound, ()):
                yield Heard(name, number % FOLDS, whole, float(bpm), found)


def speech(folder: Path, listen: Listen) -> Iterator[Heard]:
    """Prompts of each voice, one after the other."""
    for number, voice in enumerate(sorted(path for path in folder.iterdir() if path.is_dir())):
        prompts = [soundfile.read(path, dtype="float32") for path in sorted(voice.glob("*.wav"))]
        joined = np.concatenate([resample(samples, rate, RATE) for samples, rate in prompts])
        for _, found in listen(joined, EXCERPTS_S):
            yield Heard("speech", number % FOLDS, False, None, found)


def odds(heard: Heard, weights: np.ndarray) -> np.ndarray:
    """Of each period, and last of none."""
    prior = SEARCH.prior(60.0 / heard.periods.seconds)
    return np.append(heard.periods.evidence @ weights[:-1] + prior, weights[-1])


def fitted(all_heard: Sequence[Heard]) -> np.ndarray:
    """Weights of `RELATIVES`, and last the log odds of no beat."""
    scale = np.append(np.concatenate([h.periods.evidence for h in all_heard]).std(axis=0), 1.0)

    def loss(scaled: np.ndarray) -> tuple[float, np.ndarray]:
        total, gradient = 0.0, np.zeros(len(scaled))
        for heard in all_heard:
            logits = odds(heard, scaled / scale)
            chance = np.exp(logits - logits.max())
            chance /= chance.sum()
            right = heard.right()
            total -= np.log(chance[right].sum())
            pull = chance - np.where(right, chance, 0.0) / chance[right].sum()
            gradient += np.append(heard.periods.evidence.T @ pull[:-1], pull[-1]) / scale
        count = len(all_heard)
        return total / count + SMALL * float(scaled @ scaled), gradient / count + 2.0 * SMALL * scaled

    return minimize(loss, np.zeros(len(scale)), jac=True, method="L-BFGS-B").x / scale


def judged(heard: Heard, weights: np.ndarray) -> tuple[bool, bool, float]:
    """Whether the most likely period is right, whether but for an octave or three, and how sure it is."""
    logits = odds(heard, weights)
    chance = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
    best = int(np.argmax(chance[:-1]))
    bpm = 60.0 / heard.periods.seconds[best]
    if heard.bpm is None:
        return False, False, float(chance[best])
    near = [abs(bpm / (heard.bpm * factor) - 1.0) <= SAME for factor in (1, 2, 3, 1 / 2, 1 / 3)]
    return near[0], any(near), float(chance[best])


def surer(rows: Sequence[tuple[bool, bool, float]]) -> float:
    """Log odds to add to how sure the fit is, so that as many are right as it then says."""
    right, _, sure = np.array(rows, np.float64).T

    def loss(more: float) -> float:
        chance = expit(logit(sure) + more)
        return -float(np.mean(np.log(np.where(right, chance, 1.0 - chance))))

    return float(minimize_scalar(loss, bounds=(-3.0, 3.0), method="bounded").x)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, default=REPO / "out" / "truth", help="of truth.py's sets")
    parser.add_argument("--speech", type=Path, required=True, help="a folder of voices, each with .wav files")
    parser.add_argument("--of", choices=("tempo", "beats"), default="tempo", help="whose weights")
    options = parser.parse_args()
    listen: Listen = stretches
    if options.of == "beats":
        torch.set_num_threads(1)
        listen = tapped_stretches(BeatTracker(load_ensemble()))
    all_heard = [*music(options.folder, listen), *made(listen), *speech(options.speech, listen)]
    answers: dict[str, list[tuple[bool, bool, float]]] = {}
    real: list[tuple[bool, bool, float]] = []
    for fold in range(FOLDS):
        weights = fitted([h for h in all_heard if h.fold != fold])
        for heard in (h for h in all_heard if h.fold == fold):
            row = judged(heard, weights)
            real += [row] if heard.set not in MADE else []
            whole = (heard.set,) if heard.set in MADE else (heard.set, "all of music")
            for name in whole if heard.whole else (f"{heard.set}, excerpts",):
                answers.setdefault(name, []).append(row)
    print(
        "| set | accuracy 1 | accuracy 2 | mean confidence | stretches |\n| --- | ---: | ---: | ---: | ---: |"
    )
    for name, rows in sorted(answers.items()):
        first, second, sure = np.mean(rows, axis=0)
        print(f"| {name} | {first:.3f} | {second:.3f} | {sure:.3f} | {len(rows)} |")
    weights = fitted(all_heard)
    named = ", ".join(f"{weight:.2f}" for weight in weights[:-1])
    print(f"\nweights: {named}; no beat: {weights[-1]:.2f}; surer: {surer(real):.2f}")


if __name__ == "__main__":
    main()
