"""What is played in the sets of `truth.py`, and when: MIDI files for the synthesiser, and their truth as JSON.

    python benchmarks/truth_midi.py files openttd out/truth/openttd FOLDER      # of MIDI files as they are
    python benchmarks/truth_midi.py scores chorales out/truth/chorales          # of scores of the music21 corpus
    python benchmarks/truth_midi.py program 24 OUT.mid FILE.mid                 # a file played by one instrument

It runs in the virtual environment of `truth_peers.py`, which has pretty_midi and music21, and needs nothing of the
project. Beats of MIDI files are those of ``pretty_midi``; of scores those of the time signature, where the whole
excerpt keeps to one. A score's key is that of its key signature, major or minor as the bass of its last chord is the
tonic of one or of the other; scores of which it is neither, or whose first and last signatures differ, are left out.
Everything that is drawn is drawn by the name of the piece: transposition, tuning, instrument, soundfont and tempo.
"""

from __future__ import annotations

import json
import sys
import warnings
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mido
import numpy as np
import pretty_midi

SECONDS = 75.0
"""Of a MIDI file, from its beginning."""
SCORE_SECONDS = 40.0
FONTS = ("TimGM6mb", "FluidR3_GM")
PITCH_CLASSES = ("C", "C#", "D", "D#", "E", "F", "F#", "G", "G#", "A", "A#", "B")
LARGEST_DETUNE_CENTS = 40.0
LARGEST_FILE = 64_000
"""Bytes: larger scores take minutes to read."""
_HOLD, _NOTES_OFF = 64, 123


@dataclass(frozen=True)
class Style:
    """Scores of one kind.

    Args:
        folders: of the corpus.
        suffixes: of the files.
        most: pieces that are taken, in the order of the hashes of their names.
        programs: General MIDI instruments, one of which plays the piece.
        bpm: least and most beats per minute.
    """

    folders: tuple[str, ...]
    suffixes: tuple[str, ...]
    most: int
    programs: tuple[int, ...]
    bpm: tuple[float, float]


STYLES = {
    # Organ, choir, strings, brass, piano, harpsichord.
    "chorales": Style(("bach",), (".mxl", ".xml"), 60, (19, 52, 48, 61, 0, 6), (66.0, 96.0)),
    # Piano, strings, harpsichord, clarinet.
    "classical": Style(
        ("beethoven", "mozart", "haydn", "schumann_robert", "schumann_clara", "chopin", "corelli", "cpebach",
         "handel", "schubert", "joplin", "weber", "beach", "verdi", "johnson_j_r", "liliuokalani"),
        (".mxl", ".xml", ".krn", ".musicxml"), 48, (0, 48, 6, 71), (70.0, 140.0),
    ),
    # One voice: violin, flute, oboe, guitar, harp, piano. The accordion of TimGM6mb is out of tune.
    "folk": Style(("ryansMammoth", "airdsAirs"), (".abc",), 48, (40, 73, 68, 25, 46, 0), (84.0, 126.0)),
}  # fmt: skip


def rounded(times: Any) -> list[float]:
    return [round(float(t), 4) for t in times]


def onsets(midi: pretty_midi.PrettyMIDI, seconds: float) -> list[float]:
    """When notes begin, ascending, each time once."""
    starts = {round(n.start, 4) for i in midi.instruments for n in i.notes}
    return sorted(t for t in starts if t < seconds)


def of_file(path: Path, out: Path) -> dict[str, Any]:
    """The truth of a MIDI file, of which the beginning is copied to ``out``."""
    midi = pretty_midi.PrettyMIDI(str(path))
    _copy_beginning(path, out, midi.time_to_tick(SECONDS + 1.0))
    seconds = min(SECONDS, midi.get_end_time())
    beats, downbeats = midi.get_beats(), midi.get_downbeats()
    signatures = {(s.numerator, s.denominator) for s in midi.time_signature_changes if s.time < seconds}
    beats, downbeats = beats[beats < seconds], downbeats[downbeats < seconds]
    per_bar = np.diff(np.searchsorted(beats, downbeats - 1e-3))
    return {
        "seconds": seconds, "beats": rounded(beats), "downbeats": rounded(downbeats) if signatures else None,
        "tempo": 60.0 / float(np.median(np.diff(beats))),
        "meter": int(np.median(per_bar)) if signatures and len(per_bar) else None,
        "onsets": onsets(midi, seconds), "drums": any(i.is_drum and i.notes for i in midi.instruments),
        "fonts": list(FONTS),
    }  # fmt: skip


