"""The sets of `truth.py`: audio whose beats, key, tuning and onsets are known, made here and kept in a folder.

Everything is of Debian and of the music21 corpus, and is made once: packages are fetched with ``apt-get download``
and unpacked beside the audio, nothing is installed but fluidsynth, which has to be there. See `truth_midi.py` for the
truth of MIDI files and scores, `truth_render.py` for the sound.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import truth_peers as peers
import truth_render as render

REPO = Path(__file__).resolve().parents[1]
MIDI = Path(__file__).with_name("truth_midi.py")
PARTS = ("develop", "held_out")
PACKAGES = ("openttd-openmsx", "planetblupi-music-midi", "timgm6mb-soundfont", "fluid-soundfont-gm",
            "fretsonfire-songs-sectoid", "fretsonfire-songs-muldjord", "hydrogen-data")  # fmt: skip


@dataclass(frozen=True)
class Piece:
    """A file of audio, and what is true of it; None where nothing is known.

    Args:
        set: the name of its set.
        piece: the music; all its renderings are in one part.
        name: this rendering's, unique in its set.
        audio: the file, relative to the folder of the sets.
        seconds: its length.
        tempo: beats per minute.
        beats, downbeats: their times, s.
        meter: beats in a bar.
        onsets: when notes begin, s.
        key: such as ``F# minor``.
        cents: how far its A lies from 440 Hz.
        drums: whether there are drums.
    """

    set: str
    piece: str
    name: str
    audio: str
    seconds: float
    tempo: float | None = None
    beats: list[float] | None = field(default=None, repr=False)
    downbeats: list[float] | None = field(default=None, repr=False)
    meter: int | None = None
    onsets: list[float] | None = field(default=None, repr=False)
    key: str | None = None
    cents: float | None = None
    drums: bool | None = None

    @property
    def part(self) -> str:
        """``develop`` or ``held_out``."""
        return part_of(self.piece)


def part_of(piece: str) -> str:
    """The part that a piece belongs to, by its name alone: every other one, roughly."""
    return PARTS[zlib.crc32(f"truth {piece}".encode()) >> 7 & 1]


def _piece(name: str, truth: dict[str, Any], audio: str, rendering: str) -> Piece:
    known = {k: v for k, v in truth.items() if k in Piece.__dataclass_fields__}
    return Piece(**known | {"set": name, "name": rendering, "audio": audio})


def _unpacked(folder: Path) -> Path:
    """The files of the Debian packages, fetched where they are not there."""
    debian = folder / "debian"
    debian.mkdir(parents=True, exist_ok=True)
    for package in PACKAGES:
        if not list(debian.glob(f"{package}_*.deb")):
            subprocess.run(["apt-get", "download", "-q", package], cwd=debian, check=True)  # noqa: S603, S607
            [archive] = debian.glob(f"{package}_*.deb")
            subprocess.run(["dpkg-deb", "-x", str(archive), str(debian)], check=True)  # noqa: S603, S607
    return debian / "usr" / "share"


def _of_midi(name: str, folder: Path, kind: str, source: str = "") -> list[Piece]:
    out, share = folder / name, _unpacked(folder)
    if not (out / "midi.json").is_file():
        more = [str(share / source)] if source else []
        command = [peers.install(folder / "venv"), str(MIDI), kind, name, str(out), *more]
        subprocess.run(command, check=True)  # noqa: S603
    found = []
    for truth in json.loads((out / "midi.json").read_text()):
        fonts = truth["fonts"]
        for font in fonts:
            rendering = truth["name"] + (f"@{font}" if len(fonts) > 1 else "")
            flac = out / f"{rendering}.flac"
            if not flac.is_file():
                sound = share / "sounds" / "sf2" / f"{font}.sf2"
                render.synthesise(out / truth["midi"], sound, flac, truth["seconds"])
            found.append(_piece(name, truth, str(flac.relative_to(folder)), rendering))
    return found


def openttd(folder: Path) -> list[Piece]:
    """31 pieces of the game, each with two soundfonts."""
    return _of_midi("openttd", folder, "files", "games/openttd/baseset")


def planetblupi(folder: Path) -> list[Piece]:
    """Ten loops of the game, each with two soundfonts."""
    return _of_midi("planetblupi", folder, "files", "planetblupi")


def chorales(folder: Path) -> list[Piece]:
    """Bach's, alone and with drums."""
    return _of_midi("chorales", folder, "scores")


def classical(folder: Path) -> list[Piece]:
    """Movements of sonatas and quartets, and songs, alone and with drums."""
    return _of_midi("classical", folder, "scores")


