"""The runs of the mastering benchmark that one option starts: what they stand for, and that they work in small."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import soundfile

sys.path.append(str(Path(__file__).resolve().parents[2] / "benchmarks"))

import mastering
import mastering_peers

RATE = 44100


@pytest.fixture
def folder(tmp_path) -> Path:
    rng = np.random.default_rng(0)
    for name in ("one", "two"):
        soundfile.write(tmp_path / f"{name}.wav", rng.uniform(-0.5, 0.5, (2 * RATE, 2)), RATE)
    return tmp_path


@pytest.mark.parametrize(
    ("typed", "only", "songs", "seconds", "minutes"),
    [
        ([], [*mastering.ALL], 0, 0.0, [5.0, 180.0]),
        (["--whole-songs"], [p for p in mastering.ALL if p != "memory"], 8, 0.0, [5.0, 180.0]),
        (["--memory-hours", "3"], ["memory"], 0, 0.0, [5.0, 180.0]),
        (["--memory-hours", "1", "--whole-songs"], [*mastering.ALL], 8, 0.0, [5.0, 60.0]),
        (
            ["--whole-songs", "--songs", "2", "--seconds", "3", "--only", "loud"],
            ["loud"],
            2,
            3.0,
            [5.0, 180.0],
        ),
    ],
)
def test_what_an_option_stands_for(typed, only, songs, seconds, minutes):
    found = mastering.arguments(["--audio", "x", *typed])
    assert (found.only, found.songs, found.seconds) == (only, songs, seconds)
    assert found.minutes == minutes


class Alone(mastering.Contenders):
    """Our side only, and no process that waits for work."""

    def __init__(self, folder: Path, python: str, wanted: Sequence[str] = ()) -> None:
        self.folder, self.pythons, self.workers = folder, {True: sys.executable}, {}
        self._wanted = wanted


def seconds(all_: mastering.Contenders, music: dict[str, np.ndarray]) -> Iterator[mastering.Table]:
    """Stands in for what takes minutes."""
    table = mastering.Table("Seconds", ["preset", "seconds"])
    table.row("gentle", lambda: [f"{sum(audio.shape[1] for audio in music.values()) / RATE:g}"])
    yield table


def test_whole_songs_and_memory_in_small(folder, monkeypatch, capsys):
    """Our process is a real one, of the shorter song; peers are not there."""
    memory = mastering.memory
    seconds.__name__ = "presets"
    monkeypatch.setattr(mastering_peers, "install", lambda folder: sys.executable)
    monkeypatch.setattr(mastering_peers, "MEMORY", ())
    monkeypatch.setattr(mastering, "Contenders", Alone)
    monkeypatch.setattr(mastering, "machine", lambda workers: "here")
    monkeypatch.setattr(mastering, "presets", seconds)
    monkeypatch.setattr(mastering, "memory", lambda *given: memory(*given[:2], given[2][:1]))
    typed = ["--audio", str(folder), "--whole-songs", "--memory-hours", "0.01", "--only", "presets", "memory"]
    monkeypatch.setattr(sys, "argv", ["mastering.py", *typed])
    mastering.main()
    said = capsys.readouterr().out
    assert "2 songs, 4 s: one, two" in said
    rows = {
        line.split("|")[1].strip(): line.split("|")[2:-1] for line in said.splitlines() if line[:2] == "| "
    }
    assert rows["gentle"] == [" 4 "]
    assert 50 < float(rows[mastering_peers.OURS][0]) < 2000, "MiB"
