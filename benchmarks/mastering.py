"""What the mastering does to songs and to test tones, beside its peers, as Markdown tables.

    apt-get download fretsonfire-songs-sectoid fretsonfire-songs-muldjord   # then dpkg-deb -x each
    python benchmarks/mastering.py --audio FOLDER FOLDER
    python benchmarks/mastering.py --audio FOLDER --only limiters loud --seconds 30 --songs 2     # does it work?
    python benchmarks/mastering.py --audio FOLDER FOLDER --whole-songs            # eight songs, whole; all but memory
    python benchmarks/mastering.py --audio FOLDER FOLDER --memory-hours 3         # memory alone, 5 minutes and 3 hours

Songs are files of that name with their guitars added, or any other sound files, as stereo at 44.1 kHz with a peak of
-6 dBFS: a mix before its master. The peers are installed into a virtual environment of their own (--peers), since some
are GPL; nothing of the product uses them. Meters are pyloudnorm (loudness), FFmpeg's ebur128 (loudness range) and
a filter of scipy (true peak, 8x oversampled): see `mastering_measures.py`.

limiters   the limiters alone, at a ceiling of -1 dB: songs brought to -9 and to -6 LUFS before them; "loudness reached"
           is of the latter, turned down by whatever is above -1 dBTP. THD+N of sines and IMD (SMPTE, 60 Hz and 7 kHz,
           4:1) where the lower tone is reduced by 6 dB, analysed when settled
loud       to a loudness, under a ceiling of -1 dBTP, and what MP3 and AAC at 128 kbit/s make of it
match      like a reference: the next song, limited hard (-6 LUFS before a BrickwallLimiter at -0.1 dBFS)
presets    what the presets do to loudness, its range and true peak
seams      pieces against the whole, and clicks at their borders (of a second, and ten places between any two)
speed      medians of interleaved rounds, one thread each, without reading and writing files: only on an idle machine
memory     peak resident size of a process of its own, of a song of 5 minutes and of 3 hours
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

REPO = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(REPO), str(REPO / "benchmarks")]

import mastering_measures as measures
import mastering_peers as peers
import numpy as np
from mastering_contenders import (
    CEILING_DB,
    HOT_LUFS,
    RATE,
    Contenders,
    Table,
    at_loudness,
    hot_references,
    machine,
    songs,
)
from mastering_costs import memory, seams, speed

DRIVES_LUFS = (-9.0, HOT_LUFS)
REDUCTION_DB = 6.0
TONES_HZ = (40.0, 60.0, 100.0, 1000.0)
TARGETS_LUFS = (-14.0, -9.0)
PRESETS = ("gentle", "adaptive", "warm", "bright", "punchy", "live")
CODECS = {"MP3": "libmp3lame", "AAC": "aac"}
LIMITERS = (*peers.LIMITERS, peers.OURS)
WHOLE_SONGS = 8
ALL = ("limiters", "loud", "match", "presets", "seams", "speed", "memory")


def middle(values: Sequence[float], digits: int = 1) -> str:
    """The median as a cell."""
    return f"{statistics.median(values):.{digits}f}"


def worst(values: Sequence[float], digits: int = 2) -> str:
    """The largest as a cell."""
    return f"{max(values):+.{digits}f}"


def limiters(all_: Contenders, music: dict[str, np.ndarray]) -> Iterator[Table]:
    """The limiters alone."""
    over = [f"TP over ceiling, {lufs:g} LUFS before, dB" for lufs in DRIVES_LUFS]
    tones = [f"THD+N {hz:g} Hz, dB" for hz in TONES_HZ]
    header = ["limiter", *over, "loudness reached, LUFS", *tones, "IMD, dB"]
    table = Table(f"Limiters, ceiling {CEILING_DB:g} dB: largest of the songs, median loudness", header)
    driven = {lufs: [at_loudness(audio, lufs) for audio in music.values()] for lufs in DRIVES_LUFS}
    for name in all_.among(*LIMITERS):
        table.row(name, lambda name=name: _limited(all_, name, driven, table.notes))
    yield table


def _limited(
    all_: Contenders, name: str, driven: dict[float, list[np.ndarray]], notes: list[str]
) -> list[str]:
    over, reached = [], []
    for lufs, all_songs in driven.items():
        made = [all_.do("limit", name, audio, ceiling_db=CEILING_DB)[0] for audio in all_songs]
        peaks = [measures.true_peak_db(audio) for audio in made]
        over.append(worst([peak - CEILING_DB for peak in peaks]))
        if lufs == DRIVES_LUFS[-1]:
            reached = [
                measures.loudness(a, RATE) + CEILING_DB - peak for a, peak in zip(made, peaks, strict=True)
            ]
    low, high = measures.IMD_HZ
    found = []
    for parts in [*(((hz, 1.0),) for hz in TONES_HZ), ((low, 0.8), (high, 0.2))]:
        made, reduction = _reduced(all_, name, parts)
        one = len(parts) == 1
        found.append(measures.thd_n_db(made, RATE, parts[0][0]) if one else measures.imd_db(made, RATE))
        if abs(reduction - REDUCTION_DB) > 0.2:
            notes.append(
                f"{name}, {parts[0][0]:g} Hz: {reduction:.1f} dB of reduction instead of {REDUCTION_DB:g}"
            )
    return [*over, middle(reached, 2), *(f"{one:.0f}" for one in found)]


def _reduced(all_: Contenders, name: str, parts: Sequence[tuple[float, float]]) -> tuple[np.ndarray, float]:
    """Tones whose first is reduced as `REDUCTION_DB` says, and by how much it is, against what a soft one gets."""

    def through(drive_db: float) -> tuple[np.ndarray, float]:
        gain = 10.0 ** ((CEILING_DB + drive_db) / 20.0)
        audio = measures.tones(RATE, *((hz, gain * peak) for hz, peak in parts))
        made = all_.do("limit", name, audio, ceiling_db=CEILING_DB)[0]
        out, into = (measures.amplitude(one, RATE, parts[0][0]) for one in (made, audio))
        return made, measures.decibels(out / into)

    untouched = through(-40.0)[1]
    drive_db = REDUCTION_DB
    for _ in range(8):
        made, gain_db = through(drive_db)
        missing = REDUCTION_DB - (untouched - gain_db)
        if abs(missing) < 0.05:
            break
        drive_db += missing
    return made, REDUCTION_DB - missing


def _after_codecs(made: Sequence[np.ndarray]) -> list[str]:
    return [
        worst([measures.true_peak_db(measures.coded(audio, RATE, codec)) for audio in made])
        for codec in CODECS.values()
    ]


def loud(all_: Contenders, music: dict[str, np.ndarray]) -> Iterator[Table]:
    """To a loudness, and through lossy encodings."""
    after = [f"after {name} 128k, dBTP" for name in CODECS]
    header = [
        "contender",
        "largest error, LU",
        "TP over ceiling, dB",
        *after,
        "ΔLRA, LU",
        "ΔLRA, largest either way, LU",
    ]
    ranges = [measures.loudness_range(audio, RATE) for audio in music.values()]
    for lufs in TARGETS_LUFS:
        table = Table(
            f"To {lufs:g} LUFS under {CEILING_DB:g} dBTP: largest of the songs, median ΔLRA", header
        )

        def row(name: str, lufs: float = lufs, table: Table = table) -> list[str]:
            done = [
                all_.do("loud", name, audio, lufs=lufs, ceiling_db=CEILING_DB) for audio in music.values()
            ]
            made = [audio for audio, _ in done]
            errors = [abs(measures.loudness(audio, RATE) - lufs) for audio in made]
            changes = [measures.loudness_range(a, RATE) - was for a, was in zip(made, ranges, strict=True)]
            table.notes += _said(name, done, ("mode", "limited_by"))
            peak = worst([measures.true_peak_db(audio) - CEILING_DB for audio in made])
            return [f"{max(errors):.2f}", peak, *_after_codecs(made), f"{statistics.median(changes):+.2f}",
                    f"{max(map(abs, changes)):.2f}"]  # fmt: skip

        for name in all_.among(*peers.LOUD, peers.OURS, peers.CHECKED):
            table.row(name, lambda name=name, row=row: row(name))
        yield table


def _said(name: str, done: Sequence[tuple[np.ndarray, dict[str, Any]]], keys: Sequence[str]) -> list[str]:
    words = {key: [str(said[key]) for _, said in done if said.get(key)] for key in keys}
    return [f"{name}: {key} {', '.join(found)}" for key, found in words.items() if found]


def match(all_: Contenders, music: dict[str, np.ndarray]) -> Iterator[Table]:
    """Like a reference."""
    after = [f"after {name} 128k, dBTP" for name in CODECS]
    header = ["contender", "mid before, dB", "mid, dB", "side before, dB", "side, dB", "largest loudness error, LU",
              "TP, dBTP", *after]  # fmt: skip
    table = Table("Like a reference: medians of the songs' spectral distance, else the largest", header)
    references = hot_references(all_, music)
    before = [measures.spectral_distance(music[name], references[name], RATE) for name in music]

    def row(name: str) -> list[str]:
        done = {song: all_.do("match", name, music[song], reference=references[song]) for song in music}
        made = {song: audio for song, (audio, _) in done.items()}
        table.notes += _said(name, list(done.values()), ("limited_by",))
        now = [measures.spectral_distance(made[song], references[song], RATE) for song in music]
        errors = [
            abs(measures.loudness(made[s], RATE) - measures.loudness(references[s], RATE)) for s in music
        ]
        distances = [middle([pair[side] for pair in pairs]) for side in (0, 1) for pairs in (before, now)]
        peak = worst([measures.true_peak_db(audio) for audio in made.values()])
        return [*distances, f"{max(errors):.2f}", peak, *_after_codecs(list(made.values()))]

    for name in all_.among(*peers.MATCH, peers.OURS, peers.CHECKED):
        table.row(name, lambda name=name: row(name))
    yield table


def presets(all_: Contenders, music: dict[str, np.ndarray]) -> Iterator[Table]:
    """What our presets do."""
    header = ["preset", "loudness, LUFS", "ΔLRA, LU", "ΔLRA, largest either way, LU", "TP, dBTP", *CODECS]
    table = Table("Presets: medians of the songs, largest true peak, and that after 128 kbit/s", header)

    def row(name: str) -> list[str]:
        done = [all_.do("preset", peers.OURS, audio, name=name) for audio in music.values()]
        made = [audio for audio, _ in done]
        ranges = [
            measures.loudness_range(now, RATE) - measures.loudness_range(was, RATE)
            for now, was in zip(made, music.values(), strict=True)
        ]
        table.notes += _said(name, done, ("limited_by",))
        peak = worst([measures.true_peak_db(audio) for audio in made])
        return [middle([measures.loudness(audio, RATE) for audio in made], 2), f"{statistics.median(ranges):+.2f}",
                f"{max(map(abs, ranges)):.2f}", peak, *_after_codecs(made)]  # fmt: skip

    for name in PRESETS:
        table.row(name, lambda name=name: row(name))
    yield table


def arguments(typed: Sequence[str] | None = None) -> argparse.Namespace:
    """What was typed, with what a short cut stands for filled in where nothing else was."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--audio", type=Path, nargs="+", required=True, help="folders of songs")
    parser.add_argument("--songs", type=int, help="at most so many; 0, the default: all")
    parser.add_argument("--seconds", type=float, help="of each song; 0, the default: all of it")
    parser.add_argument("--only", nargs="+", choices=ALL)
    known = dict.fromkeys((*LIMITERS, *peers.LOUD, *peers.MATCH, peers.CHECKED))
    parser.add_argument(
        "--contenders", nargs="+", choices=known, default=[], help="of limiters, loud and match, these alone"
    )
    parser.add_argument(
        "--whole-songs", action="store_true", help=f"{WHOLE_SONGS} songs, whole; all but memory"
    )
    parser.add_argument(
        "--memory-hours", type=float, help="memory of 5 minutes and of so many hours; nothing else"
    )
    parser.add_argument("--repeats", type=int, default=3, help="rounds of speed")
    parser.add_argument("--minutes", type=float, nargs="+", default=[5.0, 180.0], help="songs of memory")
    default = REPO / "out" / "mastering-peers"
    parser.add_argument("--peers", type=Path, default=default, help="virtual environment of the peers")
    parser.add_argument("--json", type=Path, help="write the tables here, too")
    options = parser.parse_args(typed)
    if options.only is None:
        wanted = {"memory"} if options.memory_hours else set()
        wanted |= {*ALL} - {"memory"} if options.whole_songs else set()
        options.only = [part for part in ALL if part in (wanted or ALL)]
    if options.memory_hours:
        options.minutes = [min(5.0, 6.0 * options.memory_hours), 60.0 * options.memory_hours]
    if options.songs is None:
        options.songs = WHOLE_SONGS if options.whole_songs else 0
    options.seconds = options.seconds or 0.0
    return options


def main() -> None:
    parts = {part.__name__: part for part in (limiters, loud, match, presets, seams)}
    options = arguments()
    music = songs(options.audio, options.songs, options.seconds)
    if len(music) < 2:
        raise SystemExit("two songs are needed, one for the other's reference")
    python = peers.install(options.peers)
    tables: list[Table] = []
    with tempfile.TemporaryDirectory(prefix="soundmill-bench-") as folder:
        all_ = Contenders(Path(folder), python, options.contenders)
        length = sum(audio.shape[1] for audio in music.values()) / RATE
        print(
            f"{machine(all_.workers)}\n\n{len(music)} songs, {length:.0f} s: {', '.join(music)}\n", flush=True
        )
        for name in options.only:
            if name == "memory":
                made = memory(all_, music, options.minutes)
            elif name == "speed":
                made = speed(all_, music, options.repeats)
            else:
                made = parts[name](all_, music)
            for table in made:
                table.show()
                tables.append(table)
        all_.close()
    if options.json:
        options.json.write_text(json.dumps([dataclasses.asdict(table) for table in tables], indent=2))


if __name__ == "__main__":
    main()
