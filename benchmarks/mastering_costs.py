"""The parts of `benchmarks/mastering.py` about pieces, time and memory."""

from __future__ import annotations

import itertools
import os
import statistics
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import mastering_measures as measures
import mastering_peers as peers
import numpy as np
import soundfile
from mastering_contenders import (
    CEILING_DB,
    RATE,
    SCRIPT,
    Contenders,
    Failed,
    Table,
    at_loudness,
    hot_references,
)

PIECES = (997, RATE, 10 * RATE + 1)
CONTROL_S = 10
PRESET = "adaptive"
LUFS = {"limit": -9.0, "loud": -14.0}


def seams(all_: Contenders, music: dict[str, np.ndarray]) -> Iterator[Table]:
    """Pieces against the whole, and clicks at their borders."""
    header = ["limiter", *(f"pieces of {piece}" for piece in PIECES)]
    table = Table("Largest difference between pieces and the whole", header)
    driven = [at_loudness(audio, LUFS["limit"]) for audio in music.values()]

    def apart(name: str) -> list[str]:
        whole = [all_.do("limit", name, audio, ceiling_db=CEILING_DB)[0] for audio in driven]
        found = []
        for piece in PIECES:
            made = [all_.do("limit", name, audio, ceiling_db=CEILING_DB, piece=piece)[0] for audio in driven]
            found.append(max(map(_difference, made, whole)))
        return [f"{one:.1e}" for one in found]

    for name in (*peers.IN_PIECES, peers.OURS):
        table.row(name, lambda name=name: apart(name))
    table.row(f"{peers.OURS}, preset {PRESET}, each piece by itself", lambda: _presets_apart(all_, music))
    yield table
    yield _clicks(all_, music)


def _difference(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.max(np.abs(one - other))) if one.shape == other.shape else float("inf")


def _presets_apart(all_: Contenders, music: dict[str, np.ndarray]) -> list[str]:
    whole = [all_.do("preset", peers.OURS, audio, name=PRESET)[0] for audio in music.values()]
    cells = ["–"]  # pieces of a few samples, with a context each, take a day
    for piece in PIECES[1:]:
        made = [
            all_.do("in pieces", peers.OURS, audio, name=PRESET, piece=piece)[0] for audio in music.values()
        ]
        cells.append(f"{max(map(_difference, made, whole)):.1e}")
    return cells


def _clicks(all_: Contenders, music: dict[str, np.ndarray]) -> Table:
    header = [
        "audio",
        "borders",
        "clicks at borders, %",
        "elsewhere, %",
        "chance (Fisher)",
    ]
    table = Table("Clicks within 32 samples of the borders of pieces", header)

    def found(made: Sequence[np.ndarray], piece: int) -> list[str]:
        each = [measures.seams(audio, range(piece, audio.shape[1], piece)) for audio in made]
        all_songs = measures.Seams.joined(each)
        shares = (all_songs.at_borders, all_songs.elsewhere)
        return [
            str(all_songs.borders),
            *(f"{100.0 * share:.2f}" for share in shares),
            f"{all_songs.chance:.2g}",
        ]

    def ours() -> list[str]:
        return found(
            [all_.do("in pieces", peers.OURS, audio, name=PRESET, piece=RATE)[0] for audio in music.values()],
            RATE,
        )

    def control() -> list[str]:
        references, piece = hot_references(all_, music), CONTROL_S * RATE
        made = []
        for name, audio in music.items():
            # What is left at the end is too short for it.
            parts = [audio[:, start : start + piece] for start in range(0, audio.shape[1] - piece + 1, piece)]
            done = [all_.do("match", "matchering", part, reference=references[name])[0] for part in parts]
            made.append(np.concatenate(done, axis=1))
        return found(made, piece)

    table.row("the songs themselves", lambda: found(list(music.values()), RATE))
    table.row(f"{peers.OURS}, preset {PRESET}, pieces of 1 s each by itself", ours)
    table.row(f"matchering on each {CONTROL_S} s by itself (what the detector should find)", control)
    return table


