"""What a number format costs the transcription: words wrong, words that differ from float32, and speed.

    python benchmarks/speech_precision.py --prompts FOLDER [--most 40] [--precisions int8 float32]

Recordings are those of `speech_words.py`, clean and with pink noise at 5 dB; every format hears the same windows, in
turns, with one thread. Formats that CTranslate2 does not compute in on this processor are said and left out. Times real
time are by CPU time, and mean something only on an idle machine.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

REPO = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(REPO), str(REPO / "benchmarks")]

import jiwer
import numpy as np
from speech_diarization import pink
from speech_words import (
    LANGUAGES,
    SAMPLE_RATE,
    Recording,
    disturbed,
    normalised,
    prompts_of,
    recording_of,
)

from pipeline.models.backends import BackendUnavailable
from pipeline.models.speech.transcribe import choose
from pipeline.models.speech.transcribe.names import PRECISIONS, TranscribeOptions
from pipeline.models.speech.transcribe.transcript import Transcriber

NOISE_DB = 5.0
PLAIN = "float32"


def loaded(model: str, precisions: Sequence[str]) -> dict[str, Transcriber]:
    """Those that there can be, by number format."""
    found = {}
    for precision in precisions:
        options = TranscribeOptions(model=model, precision=precision, threads=1)
        try:
            found[precision] = choose.load_backend("whisper", "cpu", options)
        except BackendUnavailable as error:
            print(f"{precision}: left out, {error}\n")
    return found


def texts(transcriber: Transcriber, recording: Recording, language: str) -> tuple[list[str], float]:
    """What was heard of each prompt, as words to be compared, and the seconds of CPU that it took."""
    began = time.process_time()
    heard = transcriber.recognise(recording.pieces(), language=language)
    spent = time.process_time() - began
    by_start = {round(segment.start_s * SAMPLE_RATE): segment.text for segment in heard}
    return [normalised(by_start.get(start, ""), language) for start in recording.starts], spent


def rows(transcribers: dict[str, Transcriber], recording: Recording, language: str, name: str) -> None:
    """Print a line for each format."""
    said = [normalised(prompt.text, language) for prompt in recording.prompts]
    seconds = sum(len(prompt.samples) for prompt in recording.prompts) / SAMPLE_RATE
    heard = {precision: texts(one, recording, language) for precision, one in transcribers.items()}
    for precision, (found, spent) in heard.items():
        wrong, apart = jiwer.wer(said, found), "–"
        if PLAIN in heard and any(heard[PLAIN][0]):
            both = [pair for pair in zip(heard[PLAIN][0], found, strict=True) if pair[0]]
            apart = f"{100 * jiwer.wer(*map(list, zip(*both, strict=True))):.1f} %"
        print(
            f"| {language}, {name} | {precision} | {100 * wrong:.1f} % | {apart} | {seconds / spent:.1f} |",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--prompts", type=Path, required=True)
    parser.add_argument("--model", default="base")
    parser.add_argument("--languages", nargs="+", default=list(LANGUAGES), choices=LANGUAGES)
    parser.add_argument("--most", type=int, default=40, help="prompts of each language")
    formats = [name for name in PRECISIONS if name != "auto"]
    parser.add_argument("--precisions", nargs="+", default=formats, choices=formats)
    options = parser.parse_args()
    transcribers = loaded(options.model, options.precisions)
    print(
        "| recording | numbers | WER | words unlike float32's | × real time |\n| --- | --- | ---: | ---: | ---: |"
    )
    for language in options.languages:
        clean = recording_of(prompts_of(options.prompts, language, options.most))
        noise = pink(len(clean.samples), np.random.default_rng(1))
        rows(transcribers, clean, language, "clean")
        rows(transcribers, disturbed(clean, noise, NOISE_DB), language, f"pink noise at {NOISE_DB:g} dB")


if __name__ == "__main__":
    main()
