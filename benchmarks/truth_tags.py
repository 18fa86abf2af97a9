"""Tags of music against material whose nature is known, and what the tags' embedding says of copies, as Markdown.

    python benchmarks/truth_tags.py                             # after truth.py, whose sets it takes
    python benchmarks/truth_tags.py --audio ../shared/audio     # with speech: folders such as en_US_f_NAME/*.wav

Instruments: the same tunes, chorales and movements of `truth.py`, each played by every instrument of General MIDI that
MagnaTagATune has a tag for, through both soundfonts in turn, first 30 s. Of each instrument's tag: the area under the
ROC curve (how often it is higher for a piece of its own instrument than for one of another, 0.5 is chance), how often
it is the highest of the instruments' tags, and how often it is shown (``tags_top``), of its own and of others.

Other material: metal songs, songs of a drum machine, music of games, chorales by a choir, speech. The same area, each
kind against all others.

Copies: pieces of all sets, one rendering of each, beside what people make of them (a lossy codec, another level, less
bandwidth, a beginning cut off): the cosine of their embeddings, and that of each piece and the most similar other one.
Both say from which cosine on two contents are presumably the same music. Nothing was fitted on any of this.

Weights: `python jobs/models.py fetch musicnn`.
"""

from __future__ import annotations

import argparse
import io
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import soxr

REPO = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(REPO), str(Path(__file__).resolve().parent)]

import truth_peers as peers
import truth_render as render
from truth_sets import MIDI, SETS, Piece, pieces

RATE, SECONDS = 16000, 30.0
INSTRUMENTS = {
    "piano": 0, "harpsichord": 6, "guitar": 24, "violin": 40, "cello": 42, "harp": 46, "strings": 48, "choir": 52,
    "flute": 73, "sitar": 104,
}  # fmt: skip
"""Tag of MagnaTagATune → program of General MIDI, from 0."""
TUNES = {"folk": 8, "chorales": 4, "classical": 4}
"""Pieces of each set that every instrument plays."""
KINDS = {
    "metal songs": (("mtt", "metal"), ("mtt", "rock"), ("msd", "metal"), ("msd", "heavy metal"), ("msd", "rock")),
    "drum machine": (("mtt", "drums"), ("mtt", "beat"), ("mtt", "beats"), ("mtt", "electronic"), ("msd", "electronic")),
    "music of a game": (("mtt", "synth"), ("mtt", "electronic"), ("msd", "electronic"), ("msd", "instrumental")),
    "chorales by a choir": (("mtt", "choir"), ("mtt", "choral"), ("mtt", "opera"), ("mtt", "classical")),
    "speech": (("mtt", "voice"), ("mtt", "vocals"), ("mtt", "no vocals"), ("mtt", "man"), ("mtt", "woman")),
}  # fmt: skip
"""Kind of material → tags that are looked at, of which network."""
LEVELS = (0.98, 0.985, 0.99, 0.995)


@dataclass(frozen=True)
class Sound:
    """What is tagged.

    Args:
        kind: instrument, or a key of `KINDS`.
        name: of the piece.
        audio: mono at 16 kHz, float32 ``[samples]``.
    """

    kind: str
    name: str
    audio: np.ndarray


def heard(path: Path, seconds: float = SECONDS) -> np.ndarray:
    """A file's first seconds, mono at 16 kHz."""
    return soxr.resample(render.read(path, seconds), render.RATE, RATE).astype(np.float32)


def played(folder: Path) -> list[Sound]:
    """Every instrument's renderings of the same pieces, made where they are not there."""
    out, fonts = folder / "instruments", folder / "debian" / "usr" / "share" / "sounds" / "sf2"
    out.mkdir(exist_ok=True)
    found = []
    for name, most in TUNES.items():
        alone = sorted({piece.piece for piece in pieces(folder, [name], "both") if not piece.drums})
        for number, piece in enumerate(sorted(alone, key=lambda p: zlib.crc32(p.encode()))[:most]):
            font = fonts / f"{('TimGM6mb', 'FluidR3_GM')[number % 2]}.sf2"
            for tag, program in INSTRUMENTS.items():
                flac = out / f"{piece}@{tag}.flac"
                if not flac.is_file():
                    _render(folder, (folder / name / f"{piece}.mid", program), font, flac)
                found.append(Sound(tag, piece, heard(flac)))
    return found