def _copy_beginning(path: Path, out: Path, last_tick: int) -> None:
    midi = mido.MidiFile(str(path), clip=True)
    for track in midi.tracks:
        ticks, kept = 0, []
        for message in track:
            ticks += message.time
            if ticks > last_tick or message.type == "end_of_track":
                break
            kept.append(message)
        # fluidsynth plays on until the last note has ended.
        channels = {message.channel for message in kept if not message.is_meta and message.type != "sysex"}
        off = [
            mido.Message("control_change", channel=channel, control=control, value=0)
            for channel in sorted(channels)
            for control in (_HOLD, _NOTES_OFF)
        ]
        track[:] = [*kept, *off, mido.MetaMessage("end_of_track")]
    midi.save(str(out))


def files(folder: Path, out: Path) -> Iterator[dict[str, Any]]:
    """The truth of every MIDI file of a folder."""
    for path in sorted(folder.rglob("*.mid")):
        name = path.stem
        yield {"piece": name, "name": name, "midi": f"{name}.mid"} | of_file(path, out / f"{name}.mid")


@dataclass(frozen=True)
class Score:
    """A score as it is played.

    Args:
        notes: start and end in quarters, MIDI pitch: float ``[notes, 3]``.
        tonic: pitch class, 0 for C.
        mode: major or minor.
        grid: first downbeat, beat and bar in quarters; None where the score has no single metre.
    """

    notes: np.ndarray
    tonic: int
    mode: str
    grid: tuple[float, float, float] | None


def read_score(path: Path) -> Score | None:
    """A score of the corpus, or None where it does not tell its key."""
    from music21 import converter

    found = converter.parse(str(path))
    if not hasattr(found, "parts") or not len(found.parts):
        return None
    rows = [
        (float(n.offset), float(n.offset + n.quarterLength), p.midi)
        for part in found.parts
        for n in part.stripTies().flatten().notes
        if n.quarterLength > 0
        for p in n.pitches
    ]
    if len(rows) < 20:
        return None
    notes = np.array(sorted(rows))
    key = _key(found, notes)
    return None if key is None else Score(notes, *key, _grid(found.parts[0]))


def _key(score: Any, notes: np.ndarray) -> tuple[int, str] | None:
    sharps = [k.sharps for k in score.parts[0].flatten().getElementsByClass("KeySignature")]
    if not sharps or sharps[0] != sharps[-1]:
        return None
    last = notes[notes[:, 1] > notes[:, 1].max() - 1e-6]
    bass = int(last[:, 2].min()) % 12
    tonics = {"major": sharps[0] * 7 % 12, "minor": (sharps[0] * 7 + 9) % 12}
    return next(((tonic, mode) for mode, tonic in tonics.items() if tonic == bass), None)


def _grid(part: Any) -> tuple[float, float, float] | None:
    signatures = list(part.flatten().getElementsByClass("TimeSignature"))
    measures = list(part.getElementsByClass("Measure"))
    if len({s.ratioString for s in signatures}) != 1 or len(measures) < 4:
        return None
    beat, bar = signatures[0].beatDuration.quarterLength, signatures[0].barDuration.quarterLength
    starts = [float(m.offset) for m in measures]
    first = starts[0] if abs(starts[1] - starts[0] - bar) < 1e-6 else starts[1]
    away = np.mod(np.array(starts) - first + 1e-6, float(beat))
    return (first, float(beat), float(bar)) if np.mean(away < 1e-3) > 0.9 else None


def play(score: Score, style: Style, name: str, out: Path) -> list[dict[str, Any]]:
    """Write the score twice, alone and with drums laid over: the truth of each."""
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    transposed, program = int(rng.integers(-6, 6)), int(rng.choice(style.programs))
    font, bpm = str(rng.choice(FONTS)), float(rng.uniform(*style.bpm))
    cents = float(rng.uniform(-LARGEST_DETUNE_CENTS, LARGEST_DETUNE_CENTS)) if rng.random() < 0.5 else 0.0
    first, beat, bar = score.grid or (0.0, 1.0, 4.0)
    per_quarter = 60.0 / bpm / beat
    end = min(SCORE_SECONDS, score.notes[:, 1].max() * per_quarter)
    truth: dict[str, Any] = {
        "piece": name, "seconds": end, "key": f"{PITCH_CLASSES[(score.tonic + transposed) % 12]} {score.mode}",
        "cents": cents, "fonts": [font], "program": program,
    }  # fmt: skip
    if score.grid:
        beats = _steps(first, beat, end / per_quarter)
        bars = _steps(first, bar, end / per_quarter)
        truth |= {"tempo": bpm, "beats": rounded(beats * per_quarter), "downbeats": rounded(bars * per_quarter),
                  "meter": round(bar / beat)}  # fmt: skip
    found = []
    for drums in (False, True):
        midi = pretty_midi.PrettyMIDI(initial_tempo=bpm)
        midi.instruments.append(
            _voices(score, transposed, program, cents, (first, bar, per_quarter, end, rng))
        )
        if drums:
            midi.instruments.append(_drums(first, beat, bar, per_quarter, end))
        file = f"{name}{'-drums' if drums else ''}.mid"
        midi.write(str(out / file))
        found.append(truth | {"name": file[:-4], "midi": file, "drums": drums, "onsets": onsets(midi, end)})
    return found


