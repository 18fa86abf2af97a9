"""Conversations whose words, speakers and times are known, made of recorded prompts: what `benchmarks/speech.py` hears.

Each is in one language, of which Debian has one voice (asterisk-core-sounds-XX-g722): the other speakers are that
voice resampled, lower or higher and as much slower or faster, as a tape would be. That may be harder or easier than
other people would be, so figures of who speaks when come from `benchmarks/speech_diarization.py`. The real call of
pyannote.audio's wheel stands beside them.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile
import soxr

REPO = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(REPO), str(REPO / "benchmarks")]

from speech_diarization import pink
from speech_words import SAMPLE_RATE, Prompt, prompts_of

SPEEDS = (1.0, 0.8, 1.2)
"""Of the tape, for each speaker."""
GAPS_S = (0.3, 1.2)
NOISE_DB = 40.0
"""Pink noise below the speech: digital silence between prompts would be unlike a recording."""
LEVEL = 0.05


class Said(NamedTuple):
    """A stretch of one speaker's words, in seconds."""

    start_s: float
    end_s: float
    speaker: str
    text: str


class Talk(NamedTuple):
    """A recording: mono float32 at `SAMPLE_RATE`, and what is said in it, in order of time."""

    name: str
    language: str
    samples: np.ndarray
    said: list[Said]

    @property
    def seconds(self) -> float:
        return len(self.samples) / SAMPLE_RATE


def talks(folder: Path, languages: Sequence[str], each: int, *, seconds: float) -> Iterator[Talk]:
    """So many conversations of each language, of two and three speakers in turn; no prompt is in two of them.

    Args:
        folder: the unpacked packages.
        languages: ``en`` and so on.
        each: conversations of a language.
        seconds: length that each reaches, or the end of its prompts.
    """
    for language in languages:
        prompts = prompts_of(folder, language, 1000)
        order = np.random.default_rng(5).permutation(len(prompts))
        for index in range(each):
            own = [prompts[i] for i in order[index::each]]
            yield conversation(f"{language}-{index}", language, own, speakers=2 + index % 2, seconds=seconds)


def conversation(name: str, language: str, prompts: list[Prompt], *, speakers: int, seconds: float) -> Talk:
    """Prompts in turn, one or two at a time, each by another speaker than the one before."""
    rng = np.random.default_rng([len(prompts), speakers])
    parts, said, at, speaker = [], [], 0.0, -1
    left = iter(prompts)
    while at < seconds:
        speaker = (speaker + int(rng.integers(1, speakers))) % speakers
        turn = list(islice(left, int(rng.integers(1, 3))))
        if not turn:
            break
        for prompt in turn:
            gap = np.zeros(round(rng.uniform(*GAPS_S) * SAMPLE_RATE), np.float32)
            voice = spoken(prompt.samples, SPEEDS[speaker])
            start = at + len(gap) / SAMPLE_RATE
            at = start + len(voice) / SAMPLE_RATE
            parts += [gap, voice]
            said.append(Said(start, at, f"speaker{speaker}", prompt.text))
    samples = np.concatenate([*parts, np.zeros(SAMPLE_RATE // 2, np.float32)])
    noise = pink(len(samples), rng) * np.float32(LEVEL * 10 ** (-NOISE_DB / 20))
    return Talk(name, language, samples + noise, said)


def spoken(samples: np.ndarray, speed: float) -> np.ndarray:
    """A prompt at one level and at another speed of the tape."""
    heard = soxr.resample(samples, SAMPLE_RATE * speed, SAMPLE_RATE) if speed != 1 else samples
    return (heard * (LEVEL / np.sqrt(np.mean(heard**2)))).astype(np.float32)


def call(path: Path) -> Talk:
    """A recording in English with its STM beside it."""
    samples, rate = soundfile.read(path, dtype="float32", always_2d=True)
    lines = [
        line.split(maxsplit=5) for line in path.with_suffix(".stm").read_text(encoding="utf-8").splitlines()
    ]
    said = [Said(float(line[3]), float(line[4]), line[2], line[5]) for line in lines if line]
    return Talk(path.stem, "en", soxr.resample(samples.mean(axis=1), rate, SAMPLE_RATE), said)
