"""How many words the transcription gets wrong, by language and disturbance, and how far off their edges are.

Asterisk's recorded prompts with their published texts: of each language those of five words and more, evenly from their
list; silence, tones and beeps are left out. Their own silence at both ends is cut off, and a recording is made of
them, with pauses of 0.6 to 1.4 s, so that the edges of speech are known.

Texts are compared in lower case, numbers below a hundred as words, larger ones digit by digit, hyphens and apostrophes
as spaces, without any other punctuation; jiwer counts. What differs in spelling alone ("log in", "dieze") counts as an
error. The disturbed recordings are mixtures at a ratio of speech to noise over the whole, as power.

    python benchmarks/speech_words.py --prompts FOLDER [--music FOLDER] [--machines FOLDER] [--quick]

FOLDER holds what the Debian packages asterisk-core-sounds-{en,fr,it} and -{en,fr,it}-g722 contain, unpacked. Music and
machines are any audio files, such as those of simutrans-pak64; without them those lines are missing.
"""

from __future__ import annotations

import argparse
import gzip
import importlib
import re
import sys
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np
import soundfile
import soxr

REPO = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPO))

from pipeline.models.speech.transcribe import choose, whisper
from pipeline.models.speech.transcribe.edges import snap_words
from pipeline.models.speech.transcribe.names import TranscribeOptions
from pipeline.models.speech.transcribe.transcript import (
    SAMPLE_RATE,
    Piece,
    RecognisedSegment,
    RecognisedWord,
    Transcriber,
)

LANGUAGES = ("en", "fr", "it")
LEAST_WORDS = 5
MOST_S = 27.0
_NO_SPEECH = re.compile(r"silence|tone|beep|monkey|^\[|^\(|\bsuono\b", re.IGNORECASE)
_EDGE_DB = -38.0
"""Below a prompt's loudest 10 ms: what is softer at its ends is no speech. Prompts are studio recordings."""

_UNITS = {
    "en": "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen "
    "seventeen eighteen nineteen",
    "fr": "zéro un deux trois quatre cinq six sept huit neuf dix onze douze treize quatorze quinze seize dix-sept "
    "dix-huit dix-neuf",
    "it": "zero uno due tre quattro cinque sei sette otto nove dieci undici dodici tredici quattordici quindici "
    "sedici diciassette diciotto diciannove",
}
_TENS = {
    "en": "twenty thirty forty fifty sixty seventy eighty ninety",
    "fr": "vingt trente quarante cinquante soixante soixante-dix quatre-vingt quatre-vingt-dix",
    "it": "venti trenta quaranta cinquanta sessanta settanta ottanta novanta",
}


class Prompt(NamedTuple):
    """A prompt without the silence at its ends: its name, text, and samples at `SAMPLE_RATE`."""

    name: str
    text: str
    samples: np.ndarray


@dataclass(frozen=True)
class Recording:
    """Prompts one behind the other.

    Args:
        prompts: in order.
        samples: float32 ``[n]``, with the noise in it.
        starts: of each prompt, samples.
    """

    prompts: list[Prompt]
    samples: np.ndarray
    starts: list[int]

    def pieces(self) -> list[Piece]:
        """Each prompt's stretch of the recording."""
        return [
            (start / SAMPLE_RATE, self.samples[start : start + len(prompt.samples)])
            for start, prompt in zip(self.starts, self.prompts, strict=True)
        ]

    def regions(self) -> np.ndarray:
        """Where somebody speaks, ``[prompts, 2]`` in s."""
        starts = np.array(self.starts) / SAMPLE_RATE
        return np.stack([starts, starts + [len(p.samples) / SAMPLE_RATE for p in self.prompts]], axis=1)


