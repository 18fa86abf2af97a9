"""What the parts of `benchmarks/mastering.py` share: the songs, the processes of the contenders, and a table."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import mastering_measures as measures
import mastering_peers as peers
import numpy as np
import soundfile
import soxr

SCRIPT = Path(peers.__file__)
RATE = 44100
CEILING_DB = -1.0
HOT_LUFS = -6.0
"""Before a limiter that has much to do."""
SUFFIXES = {".ogg", ".flac", ".wav", ".mp3"}


@dataclass
class Table:
    """Rows of cells under a header."""

    title: str
    header: Sequence[str]
    rows: list[list[str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def row(self, name: str, make: Callable[[], Sequence[str]]) -> None:
        """Append what ``make`` gives, or dashes and a note where a contender cannot."""
        try:
            self.rows.append([name, *make()])
        except Failed as error:
            self.rows.append([name, *["–"] * (len(self.header) - 1)])
            self.notes.append(f"{name}: {error}")

    def show(self) -> None:
        rule = f"| --- |{' ---: |' * (len(self.header) - 1)}"
        lines = [f"| {' | '.join(cells)} |" for cells in (self.header, *self.rows)]
        print("\n".join([f"### {self.title}\n", lines[0], rule, *lines[1:], "", *self.notes, ""]), flush=True)


class Failed(Exception):
    """A contender could not do its work; the message is its error."""


class Worker:
    """A process of `mastering_peers.py`."""

    def __init__(self, python: str) -> None:
        command = [python, "-W", "ignore", str(SCRIPT), "serve"]
        environment = {**os.environ, **peers.ONE_THREAD}
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(  # noqa: S603
            command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, text=True, env=environment
        )
        self.versions = self._answer()

    def ask(self, **asked: Any) -> dict[str, Any]:
        assert self._process.stdin
        self._process.stdin.write(json.dumps(asked) + "\n")
        self._process.stdin.flush()
        answer = self._answer()
        if "error" in answer:
            raise Failed(answer["error"])
        return answer

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"a process of the contenders ended with code {self._process.wait()}")
        return json.loads(line)

    def close(self) -> None:
        assert self._process.stdin
        self._process.stdin.close()
        self._process.wait()


class Contenders:
    """All who are compared. Audio goes to them through files in ``folder``.

    Args:
        folder: for those files.
        python: interpreter of the peers.
        wanted: the names of those that take part where not all of them do.
    """

    def __init__(self, folder: Path, python: str, wanted: Sequence[str] = ()) -> None:
        self.folder, self.pythons = folder, {True: sys.executable, False: python}
        self._wanted = wanted
        self.workers = {ours: Worker(interpreter) for ours, interpreter in self.pythons.items()}

    def do(
        self, kind: str, contender: str, audio: np.ndarray, /, **options: Any
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Work on float ``[2, samples]`` at `RATE`: what came out, and what was said, ``wall_s`` and ``cpu_s`` too.

        Raises:
            Failed: it cannot.
        """
        paths = {part: str(self.folder / f"{part}.npy") for part in ("audio", "out", "reference")}
        np.save(paths["audio"], np.asarray(audio, np.float32))
        if "reference" in options:
            np.save(paths["reference"], np.asarray(options["reference"], np.float32))
            options["reference"] = paths["reference"]
        asked = {
            "kind": kind,
            "contender": contender,
            "audio": paths["audio"],
            "rate": RATE,
            "out": paths["out"],
        }
        said = self.workers[contender in (peers.OURS, peers.CHECKED)].ask(**asked, options=options)
        return np.load(paths["out"]), said

    def among(self, *names: str) -> list[str]:
        """Those of the names that take part."""
        return [name for name in names if not self._wanted or name in self._wanted]

    def close(self) -> None:
        for worker in self.workers.values():
            worker.close()


def songs(folders: Sequence[Path], most: int, seconds: float) -> dict[str, np.ndarray]:
    """By name: float32 ``[2, samples]``, so many seconds from the middle, or all of it where that is 0."""
    files: dict[str, list[Path]] = {}
    for folder in folders:
        for path in sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES):
            together = path.stem in ("song", "guitar")
            name = (path.parent.name if together else path.stem).lower().replace(" ", "_")
            known = files.setdefault(name, [])
            # The same song in another folder is the same song.
            if not known or known[0].parent == path.parent:
                known.append(path)
    return {name: _mix(files[name], seconds) for name in sorted(files)[: most or None]}


def _mix(paths: Sequence[Path], seconds: float) -> np.ndarray:
    parts = []
    for path in paths:
        audio, rate = soundfile.read(path, dtype="float32", always_2d=True)
        stereo = audio[:, [0, min(1, audio.shape[1] - 1)]]
        parts.append(stereo if rate == RATE else soxr.resample(stereo, rate, RATE))
    mix = np.zeros((max(map(len, parts)), 2), np.float32)
    for part in parts:
        mix[: len(part)] += part
    count = min(len(mix), round(seconds * RATE)) or len(mix)
    first = (len(mix) - count) // 2
    return np.ascontiguousarray(mix[first : first + count].T) * np.float32(0.5 / np.abs(mix).max())


def at_loudness(audio: np.ndarray, lufs: float) -> np.ndarray:
    """The song with another gain."""
    return audio * np.float32(10.0 ** ((lufs - measures.loudness(audio, RATE)) / 20.0))


def hot_references(all_: Contenders, music: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """For each song the next one, limited hard."""
    names = list(music)
    hot = [at_loudness(audio, HOT_LUFS) for audio in music.values()]
    limited = [all_.do("limit", "BrickwallLimiter", audio, ceiling_db=-0.1)[0] for audio in hot]
    return {name: limited[(place + 1) % len(names)] for place, name in enumerate(names)}


def machine(workers: dict[bool, Worker]) -> str:
    """Processor, load and versions."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    cpu = next((line.split(":")[1].strip() for line in lines if "model name" in line), platform.machine())
    said = {"ours": workers[True].versions, "peers": workers[False].versions}
    found = "; ".join(f"{who}: {', '.join(f'{k} {v}' for k, v in of.items())}" for who, of in said.items())
    return f"{cpu}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}; {found}"