def speed(all_: Contenders, music: dict[str, np.ndarray], repeats: int) -> Iterator[Table]:
    """Interleaved rounds; the first is thrown away."""
    references = hot_references(all_, music)
    driven = {song: at_loudness(audio, LUFS["limit"]) for song, audio in music.items()}
    runs = [
        *(("limit", name) for name in (*peers.LIMITERS, peers.OURS)),
        *(("loud", name) for name in (*peers.LOUD, peers.OURS)),
        *(("match", name) for name in (*peers.MATCH, peers.OURS)),
        ("preset", peers.OURS),
    ]
    options: dict[str, Any] = {
        "limit": lambda _: {"ceiling_db": CEILING_DB},
        "loud": lambda _: {"ceiling_db": CEILING_DB, "lufs": LUFS["loud"]},
        "match": lambda song: {"reference": references[song]},
        "preset": lambda _: {"name": PRESET},
    }
    told: dict[tuple[str, str], dict[str, list[dict[str, Any]]]] = {run: {} for run in runs}
    failed: dict[tuple[str, str], str] = {}
    for _, song, run in itertools.product(range(repeats + 1), music, runs):
        if run in failed:
            continue
        try:
            audio = driven[song] if run[0] == "limit" else music[song]
            told[run].setdefault(song, []).append(all_.do(*run, audio, **options[run[0]](song))[1])
        except Failed as error:
            failed[run] = str(error)
    header = ["work", "× real time, CPU", "× real time, wall", "of it, ms per second of audio"]
    table = Table(f"Speed, one thread, medians of {repeats} interleaved rounds, the songs together", header)
    seconds = sum(audio.shape[1] for audio in music.values()) / RATE
    for run in runs:
        name = f"{run[0]}: {run[1]}"
        if run in failed:
            table.rows.append([name, "–", "–", "–"])
            table.notes.append(f"{name}: {failed[run]}")
        else:
            table.rows.append([name, *_timed(list(told[run].values()), seconds)])
    yield table


def _timed(each: list[list[dict[str, Any]]], seconds: float) -> list[str]:
    def total(value: Any) -> float:
        return sum(statistics.median(value(said) for said in rounds[1:]) for rounds in each)

    cpu, wall = (total(lambda said, key=key: said[key]) for key in ("cpu_s", "wall_s"))
    parts = {part: total(lambda said, part=part: said["parts"][part]) for part in each[0][0].get("parts", {})}
    told = ", ".join(f"{part} {1000.0 * spent / seconds:.2f}" for part, spent in parts.items())
    return [f"{seconds / cpu:.0f}", f"{seconds / wall:.0f}", told]


def memory(all_: Contenders, music: dict[str, np.ndarray], minutes: Sequence[float]) -> Iterator[Table]:
    """The largest resident size, the start of Python and its packages included."""
    header = ["contender", *(f"{length:g} min, MiB" for length in minutes), "last by first"]
    table = Table("Peak memory of a process of its own, 16-bit WAV at 44.1 kHz", header)
    files = [all_.folder / f"{length:g}min.wav" for length in minutes]
    for path, length in zip(files, minutes, strict=True):
        _write(path, next(iter(music.values())), length)

    def row(name: str) -> list[str]:
        taken = files[:1] if name in peers.WHOLE_SONGS else files
        sizes = [_peak(all_.pythons[name == peers.OURS], name, path) / 2**20 for path in taken]
        missing = len(files) - len(sizes)
        ratio = "–" if missing else f"{sizes[-1] / sizes[0]:.2f}"
        return [*(f"{size:.0f}" for size in sizes), *["–"] * missing, ratio]

    for name in (*peers.MEMORY, peers.OURS):
        table.row(name, lambda name=name: row(name))
    for path in files:
        path.unlink()
    yield table


def _write(path: Path, audio: np.ndarray, minutes: float) -> None:
    """Half a minute of a song, again and again."""
    loop, left = audio[:, : 30 * RATE].T, round(60 * minutes * RATE)
    with soundfile.SoundFile(path, "w", RATE, 2, subtype="PCM_16") as file:
        while left:
            file.write(loop[:left])
            left -= len(loop[:left])


def _peak(python: str, name: str, path: Path) -> int:
    """Bytes. Raises `Failed` where the process does."""
    command = [python, "-W", "ignore", str(SCRIPT), "memory", name, str(path)]
    environment = {**os.environ, **peers.ONE_THREAD}
    run = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)  # noqa: S603
    if run.returncode:
        raise Failed(run.stderr.strip().splitlines()[-1] if run.stderr.strip() else f"code {run.returncode}")
    return int(run.stdout)
