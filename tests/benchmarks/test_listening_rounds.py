"""The benchmark of the listening service: no preset gains by its place, and none finds its equaliser designed."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

sys.path.append(str(Path(__file__).resolve().parents[2] / "benchmarks"))

import listening

from pipeline.mastering.curves import Curve
from pipeline.mastering.equalizer import design
from pipeline.service.listening.song import DONE


class Songs:
    """Takes what is asked as the service does; what is asked for is done, after seconds of which one was waited."""

    def __init__(self) -> None:
        self.asked: list[Any] = []
        self.designs: list[int] = []
        self._kept: list[SimpleNamespace] = []

    def ask(self, said: dict[str, Any]) -> tuple[SimpleNamespace, bool]:
        self.asked.append("unshown" if "amount" in said else said["preset"])
        self.designs.append(design.cache_info().currsize)
        design(Curve((100.0, 1000.0), (0.0, len(self.asked) / 10)), 44_100)
        seconds = {"waited": 1.0, listening.FIRST: 1.0 + len(self._kept)}
        self._kept.append(SimpleNamespace(state=DONE, seconds=seconds))
        return self._kept[-1], True

    def all(self) -> list[SimpleNamespace]:
        return list(self._kept)

    def remove(self, song: SimpleNamespace) -> None:
        self._kept.remove(song)


@pytest.mark.parametrize("done", [True, False])
def test_every_preset_comes_at_every_place_and_designs_its_equaliser(done):
    songs = Songs()
    found = listening.rounds(songs, Path("song.flac"), ["a", "b", "c"], 3, done=done)
    assert songs.asked == ["unshown", *"abc", "unshown", *"bca", "unshown", *"cab"]
    assert set(songs.designs) == {0}
    assert found == {name: (3.0, 1.0) for name in "abc"}