def _render(folder: Path, what: tuple[Path, int], font: Path, flac: Path) -> None:
    midi = flac.with_suffix(".mid")
    command = [peers.install(folder / "venv"), str(MIDI), "program", str(what[1]), str(midi), str(what[0])]
    subprocess.run(command, check=True)  # noqa: S603
    render.synthesise(midi, font, flac, SECONDS)


def others(folder: Path, audio: Path | None, instruments: Sequence[Sound]) -> list[Sound]:
    """Material of other kinds."""
    names = {"frets": "metal songs", "hydrogen": "drum machine", "openttd": "music of a game"}
    found = [
        Sound(names[piece.set], piece.name, heard(folder / piece.audio))
        for piece in pieces(folder, list(names), "both")
    ]
    found += [
        Sound("chorales by a choir", sound.name, sound.audio)
        for sound in instruments
        if sound.kind == "choir" and (folder / "chorales" / f"{sound.name}.mid").is_file()
    ]
    for speaker in sorted((audio / "speech").iterdir()) if audio else ():
        whole = np.concatenate([heard(file) for file in sorted(speaker.glob("*.wav"))])
        parts = np.array_split(whole, max(1, round(len(whole) / RATE / SECONDS)))
        found += [Sound("speech", f"{speaker.name} {n}", part) for n, part in enumerate(parts)]
    return found


def roc_area(own: np.ndarray, rest: np.ndarray) -> float:
    """How often a value of ``own`` is above one of ``rest``; ties count half."""
    above = (own[:, None] > rest[None]).mean() + 0.5 * (own[:, None] == rest[None]).mean()
    return float(above)


def of_instruments(
    sounds: Sequence[Sound], tags: Callable[[str, str], np.ndarray], threshold: float
) -> Iterable[str]:
    """The table of instruments.

    Args:
        sounds: what was tagged.
        tags: network and tag → probability of each sound.
        threshold: from which on a tag is shown.
    """
    kinds = np.array([sound.kind for sound in sounds])
    values = np.stack([tags("mtt", name) for name in INSTRUMENTS])
    first = np.array(list(INSTRUMENTS))[values.argmax(axis=0)]
    yield "| instrument | pieces | ROC area | highest of the ten | shown, own | shown, others |"
    yield "| --- | ---: | ---: | ---: | ---: | ---: |"
    rows = []
    for name, row in zip(INSTRUMENTS, values, strict=True):
        own = kinds == name
        shown = row >= threshold
        rows.append(
            (
                roc_area(row[own], row[~own]),
                (first[own] == name).mean(),
                shown[own].mean(),
                shown[~own].mean(),
            )
        )
        yield f"| {name} | {own.sum()} | " + " | ".join(f"{v:.3f}" for v in rows[-1]) + " |"
    yield f"| mean | {len(sounds)} | " + " | ".join(f"{v:.3f}" for v in np.mean(rows, axis=0)) + " |"


def of_kinds(sounds: Sequence[Sound], tags: Callable[[str, str], np.ndarray]) -> Iterable[str]:
    """The table of other material."""
    kinds = np.array([sound.kind for sound in sounds])
    yield "| material | pieces | tag: ROC area against the rest |"
    yield "| --- | ---: | --- |"
    for kind, looked_at in KINDS.items():
        own = kinds == kind
        if own.any():
            areas = [
                f"{name} ({network}) {roc_area(tags(network, name)[own], tags(network, name)[~own]):.3f}"
                for network, name in looked_at
            ]
            yield f"| {kind} | {own.sum()} | {', '.join(areas)} |"


