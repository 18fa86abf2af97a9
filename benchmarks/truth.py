"""Beats, tempo, keys, tuning and onsets against what is true, ours beside Essentia and librosa, as Markdown tables.

    python benchmarks/truth.py                                  # half of all pieces, the one to develop on
    python benchmarks/truth.py --only key --sets chorales folk
    python benchmarks/truth.py --part held_out --fresh          # the other half: look at it once

The sets are made on the first run (needs apt-get, fluidsynth and a network; some minutes) and kept in --folder:

openttd, planetblupi     MIDI music of two games, each piece through two soundfonts, first 75 s; beats by pretty_midi
frets                    metal songs, with the tempo map of the game they were made for, where that fits the audio
hydrogen                 demo songs of a drum machine: drums alone
chorales, classical, folk  scores of the music21 corpus, first 40 s, in random transpositions; half of them up to 40
                         cents off. Each alone (drum-free) and with drums laid over. See `truth_midi.py`
demo                     the tracks of `make demo`

All renderings of a piece are in the same half, chosen by the hash of its name. Accuracy 1: a tempo within 4 %;
accuracy 2: within 4 % of the tempo, its double or triple, its half or third. Beats: F-measure, CMLt and AMLt of
mir_eval, without the first 5 s. Keys: exact, and MIREX's weighted score. Confidence: how many are right of all, and
of the half with the highest confidence, and the expected calibration error of ours. What peers answered is kept in
--folder, ours is asked anew; --fresh asks all anew.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

for _name in ("OMP", "MKL", "OPENBLAS", "NUMBA"):
    os.environ.setdefault(f"{_name}_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parent))

import soundfile
import truth_peers as peers
import truth_tables as tables
from truth_sets import SETS, Piece, pieces

REPO = Path(__file__).resolve().parents[1]
KNOWS = {"beats": "tempo", "key": "key", "onsets": "onsets", "tuning": "cents"}
"""What a piece has to know to be asked about a subject."""
SETS_OF = {
    "beats": tuple(SETS),
    "key": ("chorales", "classical", "folk", "demo"),
    "onsets": ("openttd", "planetblupi", "hydrogen", "chorales", "classical", "folk"),
    "tuning": ("chorales", "classical", "folk"),
}


def answers(
    subject: str, name: str, asked: Sequence[Piece], folder: Path, *, fresh: bool
) -> dict[str, dict[str, Any]]:
    """What a contender says of each piece, by set and name; what it cannot is empty, with the error.

    Args:
        subject: of `peers.CONTENDERS`.
        name: of the contender.
        asked: the pieces.
        folder: of the sets; answers are kept in it.
        fresh: ask again what is known.
    """
    kept = folder / "answers" / f"{subject} {name}.json"
    known = json.loads(kept.read_text()) if kept.is_file() and not fresh else {}
    for piece in asked:
        key = f"{piece.set}/{piece.name}"
        if key in known:
            continue
        audio, _ = soundfile.read(folder / piece.audio, dtype="float32")
        try:
            known[key] = peers.CONTENDERS[subject][name](audio)
        except Exception as error:  # noqa: BLE001  what a contender cannot do is a wrong answer, and said
            known[key] = {"error": f"{type(error).__name__}: {error}"}
    kept.parent.mkdir(exist_ok=True)
    kept.write_text(json.dumps(known))
    return known


def judge(questions: list[dict[str, Any]], python: str) -> list[dict[str, float]]:
    """The scores of `truth_metrics.judged`, by mir_eval in its own environment."""
    script = Path(__file__).with_name("truth_metrics.py")
    done = subprocess.run(  # noqa: S603
        [python, str(script)], input=json.dumps(questions), capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout)


def with_times(rows: list[dict[str, Any]], python: str) -> None:
    """Put scores of beats, downbeats and onsets into rows."""
    questions, places = [], []
    for row in rows:
        for what in ("beats", "downbeats", "onsets"):
            true, found = row["true"].get(what), row["answer"].get(what)
            if true and found is not None:
                kind = "onsets" if what == "onsets" else "beats"
                questions.append({"kind": kind, "true": true, "found": found})
                places.append((row, what))
    for (row, what), scores in zip(places, judge(questions, python), strict=True):
        row["times"][what] = scores


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--part", choices=("develop", "held_out", "both"), default="develop")
    parser.add_argument("--only", nargs="+", choices=tuple(peers.CONTENDERS), default=tuple(peers.CONTENDERS))
    parser.add_argument("--sets", nargs="+", choices=tuple(SETS), default=tuple(SETS))
    parser.add_argument("--contenders", nargs="+", help="those whose names begin so; all by default")
    parser.add_argument(
        "--folder", type=Path, default=REPO / "out" / "truth", help="of the sets; made where missing"
    )
    parser.add_argument("--fresh", action="store_true", help="ask peers again, too")
    parser.add_argument(
        "--json", type=Path, help="all answers and scores; FOLDER/answers-PART.json by default"
    )
    options = parser.parse_args()
    wanted = tuple(options.contenders or ("",))
    python = peers.install(options.folder / "venv")
    all_pieces = pieces(options.folder, options.sets, options.part)
    print(f"{tables.machine()}; part: {options.part}\n", flush=True)
    rows: list[dict[str, Any]] = []
    for subject in options.only:
        asked = [
            p for p in all_pieces if p.set in SETS_OF[subject] and getattr(p, KNOWS[subject]) is not None
        ]
        these = []
        for name in peers.CONTENDERS[subject]:
            if not name.startswith(wanted) or not peers.there(name):
                continue
            fresh = options.fresh or name.startswith("ours")
            said = answers(subject, name, asked, options.folder, fresh=fresh)
            these += [
                {"subject": subject, "contender": name, "set": p.set, "piece": p.name, "true": vars(p),
                 "answer": said[f"{p.set}/{p.name}"], "times": {}}
                for p in asked
            ]  # fmt: skip
        with_times(these, python)
        tables.show(subject, these)
        rows += these
    out = options.json or options.folder / f"answers-{options.part}.json"
    out.write_text(json.dumps(rows))


if __name__ == "__main__":
    main()
