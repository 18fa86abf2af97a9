"""Who speaks when: diarization error and the number of speakers, on conversations whose turns are known.

The conversations are made here from prompts of a telephone exchange, 16 kHz (Debian's
asterisk-core-sounds-{en,fr,it,es,ru}-g722), and syllables of some 20 more voices (Debian's klettres-data); Spanish and
English are the same actress there and count as one voice. Half of the voices make the set ``develop``, on which
everything was chosen, the others ``held_out``. One to five speakers take turns of 1.5 to 8 s with gaps and, at every
fifth change, overlap; clean, which is with pink noise 40 dB below the speech, and with it 10 dB below. Truth is the
speech as it was put together, pauses within a turn up to 0.3 s included (as in the evaluations of NIST). Beside them
the real call of pyannote.audio's wheel (30 s, two speakers), where it is given.

The error is pyannote.metrics', of all files together: missed, false and confused speech by the speech there is, overlap
included, with nothing around the borders of turns left out (collar 0) and with 0.25 s on either side left out.

    apt-get download klettres-data asterisk-core-sounds-{en,fr,it,es,ru}-g722   # then dpkg-deb -x each
    python benchmarks/speech_diarization.py --voices FOLDER --call sample.wav --set held_out
    python benchmarks/speech_diarization.py --voices FOLDER --set held_out --backend resemblyzer
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from dataclasses import KW_ONLY, dataclass
from pathlib import Path

import av
import numpy as np
import soundfile
import soxr
import torch
from pyannote.core import Annotation, Segment, Timeline

REPO = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPO))

from pipeline.models.speech.diarize import BACKEND_NAMES, DiarizationBackend, load_backend
from pipeline.stages.diarize.turns import turns_of

RATE = 16000
FRAME = RATE // 100
PAUSE_S = 0.3
"""Longer silence ends a turn of the truth."""
CONDITIONS = {"clean": 40.0, "noise at 10 dB": 10.0}
"""Pink noise below the speech, dB: without any, digital silence between recordings would be unlike a real one."""
SETS = ("develop", "held_out")
SEEDS = {"develop": 1000, "held_out": 9000}
SAME_VOICE = {"es_MX_f_Allison": "en_US_f_Allison"}
TWO_VOICES = ("klettres-de",)
"""A woman spells its letters, a man says its syllables."""
NO_SPEECH = ("beep", "silence", "tone", "ascending", "descending", "confbridge-join", "confbridge-leave")
RESERVED = {
    "develop": ("en_US_f_Allison", "it_IT_m_Carlo"),
    "held_out": ("fr_CA_f_June", "ru_RU_f_IvrvoiceRU"),
}
COLLARS_S = (0.0, 0.25)

Turns = list[tuple[float, float, str]]
"""Start and end in seconds, and who."""


@dataclass(frozen=True)
class Conversation:
    """Mono float32 at 16 kHz, and its true turns."""

    name: str
    samples: np.ndarray
    turns: Turns
    _: KW_ONLY
    condition: str

    @property
    def seconds(self) -> float:
        return len(self.samples) / RATE

    @property
    def speakers(self) -> int:
        return len({who for _, _, who in self.turns})


def voices(folder: Path) -> dict[str, list[Path]]:
    """Voice → its recordings, of all packages below ``folder``."""
    found: dict[str, list[Path]] = {}
    for path in sorted(folder.rglob("*.g722")):
        if not any(word in path.name for word in NO_SPEECH):
            parts = path.parts
            name = parts[parts.index("sounds") + 1]
            found.setdefault(SAME_VOICE.get(name, name), []).append(path)
    for path in sorted(folder.rglob("*.ogg")):
        if "klettres" in path.parts and path.parent.name in ("alpha", "syllab"):
            name = f"klettres-{path.parent.parent.name}"
            found.setdefault(f"{name}-{path.parent.name}" if name in TWO_VOICES else name, []).append(path)
    return {name: files for name, files in found.items() if len(files) >= 20}


def voices_of(which: str, everyone: dict[str, list[Path]]) -> dict[str, list[Path]]:
    """The voices of one set: its prompts, and every other of the voices of syllables."""
    short = sorted(name for name in everyone if name.startswith("klettres-"))
    names = [*RESERVED[which], *short[SETS.index(which) :: 2]]
    return {name: everyone[name] for name in names if name in everyone}


def load(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """A recording as mono float32 at 16 kHz, and which of its frames of 10 ms are speech; cut to where there is some.

    Of a syllable only its loudest stretch is taken: before and after it these recordings have clicks and breath.
    """
    if path.suffix == ".g722":
        with av.open(str(path), format="g722") as container:
            frames = [frame.to_ndarray().reshape(-1) for frame in container.decode(audio=0)]
        samples = np.concatenate(frames).astype(np.float32) / 32768
    else:
        samples, rate = soundfile.read(path, dtype="float32", always_2d=True)
        samples = soxr.resample(samples.mean(axis=1), rate, RATE)
    speech = active(samples)
    found = runs(speech)
    if not len(found):
        return samples[:0], speech[:0]
    if path.suffix == ".ogg":
        power = [np.sum(samples[first * FRAME : end * FRAME] ** 2) for first, end in found]
        found = found[[int(np.argmax(power))]]
    first, end = found[0][0], found[-1][1]
    return samples[first * FRAME : end * FRAME], speech[first:end]


def active(samples: np.ndarray) -> np.ndarray:
    """Which frames of 10 ms are speech: within 30 dB of the loudest and 8 dB above the quietest, with 50 ms around."""
    frames = samples[: len(samples) // FRAME * FRAME].reshape(-1, FRAME)
    level = 10 * np.log10(np.mean(frames**2, axis=1) + 1e-10) if len(frames) else np.zeros(0)
    if not len(level) or level.max() < -60:
        return np.zeros(len(level), bool)
    floor = min(np.percentile(level, 10) + 8, level.max() - 10)
    return np.convolve(level > max(level.max() - 30, floor), np.ones(11), "same") > 0.5


def spoken(voice: list[Path], seconds: float, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """At least so many seconds of one voice, recordings with short pauses between them, and which frames are speech."""
    pieces: list[tuple[np.ndarray, np.ndarray]] = []
    while sum(len(piece) for piece, _ in pieces) < seconds * RATE:
        piece, speech = load(voice[rng.integers(len(voice))])
        if 0.15 * RATE < len(piece) < 8 * RATE:
            pause = int(rng.uniform(5, 25))
            level = np.sqrt(np.mean(piece[np.repeat(speech, FRAME)] ** 2))
            pieces += [(piece / level, speech), (np.zeros(pause * FRAME, np.float32), np.zeros(pause, bool))]
    samples, speech = zip(*pieces[:-1], strict=True)
    return np.concatenate(samples), np.concatenate(speech)


def converse(
    cast: dict[str, list[Path]], seconds: float, rng: np.random.Generator
) -> tuple[np.ndarray, Turns]:
    """A conversation of these voices, in which each has the word at least twice."""
    names = list(cast)
    gains = {name: 0.05 * 10 ** (rng.uniform(-4, 4) / 20) for name in names}
    order, turns, at, before = [*names, *rng.permutation(names)], [], 0.5, ""
    samples = np.zeros(int((seconds + 60) * RATE), np.float32)
    while at < seconds or order:
        others = [name for name in names if name != before] or names
        who = str(order.pop(0)) if order else str(rng.choice(others))
        turn, speech = spoken(cast[who], rng.uniform(1.5, 8), rng)
        if who != before and before and rng.random() < 0.2:
            at = max(at - rng.uniform(0.2, 1.2), 0.0)
        else:
            at += rng.uniform(0.1, 1.2)
        first = int(at * RATE)
        if first + len(turn) > len(samples):
            samples = np.pad(samples, (0, first + len(turn) - len(samples)))
        samples[first : first + len(turn)] += turn * gains[who]
        turns += [(first / RATE + a, first / RATE + b, who) for a, b in spans(speech)]
        at, before = (first + len(turn)) / RATE, who
    return samples[: int((at + 0.5) * RATE)], turns


def runs(true: np.ndarray) -> np.ndarray:
    """First frame and the one after the last of each run, ``[runs, 2]``."""
    return np.flatnonzero(np.diff(np.concatenate(([0], true.astype(int), [0])))).reshape(-1, 2)


def spans(speech: np.ndarray) -> Iterator[tuple[float, float]]:
    """Start and end of the runs of speech in seconds, pauses up to `PAUSE_S` closed."""
    starts, ends = (runs(speech) / 100).T
    keep = np.flatnonzero(starts[1:] - ends[:-1] > PAUSE_S)
    yield from zip(starts[[0, *(keep + 1)]].tolist(), ends[[*keep, -1]].tolist(), strict=True)


def pink(samples: int, rng: np.random.Generator) -> np.ndarray:
    """Noise of equal power in each octave, of power one."""
    spectrum = np.fft.rfft(rng.standard_normal(samples))
    spectrum /= np.sqrt(np.maximum(np.arange(len(spectrum)), 1))
    noise = np.fft.irfft(spectrum, samples)
    return (noise / np.sqrt(np.mean(noise**2))).astype(np.float32)


def conversations(which: str, folder: Path, each: int, seconds: float) -> Iterator[Conversation]:
    """For 1 to 5 speakers so many conversations of one set, each clean and noisy."""
    pool = voices_of(which, voices(folder))
    prompts = [name for name in RESERVED[which] if name in pool]
    for speakers in range(1, 6):
        for index in range(each):
            rng = np.random.default_rng([SEEDS[which], speakers, index])
            chosen = [str(name) for name in rng.permutation(list(pool))[:speakers]]
            if not set(chosen) & set(prompts):
                chosen[0] = prompts[index % len(prompts)]
            samples, turns = converse({name: pool[name] for name in chosen}, seconds, rng)
            name = f"{speakers} speakers, {index}"
            noise = pink(len(samples), rng) * np.sqrt(np.mean(samples[samples != 0] ** 2))
            for condition, decibels in CONDITIONS.items():
                mixed = samples + noise * np.float32(10 ** (-decibels / 20))
                yield Conversation(name, mixed, turns, condition=condition)


def call(path: Path) -> Conversation:
    """A recording with its RTTM beside it."""
    samples, rate = soundfile.read(path, dtype="float32", always_2d=True)
    rows = [line.split() for line in path.with_suffix(".rttm").read_text(encoding="utf-8").splitlines()]
    turns = [(float(row[3]), float(row[3]) + float(row[4]), row[7]) for row in rows if row]
    return Conversation(
        path.stem, soxr.resample(samples.mean(axis=1), rate, RATE), turns, condition="real call"
    )


@dataclass
class Score:
    """What is added up over the recordings of one condition."""

    recordings: int = 0
    right: int = 0
    seconds: float = 0.0
    cpu_s: float = 0.0

    def __post_init__(self) -> None:
        from pyannote.metrics.diarization import DiarizationErrorRate

        # The metric's collar is the whole width around a border.
        self.errors = [DiarizationErrorRate(collar=2 * side) for side in COLLARS_S]

    def add(self, conversation: Conversation, found: Turns, cpu_s: float) -> None:
        truth, guess = annotation(conversation.turns), annotation(found)
        everything = Timeline([Segment(0, conversation.seconds)])
        for error in self.errors:
            error(truth, guess, uem=everything)
        self.recordings += 1
        self.right += len({who for _, _, who in found}) == conversation.speakers
        self.seconds += conversation.seconds
        self.cpu_s += cpu_s

    def row(self, condition: str) -> str:
        rates = [f"{100 * abs(error):.1f} %" for error in self.errors]
        parts = self.errors[0].accumulated_
        kinds = ("missed detection", "false alarm", "confusion")
        shares = [f"{100 * parts[kind] / parts['total']:.1f} %" for kind in kinds]
        count = f"{self.right} of {self.recordings}"
        speed = f"{self.seconds / max(self.cpu_s, 1e-9):.0f}"
        return f"| {' | '.join([condition, *rates, *shares, count, speed])} |"


def annotation(turns: Turns) -> Annotation:
    made = Annotation()
    for track, (start, end, who) in enumerate(turns):
        made[Segment(start, end), track] = who
    return made


def diarized(conversation: Conversation, backend: DiarizationBackend) -> Turns:
    stream = backend.stream()
    stream.push(conversation.samples)
    return [(turn.start_s, turn.end_s, turn.speaker) for turn in turns_of(stream.finish()).turns()]


def measure(
    recordings: Iterator[Conversation], backend: DiarizationBackend, *, verbose: bool
) -> dict[str, Score]:
    scores: dict[str, Score] = {}
    for conversation in recordings:
        begin = time.process_time()
        found = diarized(conversation, backend)
        score = scores.setdefault(conversation.condition, Score())
        score.add(conversation, found, time.process_time() - begin)
        if verbose:
            speakers = len({who for _, _, who in found})
            print(
                f"{conversation.name}, {conversation.condition}: {speakers} found",
                file=sys.stderr,
                flush=True,
            )
    return scores


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--voices", type=Path, help="folder with the unpacked packages")
    parser.add_argument(
        "--call", type=Path, help="sample.wav of pyannote.audio's wheel, with sample.rttm beside it"
    )
    parser.add_argument(
        "--set", choices=SETS, default="develop", help="held_out is for the last figures only"
    )
    parser.add_argument("--backend", choices=BACKEND_NAMES, default=BACKEND_NAMES[0])
    parser.add_argument("--model", help="of ecapa and pyannote: a folder, or owner/name in the hub's cache")
    parser.add_argument("--each", type=int, default=3, help="conversations for each number of speakers")
    parser.add_argument("--seconds", type=float, default=60, help="length of a conversation, at least")
    parser.add_argument(
        "--quick", action="store_true", help="one conversation for each number of speakers, 30 s"
    )
    parser.add_argument("--verbose", action="store_true", help="say each recording on stderr")
    given = parser.parse_args()
    if given.voices is None and given.call is None:
        parser.error("give --voices, --call, or both")
    torch.set_num_threads(1)
    backend = load_backend(given.backend, model=given.model)
    each, seconds = (1, 30.0) if given.quick else (given.each, given.seconds)
    recordings: list[Iterator[Conversation]] = [iter([call(given.call)])] if given.call else []
    if given.voices:
        recordings.append(conversations(given.set, given.voices, each, seconds))
    kinds = ("missed", "false", "confused", "speakers right", "times real time, one core")
    print(f"\n| {given.set} | error | error, 0.25 s left out | {' | '.join(kinds)} |")
    print("|---|" + "---|" * (2 + len(kinds)))
    for part in recordings:
        for condition, score in measure(part, backend, verbose=given.verbose).items():
            print(score.row(condition), flush=True)


if __name__ == "__main__":
    main()
