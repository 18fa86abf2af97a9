"""How well voice activity finds speech in noise, for each backend, as a Markdown table.

    python benchmarks/speech_activity.py --prompts FOLDER --music ../shared/audio/music          # the held-out mixtures
    python benchmarks/speech_activity.py --prompts FOLDER --music ../shared/audio/music --develop
    python benchmarks/speech_activity.py ... --backends auto silero --levels 10 --seconds 60     # does it work?

FOLDER holds the unpacked Debian packages asterisk-core-sounds-{en,es,fr,it,ru}-g722. Prompts of telephone exchanges
with pauses of 0.3 to 4 s; the truth is their own level, within 35 dB of their loudest, with gaps below 0.2 s closed.
Noise, by power against the speech: pink; babble, eight voices at once; a song. The set to develop on is English, with
Spanish babble and the song ``feelings``, and ``auto`` chooses by rules that were set there; held out are French,
Italian and Russian, with English babble and the song ``escape_from_chaosland``. The error is speech that is missed and
what is taken for it, over the speech there is.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import soundfile
import soxr

REPO = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(REPO)]

from pipeline.models.speech.base import BackendUnavailable
from pipeline.models.speech.voice_activity.choose import load_backend
from pipeline.models.speech.voice_activity.names import AUTO, BACKEND_NAMES

RATE = 16_000
HOP = 160
"""Samples of the steps that are counted, 10 ms."""
LEVEL = 0.05
CLOSED_GAP = 20
VOICES = 8
# Prompts that are no speech, or names of sounds.
NO_SPEECH = ("silence", "tone", "beep", "ascending", "descending", "spy", "monkeys", "tt-", "vm-rec", "digits",
             "letters", "phonetic")  # fmt: skip


@dataclass(frozen=True)
class Material:
    """What a set is made of: languages of the speech and of the babble, and the song."""

    speech: tuple[str, ...]
    babble: tuple[str, ...]
    song: str
    seed: int


DEVELOP = Material(("en",), ("es",), "feelings", 1)
HELD_OUT = Material(("fr", "it", "ru"), ("en",), "escape_from_chaosland", 2)


def read(path: Path) -> np.ndarray:
    """A file as mono at 16 kHz, float32 ``[samples]``."""
    if path.suffix == ".g722":
        with av.open(str(path), format="g722") as container:
            frames = [frame.to_ndarray().ravel() for frame in container.decode(audio=0)]
        return np.concatenate(frames).astype(np.float32) / 32768
    samples, rate = soundfile.read(path, dtype="float32", always_2d=True)
    return soxr.resample(samples.mean(axis=1), rate, RATE).astype(np.float32)


def normalised(samples: np.ndarray) -> np.ndarray:
    """The same at an RMS of `LEVEL`."""
    return samples * (LEVEL / np.sqrt(np.mean(np.square(samples)) + 1e-9))


def spoken(samples: np.ndarray) -> np.ndarray:
    """Where a clean prompt has speech, bool per `HOP`."""
    frames = samples[: len(samples) // HOP * HOP].reshape(-1, HOP)
    level = 10 * np.log10(np.mean(np.square(frames), axis=1) + 1e-12)
    level = np.convolve(level, np.ones(3) / 3, "same")
    found = level > max(np.percentile(level, 97) - 35, -60)
    places = np.flatnonzero(found)
    for first, last in pairwise(places):
        if 1 < last - first <= CLOSED_GAP:
            found[first:last] = True
    return found


class Maker:
    """Makes the mixtures of a set.

    Args:
        prompts, music: folders.
        material: of the set.
        seconds: of each mixture.
    """

    def __init__(self, prompts: Path, music: Path, material: Material, seconds: int) -> None:
        self._prompts, self._music, self._material = prompts, music, material
        self._samples = seconds * RATE
        self._random = np.random.default_rng(material.seed)

    def mixtures(self, levels: tuple[int, ...]) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
        """Name, samples, and where there is speech."""
        speech, truth = self._scene()
        hiss = 3e-5 * self._random.standard_normal(len(speech)).astype(np.float32)
        yield "clean", speech + hiss, truth
        for name, noise in (("pink", self._pink()), ("babble", self._babble()), ("music", self._song())):
            for level in levels:
                yield f"{name} {level} dB", mixed(speech, truth, noise, level), truth

    def _files(self, languages: tuple[str, ...]) -> list[Path]:
        found = []
        for language in languages:
            folder = self._prompts / f"asterisk-core-sounds-{language}-g722"
            files = sorted(folder.rglob("*.g722"))
            named = [f for f in files if not any(word in str(f.relative_to(folder)) for word in NO_SPEECH)]
            found += [f for f in named if f.stat().st_size > RATE]  # two seconds and more
        if not found:
            raise SystemExit(f"no prompts of {', '.join(languages)} below {self._prompts}: see --help")
        self._random.shuffle(found)
        return found

    def _scene(self) -> tuple[np.ndarray, np.ndarray]:
        samples, truth = np.zeros(self._samples, np.float32), np.zeros(self._samples // HOP, bool)
        at = RATE
        for file in self._files(self._material.speech):
            prompt = normalised(read(file))
            prompt = prompt[: len(prompt) // HOP * HOP]
            if at + len(prompt) > len(samples) - RATE:
                break
            samples[at : at + len(prompt)] += prompt
            truth[at // HOP : (at + len(prompt)) // HOP] = spoken(prompt)
            at = int(at + len(prompt) + self._random.uniform(0.3, 4.0) * RATE) // HOP * HOP
        return samples, truth

    def _pink(self) -> np.ndarray:
        spectrum = np.fft.rfft(self._random.standard_normal(self._samples))
        spectrum /= np.sqrt(np.maximum(np.arange(len(spectrum)), 1))
        return np.fft.irfft(spectrum, self._samples).astype(np.float32)

    def _babble(self) -> np.ndarray:
        out = np.zeros(self._samples, np.float32)
        for _ in range(VOICES):
            files, at = self._files(self._material.babble), 0
            while at < len(out):
                prompt = normalised(read(files[self._random.integers(len(files))]))[: len(out) - at]
                out[at : at + len(prompt)] += prompt
                at += len(prompt)
        return out

    def _song(self) -> np.ndarray:
        stems = [read(file) for file in sorted((self._music / self._material.song).glob("*.ogg"))]
        if not stems:
            raise SystemExit(f"no song {self._material.song} below {self._music}: see --help")
        length = min(map(len, stems))
        song = np.sum([stem[:length] for stem in stems], axis=0)
        return np.resize(np.roll(song, -int(self._random.integers(length))), self._samples).astype(np.float32)


def mixed(speech: np.ndarray, truth: np.ndarray, noise: np.ndarray, level_db: float) -> np.ndarray:
    """Speech in noise: so many dB of speech, where there is any, over noise."""
    power = np.mean(np.square(speech[np.repeat(truth, HOP)]))
    gain = np.sqrt(power / np.mean(np.square(noise)) / 10 ** (level_db / 10))
    both = speech + gain * noise
    return (both / max(1.0, float(np.abs(both).max()))).astype(np.float32)


def error(regions: np.ndarray, truth: np.ndarray) -> float:
    """Steps that are missed or wrongly found, over those that are spoken."""
    found = np.zeros(len(truth), bool)
    for start, end in np.round(regions * RATE / HOP).astype(int).tolist():
        found[start:end] = True
    return float(np.sum(found != truth) / np.sum(truth))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--prompts", type=Path, required=True, help="folder of the unpacked packages")
    parser.add_argument("--music", type=Path, required=True, help="folder of songs as stems")
    parser.add_argument("--backends", nargs="+", default=[*BACKEND_NAMES, AUTO])
    parser.add_argument("--levels", nargs="+", type=int, default=[20, 10, 0], help="dB")
    parser.add_argument("--seconds", type=int, default=180, help="of each mixture")
    parser.add_argument("--develop", action="store_true", help="the set that rules were set on")
    given = parser.parse_args()
    backends = {}
    for name in given.backends:
        try:
            backends[name] = load_backend(name)
        except BackendUnavailable as missing:
            print(f"{name} is not here: {missing}", file=sys.stderr)
    maker = Maker(given.prompts, given.music, DEVELOP if given.develop else HELD_OUT, given.seconds)
    print(f"| {'set to develop on' if given.develop else 'held out'} | {' | '.join(backends)} |")
    print(f"| --- |{' ---: |' * len(backends)}")
    rows = []
    for name, samples, truth in maker.mixtures(tuple(given.levels)):
        errors = []
        for backend in backends.values():
            stream = backend.stream()
            stream.push(samples)
            errors.append(error(stream.finish(), truth))
        rows.append(errors)
        print(f"| {name} | {' | '.join(f'{e:.3f}' for e in errors)} |", flush=True)
    print(f"| mean | {' | '.join(f'{e:.3f}' for e in np.mean(rows, axis=0))} |")


if __name__ == "__main__":
    main()
