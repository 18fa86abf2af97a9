"""From the odds of a beat in each frame to the beats of a bar: the most likely path through tempo and bar.

The state of a track at a frame is the beat of the bar, how many frames it lasts, and how many of them are over
(Krebs, Böck and Widmer, "An efficient state-space model for joint tempo and meter tracking", ISMIR 2015). The interval
may change where a beat begins, with probability ``exp(-change * |to / from - 1|)``; in the first part of a beat
(downbeat), one `ZONES`-th of it, the odds of a beat (downbeat) are heard, in the rest those of neither (Böck, Krebs and
Widmer, "Joint beat and downbeat tracking with recurrent neural networks", ISMIR 2016).

Between the beginnings of two beats nothing is decided. So the path is not followed from frame to frame but from beat to
beat: what is heard on the way is a difference of two running sums, and of the thousands of states only those count in
which a beat begins. That is the same path with the same probability, at a fiftieth of the work.

What is settled is given out: as soon as all paths that may still become the best run through one node, all before it is
known for good. Paths that keep apart for longer than `PATIENCE_S` (as in silence, where no bar line is likelier than
another) are decided in favour of the one that is best then.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.dsp.jitted import jitted
from pipeline.models.beats import decoding_loops as loops

ZONES = 8
"""Of the values tried, with `CHANGE`, the best on the half of the truth that is there to develop on."""
CHANGE = 100.0
PATIENCE_S = 600.0
FLOOR = 1e-6
"""No odds are lower: one frame must not rule out a path."""
_PIECE = 1500  # frames at a time
# Less likely changes of the interval are none.
_IMPOSSIBLE = float(np.spacing(1.0))


@dataclass(frozen=True)
class Space:
    """The states of bars with so many beats.

    Args:
        beats: of a bar.
        intervals: frames per beat that there can be, ascending.
        change: how much less likely a change of the interval is.
        zones: a beat is heard in the first of so many parts.
        preference: log probability of each interval per beat, in addition; None where all are alike.
    """

    beats: int
    intervals: np.ndarray
    change: float = CHANGE
    zones: int = ZONES
    preference: np.ndarray | None = None

    @property
    def heard(self) -> np.ndarray:
        """Of how many frames at its beginning a beat of each interval is heard."""
        return -(-self.intervals // self.zones)

    def transitions(self) -> np.ndarray:
        """Log probability of each change of the interval, ``[from, to]``."""
        lengths = self.intervals.astype(np.float64)
        odds = np.exp(-self.change * np.abs(lengths / lengths[:, None] - 1))
        odds[odds <= _IMPOSSIBLE] = 0
        with np.errstate(divide="ignore"):
            found = np.log(odds / odds.sum(axis=1, keepdims=True))
        return found if self.preference is None else found + self.preference


def intervals_of(min_bpm: float, max_bpm: float, frames_per_second: float) -> np.ndarray:
    """Frames per beat of all tempi of a range, at least one."""
    shortest = max(2, round(60 * frames_per_second / max_bpm))
    longest = max(shortest, round(60 * frames_per_second / min_bpm))
    return np.arange(shortest, longest + 1)


def log_odds(activations: np.ndarray, zones: int = ZONES) -> np.ndarray:
    """What each frame says of beat, downbeat and neither: float64 ``[3, frames]`` of ``[frames, 2]``."""
    odds = activations.astype(np.float64)
    neither = (1 - odds.sum(axis=1)) / (zones - 1)
    return np.log(np.maximum(np.stack([odds[:, 0], odds[:, 1], neither]), FLOOR))


class BarDecoder:
    """The most likely path through the states of one `Space`, fed piece by piece.

    Args:
        space: its states.
        patience: frames after which what is not settled is decided.
    """

    def __init__(self, space: Space, patience: int) -> None:
        self.space = space
        self._intervals = np.asarray(space.intervals, np.int64)
        self._lengths = np.stack([self._intervals, space.heard])
        self._transitions = space.transitions()
        self._patience = patience
        span, beats, count = int(self._intervals[-1]), space.beats, len(self._intervals)
        self._span = span
        # Before the first frame: each state is as likely, and in none was anything heard.
        self._scores = np.full((span, beats, count), -np.inf)
        ages = np.arange(span)[::-1, None]
        begun = ages < self._intervals[None]
        self._scores[np.broadcast_to(begun[:, None], self._scores.shape)] = -math.log(
            beats * self._intervals.sum()
        )
        self._odds = np.zeros((3, span))
        self._back = np.full((span, beats, count), loops.UNBORN, np.uint8)
        self._marks = np.zeros((span + 1, beats, count), np.uint8)
        self._frame = 0  # of the first that is not yet heard
        self._base = 1 - span  # frame of the first row
        self.forced = 0
        """How often a path was decided for before it was settled."""

    def push(self, odds: np.ndarray) -> np.ndarray:
        """The next frames, see `log_odds`.

        Returns:
            beats that are settled now: frame in which each begins, beat of the bar from 0, frames; int64 ``[n, 3]``.
            The first of a track may have begun before it.
        """
        if self._frame == 0 and odds.shape[1]:
            # The first frame has no path before it.
            kinds = np.where(np.arange(self.space.beats) == 0, odds[1, 0], odds[0, 0])
            self._scores[-1] += kinds[:, None]
            self._odds = np.concatenate([self._odds[:, 1:], odds[:, :1]], axis=1)
            self._frame, odds = 1, odds[:, 1:]
        settled = [self._settle()]
        for start in range(0, odds.shape[1], _PIECE):
            self._advance(odds[:, start : start + _PIECE])
            settled.append(self._settle())
        return np.concatenate(settled)

    def finish(self) -> tuple[np.ndarray, float]:
        """What is left of the best path, as `push`, and the log probability of all of it. Nothing of no frames."""
        if not self._frame:
            return np.empty((0, 3), np.int64), 0.0
        best, score = self._best()
        return self._trace(best), score

    def _advance(self, odds: np.ndarray) -> None:
        odds = np.concatenate([self._odds, odds], axis=1)
        rows = odds.shape[1] - self._span
        scores = np.empty((self._span + rows, *self._scores.shape[1:]))
        scores[: self._span] = self._scores
        back = np.empty((rows, *self._scores.shape[1:]), np.uint8)
        jitted(loops.forward)(_sums(odds), self._lengths, self._transitions, scores, back)
        self._scores, self._odds = scores[rows:].copy(), odds[:, rows:]
        self._back = np.concatenate([self._back, back])
        self._frame += rows

    def _settle(self) -> np.ndarray:
        node = np.empty(3, np.int64)
        jitted(loops.common_ancestor)(self._back, self._scores, self._intervals, self._marks, node)
        if node[0] < 0:
            if len(self._back) <= self._patience + self._span:
                return np.empty((0, 3), np.int64)
            node = self._force()
        found = self._trace(node)
        row = int(node[0])
        self._back = self._back[row:].copy()
        self._back[0] = loops.SETTLED
        self._base += row
        return found

    def _force(self) -> np.ndarray:
        """The node of the path that is best now, as far back as half the patience; all others are given up."""
        best, _ = self._best()
        nodes = np.empty((len(self._back), 3), np.int64)
        jitted(loops.trace)(self._back, best, self._intervals, len(self._back) - self._patience // 2, nodes)
        node = nodes[nodes[:, 0] >= 0][-1].copy()
        jitted(loops.keep_only)(self._back, self._scores, self._intervals, node)
        self.forced += 1
        return node

    def _best(self) -> tuple[np.ndarray, float]:
        found = np.zeros(4)
        jitted(loops.finish)(_sums(self._odds), self._lengths, self._scores, found)
        node = found[:3].astype(np.int64)
        node[0] = len(self._back) - 1 - node[0]
        return node, float(found[3])

    def _trace(self, node: np.ndarray) -> np.ndarray:
        nodes = np.empty((len(self._back), 3), np.int64)
        jitted(loops.trace)(self._back, node, self._intervals, 0, nodes)
        nodes = nodes[nodes[:, 0] >= 0][::-1]
        frames = nodes[:, 0] + self._base
        return np.stack([frames, nodes[:, 1], self._intervals[nodes[:, 2]]], axis=1)


def _sums(odds: np.ndarray) -> np.ndarray:
    """Sums over all frames before, one more than there are frames."""
    return np.concatenate([np.zeros((3, 1)), np.cumsum(odds, axis=1)], axis=1)


@dataclass(frozen=True, eq=False)
class Path:
    """The most likely beats of a track.

    Args:
        meter: beats of a bar.
        nodes: frame in which each beat begins, beat of the bar from 0, frames; int64 ``[beats, 3]``.
        log_probability: of all of it.
    """

    meter: int
    nodes: np.ndarray
    log_probability: float


def decode(activations: np.ndarray, spaces: Sequence[Space], patience: int) -> list[Path]:
    """The most likely path through each of several spaces.

    Args:
        activations: odds of beat and downbeat, float ``[frames, 2]``.
        spaces: each with its own meter or tempi.
        patience: as for `BarDecoder`.
    """
    paths = []
    for space in spaces:
        decoder = BarDecoder(space, patience)
        settled = [decoder.push(odds) for odds in _pieces(activations, space.zones)]
        rest, probability = decoder.finish()
        paths.append(Path(space.beats, np.concatenate([*settled, rest]), probability))
    return paths


def _pieces(activations: np.ndarray, zones: int) -> Iterator[np.ndarray]:
    for start in range(0, len(activations), _PIECE):
        yield log_odds(activations[start : start + _PIECE], zones)
