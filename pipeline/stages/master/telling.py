"""What a run says of a song while it is mastered: which pass, how much of it, and how loud the master is so far."""

from __future__ import annotations

from collections.abc import Callable

from pipeline.mastering.song import Mastering

# Part of `pipeline.mastering.song.Progress` → what it is called, and where in the work on a song it begins and ends:
# as long as each takes of a lossless master, roughly.
_PASSES = {
    "analysis": ("listening", 0.0, 0.3),
    "plan": ("shaping", 0.3, 0.6),
    "render": ("rendering", 0.6, 0.9),
    "encode": ("encoding", 0.9, 1.0),
}

Say = Callable[[float, Callable[[], str]], None]
"""Takes the share of the whole work that is done, 0 to 1, and gives the words where they are wanted."""


class Telling:
    """A `pipeline.mastering.song.Progress` in the words of a run.

    Args:
        say: see `Say`.

    Attributes:
        mastering: of the song, for the loudness so far; None before there is one.
    """

    def __init__(self, say: Say) -> None:
        self._say = say
        self._round = 1
        self._last = ("", 0.0)
        self.mastering: Mastering | None = None

    def __call__(self, part: str, share: float) -> None:
        """A pass is done to ``share``."""
        name, begins, ends = _PASSES[part]
        if part == "render" and self._last[0] == "encode":  # what a decoder made of it was not good enough
            self._round += 1
        self._last = part, share
        self._say(begins + (ends - begins) * share, lambda: self._words(name, part, share))

    def _words(self, name: str, part: str, share: float) -> str:
        words = f"{name} {100 * share:.0f} %"
        lufs = self.mastering.lufs_so_far if self.mastering is not None and part == "render" else None
        words += f", {lufs:.1f} LUFS so far" if lufs is not None else ""
        return words + (f", round {self._round}" if self._round > 1 else "")