def folk(folder: Path) -> list[Piece]:
    """Fiddle tunes of one voice, alone and with drums."""
    return _of_midi("folk", folder, "scores")


def only_tempo(midi: Path) -> float:
    """The tempo of a MIDI file that sets one, at its beginning, 1/min.

    Raises:
        ValueError: it sets none or several.
    """
    _, *behind = midi.read_bytes().split(b"\xff\x51\x03")
    tempi = {round(60e6 / int.from_bytes(data[:3], "big"), 3) for data in behind}
    if len(tempi) != 1:
        raise ValueError(f"{midi} sets {len(tempi)} tempi")
    return tempi.pop()


def frets(folder: Path) -> list[Piece]:
    """Songs with a person's tempo map, where that fits; where it does not, none of its beats are true."""
    found = []
    songs = _unpacked(folder) / "games" / "fretsonfire" / "data" / "songs"
    for file in sorted(songs.rglob("song.ogg")):
        name = file.parent.name.lower().replace(" ", "_")
        flac = folder / "frets" / f"{name}.flac"
        stems = [render.read(file.with_name(f"{stem}.ogg"), render.SECONDS) for stem in ("song", "guitar")]
        length = min(map(len, stems))
        audio = np.sum([stem[:length] for stem in stems], axis=0)
        if not flac.is_file():
            render.write(flac, audio)
        seconds = length / render.RATE
        bpm = only_tempo(file.with_name("notes.mid"))
        beats = np.arange(0.0, seconds, 60.0 / bpm)
        how = render.fit(audio, beats)
        print(f"frets {name}: {how}", file=sys.stderr)
        shifted = [round(float(b), 4) for b in beats + how["shift"] if b + how["shift"] >= 0.0]
        truth = {"piece": name, "seconds": seconds, "drums": True}
        if how["fits"]:
            truth |= {"tempo": bpm, "beats": shifted}
        found.append(_piece("frets", truth, str(flac.relative_to(folder)), name))
    return found


def hydrogen(folder: Path) -> list[Piece]:
    """The demo songs of a drum machine."""
    found = []
    data = _unpacked(folder) / "hydrogen" / "data"
    for song in sorted((data / "demo_songs").glob("*.h2song")):
        flac = folder / "hydrogen" / f"{song.stem}.flac"
        truth = render.hydrogen(song, data / "drumkits", flac)
        found.append(
            _piece("hydrogen", {"piece": song.stem} | truth, str(flac.relative_to(folder)), song.stem)
        )
    return found


def demo(folder: Path) -> list[Piece]:
    """The synthetic tracks of ``make demo``, first 20 s: keys and tempi."""
    sys.path.insert(0, str(REPO))
    from pipeline.workflows import demo_data

    found = []
    for seed, track in enumerate(demo_data.TRACKS):
        name = Path(track.name).stem
        flac = folder / "demo" / f"{name}.flac"
        if not flac.is_file():
            mono = demo_data.render(track, seed).mean(axis=0)
            flac.parent.mkdir(parents=True, exist_ok=True)
            render.write(flac, render.resampled(mono, track.sample_rate))
        truth = {"piece": name, "seconds": track.seconds, "key": track.key, "tempo": track.tempo_bpm,
                 "cents": 0.0 if track.key else None, "drums": track.tempo_bpm is not None}  # fmt: skip
        found.append(_piece("demo", truth, str(flac.relative_to(folder)), name))
    return found


SETS: dict[str, Callable[[Path], list[Piece]]] = {
    made.__name__: made
    for made in (openttd, planetblupi, frets, hydrogen, chorales, classical, folk, demo)
}  # fmt: skip


def pieces(folder: Path, names: Sequence[str], part: str = "develop") -> list[Piece]:
    """The pieces of these sets, made where they are not there yet.

    Args:
        folder: where they are kept, and the Debian packages.
        names: of `SETS`.
        part: ``develop``, ``held_out`` or ``both``.

    Raises:
        SystemExit: fluidsynth is missing.
        subprocess.CalledProcessError: a package cannot be fetched, or a program failed.
    """
    if shutil.which("fluidsynth") is None:
        raise SystemExit("fluidsynth is missing; type `apt-get install fluidsynth`")
    found: list[Piece] = []
    for name in names:
        kept = folder / name / "pieces.json"
        if kept.is_file():
            found += [Piece(**row) for row in json.loads(kept.read_text())]
            continue
        made = SETS[name](folder)
        kept.write_text(json.dumps([vars(piece) for piece in made]))
        found += made
    return [piece for piece in found if part in (piece.part, "both")]
