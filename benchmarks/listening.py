"""How long somebody waits for the first sound of a master in the listening service, as a Markdown table.

    python benchmarks/listening.py SONG.flac
    python benchmarks/listening.py SONG.flac --presets bright warm --rounds 1     # does it work?

The song is decoded and listened to first; then each preset is asked for, in rounds, of which the medians are shown:
``alone`` once the one before is done, ``at once`` as soon as the one before is heard, which is what changing presets on
the page does. Seconds from the question to the first samples, without HTTP. ``waited`` are those of ``at once`` in
which nobody was free to begin. Every preset pays for the design of its equaliser each time, as a first click does. Each
round begins with a master that is not shown, then with another preset. Only on an idle machine.
"""

from __future__ import annotations

import argparse
import io
import os
import statistics
import sys
import time
from pathlib import Path
from typing import Any

REPO = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPO))

from pipeline.mastering.equalizer import design
from pipeline.service.listening.song import ENDED, Song
from pipeline.service.listening.songs import Songs
from pipeline.service.logs import StepLog
from pipeline.workflows.master_presets import presets
from pipeline.workflows.master_service import songs_of, warm_up
from pipeline.workflows.master_service_config import MasterServiceConfig

FIRST = "first_sound"
UNSHOWN = {"preset": "gentle", "amount": 0.5}


def waited(song: Song, *, done: bool) -> float:
    """Seconds to the first sound; returns once it is there, or, where ``done``, with the end of the master."""
    while not (song.state in ENDED or (not done and FIRST in song.seconds)):
        time.sleep(0.005)
    if FIRST not in song.seconds:
        raise SystemExit(f"{song.asked.source.name}: {song.failure}")
    return song.seconds[FIRST]


def rounds(
    songs: Songs, path: Path, names: list[str], count: int, *, done: bool
) -> dict[str, tuple[float, float]]:
    """Preset → medians of its seconds, and of those of them in which it waited for somebody to begin."""
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in names}
    for number in range(count):
        first = number * len(names) // count
        # What comes first in a round has nobody beside it.
        waited(asked(songs, path, **UNSHOWN), done=done)
        for name in names[first:] + names[:first]:
            song = asked(songs, path, preset=name)
            found[name].append((waited(song, done=done), song.seconds["waited"]))
        for song in songs.all():  # the next round makes them anew
            waited(song, done=True)
            songs.remove(song)
    return {name: tuple(map(statistics.median, zip(*pairs, strict=True))) for name, pairs in found.items()}


def asked(songs: Songs, path: Path, **wish: Any) -> Song:
    """A new master, whose equaliser is designed anew."""
    design.cache_clear()
    song, _ = songs.ask({"path": str(path), **wish})
    return song


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("song", type=Path)
    parser.add_argument("--presets", nargs="+", default=sorted(presets()), choices=sorted(presets()))
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    path = options.song.resolve()
    config = MasterServiceConfig()
    config.listening.roots = [str(path.parent)]
    config.check()
    songs = songs_of(config, StepLog(io.StringIO(), service="listening", instance="benchmark"))
    try:
        songs.analysis.decoders.warm()
        warm_up()
        songs.start()
        song = asked(songs, path, **UNSHOWN)
        first = waited(song, done=True)
        length = song.summary()["duration_s"]
        print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}; {path.name}, {length:.0f} s; ", end="")
        print(f"first sound of a song that is not known: {first:.2f} s\n")
        songs.remove(song)
        alone = rounds(songs, path, options.presets, options.rounds, done=True)
        at_once = rounds(songs, path, options.presets, options.rounds, done=False)
    finally:
        songs.close()
    print("| preset | alone, s | at once, s | waited, s |\n| --- | ---: | ---: | ---: |")
    for name in options.presets:
        seconds, idle = at_once[name]
        print(f"| {name} | {alone[name][0]:.2f} | {seconds:.2f} | {idle:.2f} |")


if __name__ == "__main__":
    main()