def _coded(audio: np.ndarray, container: str, subtype: str, level: float) -> np.ndarray:
    file = io.BytesIO()
    soundfile.write(file, soxr.resample(audio, RATE, 48000), 48000, format=container, subtype=subtype,
                    compression_level=level)  # fmt: skip
    file.seek(0)
    decoded, rate = soundfile.read(file, dtype="float32")
    return soxr.resample(decoded, rate, RATE).astype(np.float32)


COPIES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "MP3, high compression": lambda audio: _coded(audio, "MP3", "MPEG_LAYER_III", 0.8),
    "Opus, high compression": lambda audio: _coded(audio, "OGG", "OPUS", 0.9),
    "12 dB quieter": lambda audio: audio * np.float32(0.25),
    "nothing above 4 kHz": lambda audio: soxr.resample(soxr.resample(audio, RATE, 8000), 8000, RATE),
    "first 0.7 s cut off": lambda audio: audio[round(0.7 * RATE):],
    "first 5 s cut off": lambda audio: audio[5 * RATE:],
}  # fmt: skip


def originals(folder: Path) -> list[Piece]:
    """One rendering of each piece of all sets, without drums where there are two."""
    found: dict[str, Piece] = {}
    for piece in pieces(folder, [name for name in SETS if name != "demo"], "both"):
        found.setdefault(piece.piece, piece)
    return list(found.values())


def of_copies(folder: Path, embedded: Callable[[Sequence[np.ndarray]], np.ndarray]) -> Iterable[str]:
    """The tables of copies and of different pieces."""
    chosen = originals(folder)
    audio = [heard(folder / piece.audio) for piece in chosen]
    whole = embedded(audio)
    yield (
        f"| cosine with a copy ({len(audio)} pieces) | least | 5 % | median | "
        + " | ".join(f"≥ {level}" for level in LEVELS)
        + " |"
    )
    yield "| --- | " + " | ".join(["---:"] * (3 + len(LEVELS))) + " |"
    for name, change in COPIES.items():
        alike = (whole * embedded([change(one) for one in audio])).sum(axis=1)
        yield f"| {name} | " + _spread(alike)
    cosines = whole @ whole.T
    np.fill_diagonal(cosines, -1.0)
    yield "| the most similar other piece | " + _spread(cosines.max(axis=1))
    groups = np.array([piece.set for piece in chosen])
    for group in dict.fromkeys(groups):
        among = groups == group
        yield f"| the same, among {group} ({among.sum()}) | " + _spread(
            cosines[np.ix_(among, among)].max(axis=1)
        )


def _spread(cosines: np.ndarray) -> str:
    cells = [f"{v:.4f}" for v in (cosines.min(), np.quantile(cosines, 0.05), np.median(cosines))]
    return " | ".join([*cells, *(f"{np.mean(cosines >= level):.3f}" for level in LEVELS)]) + " |"


def main() -> None:
    """Print the tables."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("--audio", type=Path, help="folder with speech/SPEAKER/*.wav")
    parser.add_argument("--folder", type=Path, default=REPO / "out" / "truth", help="of the sets of truth.py")
    options = parser.parse_args()

    import torch

    torch.set_num_threads(1)
    from pipeline.models.tags.names import NAMES, THRESHOLD
    from pipeline.models.tags.tagger import Tagger

    tagger = Tagger()
    instruments = played(options.folder)
    sounds = [*instruments, *others(options.folder, options.audio, instruments)]
    tagged, _ = tagger.tag_tracks([sound.audio for sound in sounds])

    def tags(of: slice) -> Callable[[str, str], np.ndarray]:
        chosen = tagged[of]
        return lambda network, name: np.array([t.tags(network)[NAMES[network].index(name)] for t in chosen])

    def embedded(audio: Sequence[np.ndarray]) -> np.ndarray:
        return np.stack([found.embedding() for found in tagger.tag_tracks(audio)[0]])

    count = len(instruments)
    print("**Instruments**\n", *of_instruments(instruments, tags(slice(count)), THRESHOLD), "", sep="\n")
    print("**Other material**\n", *of_kinds(sounds[count:], tags(slice(count, None))), "", sep="\n")
    print("**Copies**\n", *of_copies(options.folder, embedded), sep="\n")


if __name__ == "__main__":
    main()
