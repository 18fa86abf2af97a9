"""The loops of the decoder, run as machine code, see `pipeline.dsp.jitted`.

What they compute, and why, is said in `pipeline.models.beats.decoding`. A node is a beat that begins: a row (its
frame), the beat of the bar and the number of its interval.
"""

from __future__ import annotations

import numpy as np

UNBORN, SETTLED = 255, 254
"""What stands for the beat before that of a node that has none: the track begins in it, or all before it is known."""


def forward(
    sums: np.ndarray, lengths: np.ndarray, transitions: np.ndarray, scores: np.ndarray, back: np.ndarray
) -> None:
    """Scores of the nodes of the next frames, and which interval led to each.

    Args:
        sums: ``[3, span + n + 1]``, log odds of beat, downbeat and neither, summed over all frames before.
        lengths: ``[2, intervals]``: frames per beat, ascending, at most ``span``; and in how many of them, at its
            beginning, a beat is heard.
        transitions: ``[from, to]``, log probability of each change of the interval; -inf where there is none.
        scores: ``[span + n, beats, intervals]``, of which the first ``span`` rows are given and the others written.
        back: ``[n, beats, intervals]``, the result: number of the interval of the beat before.
    """
    rows, beats, count = back.shape
    span = scores.shape[0] - rows
    intervals, zones = lengths[0], lengths[1]
    first, last = np.empty(count, np.int64), np.empty(count, np.int64)
    for j in range(count):
        first[j], last[j] = count, 0
        for i in range(count):
            if transitions[j, i] > -np.inf:
                first[j] = min(first[j], i)
                last[j] = max(last[j], i + 1)
    best, chosen = np.empty(count), np.empty(count, np.int64)
    for number in range(rows):
        row = span + number
        for beat in range(beats):
            before = (beat + beats - 1) % beats
            kind = 1 if before == 0 else 0
            best[:] = -np.inf
            chosen[:] = 0
            for j in range(count):
                start = row - intervals[j]
                quiet = start + zones[j]
                ended = scores[start, before, j] + (sums[kind, quiet] - sums[kind, start + 1])
                ended += sums[2, row] - sums[2, quiet]
                # Slices, whose indices cannot be negative: so this becomes vector instructions.
                changes, found = transitions[j, first[j] : last[j]], best[first[j] : last[j]]
                numbers = chosen[first[j] : last[j]]
                for i in range(changes.shape[0]):
                    value = ended + changes[i]
                    better = value > found[i]
                    found[i] = value if better else found[i]
                    numbers[i] = j if better else numbers[i]
            kind = 1 if beat == 0 else 0
            heard = sums[kind, row + 1] - sums[kind, row]
            for i in range(count):
                scores[row, beat, i] = best[i] + heard
                back[number, beat, i] = chosen[i]


def common_ancestor(
    back: np.ndarray, scores: np.ndarray, intervals: np.ndarray, marks: np.ndarray, found: np.ndarray
) -> None:
    """The latest node that all paths run through which may still become the best.

    Args:
        back: of `forward`, ``[rows, beats, intervals]``.
        scores: of the last ``span`` rows.
        marks: ``[span + 1, beats, intervals]`` of zeros, to work in.
        found: the result: row, beat, number of the interval; the row is -1 where there is none.
    """
    rows, beats, count = back.shape
    span, ring = scores.shape[0], marks.shape[0]
    marks[:] = 0
    pending = 0
    found[0] = -1
    for row in range(rows - 1, -1, -1):
        age = rows - 1 - row
        place = row % ring
        if age < span:
            for beat in range(beats):
                for i in range(count):
                    alive = age < intervals[i] and scores[span - 1 - age, beat, i] > -np.inf
                    if alive and marks[place, beat, i] == 0:
                        marks[place, beat, i] = 1
                        pending += 1
        for beat in range(beats):
            for i in range(count):
                if marks[place, beat, i] == 0:
                    continue
                j = back[row, beat, i]
                if j >= SETTLED:
                    return
                if age >= span and pending == 1:
                    found[0], found[1], found[2] = row, beat, i
                    return
                marks[place, beat, i] = 0
                pending -= 1
                earlier, before = (row - intervals[j]) % ring, (beat + beats - 1) % beats
                if marks[earlier, before, j] == 0:
                    marks[earlier, before, j] = 1
                    pending += 1


def trace(back: np.ndarray, node: np.ndarray, intervals: np.ndarray, until: int, nodes: np.ndarray) -> None:
    """The path to a node, latest first.

    Args:
        back: of `forward`.
        node: row, beat, number of the interval; what the path ends in.
        until: the row before which it is not followed on.
        nodes: ``[n, 3]``, the result, filled up with rows of -1. What is settled is left out.
    """
    beats = back.shape[1]
    row, beat, i = node[0], node[1], node[2]
    nodes[:] = -1
    for number in range(nodes.shape[0]):
        j = back[row, beat, i]
        if j == SETTLED:
            return
        nodes[number, 0], nodes[number, 1], nodes[number, 2] = row, beat, i
        if j == UNBORN or row < until:
            return
        row, beat, i = row - intervals[j], (beat + beats - 1) % beats, j


def keep_only(back: np.ndarray, scores: np.ndarray, intervals: np.ndarray, node: np.ndarray) -> None:
    """Give up all paths that do not run through a node: their scores become -inf.

    Args:
        back, scores: as in `common_ancestor`.
        node: row, beat, number of the interval.
    """
    rows, beats, count = back.shape
    span = scores.shape[0]
    for age in range(span):
        for beat in range(beats):
            for i in range(count):
                row, here, number = rows - 1 - age, beat, i
                while row > node[0] and back[row, here, number] < SETTLED:
                    j = back[row, here, number]
                    row, here, number = row - intervals[j], (here + beats - 1) % beats, j
                if row != node[0] or here != node[1] or number != node[2]:
                    scores[span - 1 - age, beat, i] = -np.inf


def finish(sums: np.ndarray, lengths: np.ndarray, scores: np.ndarray, found: np.ndarray) -> None:
    """The best node at the end of a track.

    Args:
        sums: as in `forward`, of the last ``span`` frames.
        lengths: as in `forward`.
        scores: of those frames.
        found: float64, the result: its age in frames, beat, number of the interval, and the score at the end.
    """
    span, beats, count = scores.shape
    intervals, zones = lengths[0], lengths[1]
    found[3] = -np.inf
    for age in range(span):
        row = span - 1 - age
        for beat in range(beats):
            kind = 1 if beat == 0 else 0
            for i in range(count):
                if age < intervals[i]:
                    quiet = min(row + zones[i], span)
                    score = scores[row, beat, i] + (sums[kind, quiet] - sums[kind, row + 1])
                    score += sums[2, span] - sums[2, quiet]
                    if score > found[3]:
                        found[0], found[1], found[2], found[3] = age, beat, i, score