def spelled(number: int, language: str) -> str:
    """A number below a hundred in words; a larger one digit by digit."""
    units, tens = _UNITS[language].split(), _TENS[language].split()
    if number >= 100:
        return " ".join(units[int(digit)] for digit in str(number))
    if number < 20:
        return units[number]
    rest = number % 10
    if language == "fr" and number // 10 in (7, 9):
        return f"{tens[number // 10 - 3]} {units[10 + rest]}"
    return tens[number // 10 - 2] + (f" {units[rest]}" if rest else "")


def normalised(text: str, language: str) -> str:
    """A text as words that can be compared."""
    text = unicodedata.normalize("NFC", text).lower()
    text = re.sub(r"\d+", lambda found: f" {spelled(int(found[0]), language)} ", text)
    text = re.sub(r"[^\w\s]|_", " ", text)
    return " ".join(text.split())


def prompts_of(folder: Path, language: str, most: int) -> list[Prompt]:
    """At most so many prompts of a language, evenly from the list of those that are whole sentences."""
    text_file = next(folder.rglob(f"core-sounds-{language}.txt.gz"))
    files = {path.stem: path for path in folder.rglob("*.g722") if f"/{language}_" in str(path)}
    texts = {}
    for line in gzip.decompress(text_file.read_bytes()).decode("utf-8-sig", "replace").splitlines():
        name, _, text = line.partition(":")
        usable = name in files and not _NO_SPEECH.search(f"{text.strip()} {name}") and "?" not in text
        if usable and "\ufffd" not in text and len(normalised(text, language).split()) >= LEAST_WORDS:
            texts[name] = text.strip()
    prompts = (Prompt(name, text, trimmed(_decoded(files[name]))) for name, text in sorted(texts.items()))
    whole = [prompt for prompt in prompts if len(prompt.samples) <= MOST_S * SAMPLE_RATE]
    step = max(1.0, len(whole) / most)
    return [whole[int(i * step)] for i in range(min(most, len(whole)))]


def _decoded(path: Path) -> np.ndarray:
    with av.open(str(path), format="g722") as container:
        frames = [frame.to_ndarray().reshape(-1) for frame in container.decode(audio=0)]
    return np.concatenate(frames).astype(np.float32) / 32768


def trimmed(samples: np.ndarray) -> np.ndarray:
    """Samples without the silence at both ends, to 10 ms."""
    hop = SAMPLE_RATE // 100
    power = (samples[: len(samples) // hop * hop].reshape(-1, hop) ** 2).mean(axis=1)
    loud = np.flatnonzero(power > power.max() * 10 ** (_EDGE_DB / 10))
    return samples[loud[0] * hop : (loud[-1] + 1) * hop]


def recording_of(prompts: list[Prompt], seed: int = 0) -> Recording:
    """The prompts with pauses between them."""
    rng, parts, starts, length = np.random.default_rng(seed), [], [], 0
    for prompt in prompts:
        pause = np.zeros(round(rng.uniform(0.6, 1.4) * SAMPLE_RATE), np.float32)
        starts.append(length + len(pause))
        parts += [pause, prompt.samples]
        length += len(pause) + len(prompt.samples)
    return Recording(prompts, np.concatenate([*parts, np.zeros(SAMPLE_RATE, np.float32)]), starts)


def disturbed(recording: Recording, noise: np.ndarray, ratio_db: float) -> Recording:
    """The recording with noise, repeated as often as is needed, so many dB below the speech."""
    noise = np.resize(noise, len(recording.samples))
    speech = np.concatenate([prompt.samples for prompt in recording.prompts])
    gain = np.sqrt(np.mean(speech**2) / np.mean(noise**2)) * 10 ** (-ratio_db / 20)
    return Recording(recording.prompts, recording.samples + np.float32(gain) * noise, recording.starts)


def sounds(folder: Path, seconds: float) -> np.ndarray:
    """So many seconds of the audio files of a folder, mono, each at the same power, one behind the other."""
    parts, have = [], 0.0
    for path in sorted(p for p in folder.rglob("*") if p.suffix.lower() in (".wav", ".ogg", ".flac")):
        samples, rate = soundfile.read(path, dtype="float32", always_2d=True, frames=120 * 48000)
        mono = soxr.resample(samples.mean(axis=1), rate, SAMPLE_RATE)
        power = float(np.mean(mono**2)) if len(mono) > SAMPLE_RATE // 2 else 0.0
        if power > 0:
            parts.append(mono / np.float32(np.sqrt(power)))
            have += len(mono) / SAMPLE_RATE
        if have >= seconds:
            break
    return np.concatenate(parts)


class Errors(NamedTuple):
    """Word errors over all prompts together, as shares of the words that were said."""

    rate: float
    deleted: float
    inserted: float


def errors(recording: Recording, heard: Sequence[RecognisedSegment], language: str) -> Errors:
    """Errors of what was heard in each prompt's place."""
    import jiwer

    texts = {round(segment.start_s * SAMPLE_RATE): segment.text for segment in heard}
    said = [normalised(prompt.text, language) for prompt in recording.prompts]
    got = [normalised(texts.get(start, ""), language) for start in recording.starts]
    found = jiwer.process_words(said, got)
    words = sum(len(text.split()) for text in said)
    return Errors(found.wer, found.deletions / words, found.insertions / words)


def one_by_one(
    transcriber: Transcriber, pieces: Sequence[Piece], language: str | None
) -> list[RecognisedSegment]:
    """A call, and so a window, for each piece."""
    return [segment for piece in pieces for segment in transcriber.recognise([piece], language=language)]


def edge_errors(
    heard: Sequence[RecognisedSegment],
    truth: np.ndarray,
    mend: Callable[[list[RecognisedWord]], list[RecognisedWord]],
) -> np.ndarray:
    """How far the first start and the last end of each region of speech are off, s.

    Windows of 30 s regardless of the speech, so that nothing but the words says where it is.
    """
    words = mend([word for segment in heard for word in segment.words])
    found = []
    for start, end in truth:
        inside = [w for w in words if min(w.end_s, end) - max(w.start_s, start) > (w.end_s - w.start_s) / 2]
        if inside:
            found += [abs(inside[0].start_s - start), abs(inside[-1].end_s - end)]
    return np.array(found)


def blind_windows(recording: Recording) -> list[Piece]:
    """The recording from pause to pause in windows of up to 28 s, with the pauses."""
    pieces, first = [], 0
    cuts = [start - SAMPLE_RATE // 4 for start in recording.starts[1:]] + [len(recording.samples)]
    for i, cut in enumerate(cuts):
        if i + 1 == len(cuts) or cuts[i + 1] - first > 28 * SAMPLE_RATE:
            pieces.append((first / SAMPLE_RATE, recording.samples[first:cut]))
            first = cut
    return pieces


def detected(samples: np.ndarray) -> np.ndarray:
    """Regions of speech by the Silero detector that faster-whisper carries, ``[n, 2]`` in s."""
    from faster_whisper.vad import VadOptions, get_speech_timestamps

    found = get_speech_timestamps(samples, VadOptions(min_silence_duration_ms=400, speech_pad_ms=0))
    return np.array([[part["start"], part["end"]] for part in found], np.float64).reshape(-1, 2) / SAMPLE_RATE


def denoised(samples: np.ndarray, limit_db: float) -> np.ndarray | None:
    """The samples through this project's denoiser; None where there is none."""
    try:
        load = importlib.import_module("pipeline.models.speech.denoise.choose").load_backend
        backend = load("dtln")
    except Exception as error:  # noqa: BLE001  an optional line of the table, whatever it lacks
        print(f"denoised: left out, {error}", file=sys.stderr)
        return None
    if backend.sample_rate != SAMPLE_RATE:
        return None
    stream = backend.stream(limit_db=limit_db)
    return np.concatenate([stream.push(samples), stream.finish()]).astype(np.float32)


@dataclass(frozen=True)
class Case:
    """A line of the table."""

    name: str
    recording: Recording
    _: KW_ONLY
    alone: bool = False


def cases(clean: Recording, arguments: argparse.Namespace) -> Iterator[Case]:
    """What is heard of one language."""
    yield Case("clean, packed", clean)
    if not arguments.quick:
        yield Case("clean, one call per prompt", clean, alone=True)
    seconds = len(clean.samples) / SAMPLE_RATE
    for name, folder, ratio_db in (("machines", arguments.machines, 5.0), ("music", arguments.music, 0.0)):
        if folder is None:
            continue
        noisy = disturbed(clean, sounds(folder, seconds), ratio_db)
        yield Case(f"{name} at {ratio_db:g} dB", noisy)
        cleaner = None if arguments.quick else denoised(noisy.samples, 12.0)
        if cleaner is not None:
            yield Case(
                f"{name} at {ratio_db:g} dB, denoised by 12 dB",
                Recording(noisy.prompts, cleaner, noisy.starts),
            )


def report(transcriber: Transcriber, language: str, clean: Recording, arguments: argparse.Namespace) -> None:
    """Print the lines of one language."""
    print(f"\n### {arguments.model}, {language}: {len(clean.prompts)} prompts, ", end="")
    print(f"{sum(len(p.samples) for p in clean.prompts) / SAMPLE_RATE:.0f} s of speech\n")
    print(
        "| | WER | deleted | inserted | language | its probability |\n| --- | ---: | ---: | ---: | --- | ---: |"
    )
    for case in cases(clean, arguments):
        pieces = case.recording.pieces()
        heard = one_by_one(transcriber, pieces, language) if case.alone else transcriber.recognise(pieces)
        found = errors(case.recording, heard, language)
        sure = heard[0].language_probability if heard else None
        known = f"{heard[0].language if heard else 'none'} | {'not asked' if sure is None else f'{sure:.2f}'}"
        numbers = " | ".join(f"{100 * value:.1f} %" for value in found)
        print(f"| {case.name} | {numbers} | {'given | not asked' if case.alone else known} |", flush=True)
    heard = transcriber.recognise(blind_windows(clean), language=language)
    truth, regions = clean.regions(), detected(clean.samples)
    print("\n| edges of speech | mean error | median |\n| --- | ---: | ---: |")
    for name, mend in (("as recognised", list), ("snapped", lambda words: snap_words(words, regions))):
        off = edge_errors(heard, truth, mend)
        print(f"| {name} | {off.mean():.3f} s | {np.median(off):.3f} s |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--prompts", type=Path, required=True)
    parser.add_argument("--music", type=Path)
    parser.add_argument("--machines", type=Path)
    parser.add_argument("--model", default="base")
    parser.add_argument("--languages", nargs="+", default=list(LANGUAGES), choices=LANGUAGES)
    parser.add_argument("--most", type=int, default=120, help="prompts of each language")
    parser.add_argument(
        "--gap", type=float, help="seconds of silence between packed pieces instead of the built-in"
    )
    parser.add_argument(
        "--quick", action="store_true", help="12 prompts, and neither one by one nor denoised"
    )
    arguments = parser.parse_args()
    if arguments.gap is not None:
        whisper.GAP = round(arguments.gap * SAMPLE_RATE)
    transcriber = choose.load_backend("whisper", "cpu", TranscribeOptions(model=arguments.model))
    print(f"{transcriber.model_id()}, gaps of {whisper.GAP / SAMPLE_RATE:g} s")
    for language in arguments.languages:
        if transcriber.refuses(language) is None:
            prompts = prompts_of(arguments.prompts, language, 12 if arguments.quick else arguments.most)
            report(transcriber, language, recording_of(prompts), arguments)


if __name__ == "__main__":
    main()