def _steps(first: float, step: float, end: float) -> np.ndarray:
    start = first - step * int(first / step + 1e-6)
    return np.arange(start, end, step)


def _voices(
    score: Score, transposed: int, program: int, cents: float, place: tuple[float, float, float, float, Any]
) -> pretty_midi.Instrument:
    first, bar, per_quarter, end, rng = place
    voice = pretty_midi.Instrument(program)
    # The range of a pitch bend is two semitones either way.
    voice.pitch_bends.append(pretty_midi.PitchBend(round(cents / 200.0 * 8192), 0.0))
    for start, stop, pitch in score.notes:
        if start * per_quarter < end:
            accent = 10 if abs(np.mod(start - first + 1e-6, bar)) < 1e-3 else 0
            loudness = int(rng.integers(72, 92)) + accent
            times = start * per_quarter, min(stop * per_quarter, end)
            voice.notes.append(pretty_midi.Note(loudness, int(pitch) + transposed, *times))
    return voice


def _drums(first: float, beat: float, bar: float, per_quarter: float, end: float) -> pretty_midi.Instrument:
    """Bass drum on the first beat of a bar and every second after it, snare between, hi-hat twice a beat."""
    kit = pretty_midi.Instrument(0, is_drum=True)
    for step in _steps(first, beat / 2, end / per_quarter):
        place = round((step - first) / (beat / 2)) % round(2 * bar / beat)
        hits = [(42, 70)]
        if place % 2 == 0:
            hits.append((36, 105) if place % 4 == 0 else (38, 95))
        for pitch, loudness in hits:
            kit.notes.append(pretty_midi.Note(loudness, pitch, step * per_quarter, step * per_quarter + 0.1))
    return kit


def scores(style: Style, out: Path) -> Iterator[dict[str, Any]]:
    """Pieces of a style, each alone and with drums."""
    from music21 import corpus

    candidates = [
        Path(p) for p in corpus.getCorePaths()
        if Path(p).suffix in style.suffixes and Path(p).stat().st_size < LARGEST_FILE
        and any(f"/corpus/{folder}/" in str(p) for folder in style.folders)
    ]  # fmt: skip
    taken: set[str] = set()
    for path in sorted(candidates, key=lambda p: zlib.crc32(f"{p.parent.name} {p.name}".encode())):
        name = f"{path.parent.name}-{path.stem}".replace(" ", "_")
        if name in taken:
            continue
        try:
            score = read_score(path)
        except Exception as error:  # noqa: BLE001  what music21 cannot read is left out, and said
            print(f"{name}: {type(error).__name__}: {error}", file=sys.stderr)
            continue
        if score is not None:
            taken.add(name)
            yield from play(score, style, name, out)
        if len(taken) == style.most:
            return


def by_one_instrument(path: Path, program: int, out: Path) -> None:
    """Write the file again, with all that is no drum played by one program of General MIDI, from 0."""
    midi = pretty_midi.PrettyMIDI(str(path))
    midi.instruments = [i for i in midi.instruments if not i.is_drum]
    for instrument in midi.instruments:
        instrument.program = program
    midi.write(str(out))


def main() -> None:
    warnings.simplefilter("ignore")
    kind, name, out = sys.argv[1], sys.argv[2], Path(sys.argv[3])
    if kind == "program":
        by_one_instrument(Path(sys.argv[4]), int(name), out)
        return
    out.mkdir(parents=True, exist_ok=True)
    found = files(Path(sys.argv[4]), out) if kind == "files" else scores(STYLES[name], out)
    (out / "midi.json").write_text(json.dumps(list(found)))


if __name__ == "__main__":
    main()
