"""Turns that somebody else made, in the form that clustering here gives them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from pipeline.speech.clustering import unit
from pipeline.speech.diarization import Diarization


def as_told(turns: Sequence[tuple[float, float, str]], voices: Mapping[str, np.ndarray]) -> Diarization:
    """Number the speakers of turns in the order in which they first speak, and say where two speak at once.

    Args:
        turns: start and end in seconds, and who; any order.
        voices: who → mean voice embedding ``[d]``, all of one d; of those who have one.

    Raises:
        ValueError: a turn that does not end after its start, or a voice that is not finite.
    """
    ordered = sorted(turns, key=lambda turn: (turn[0], turn[1], turn[2]))
    starts = np.array([start for start, _, _ in ordered], np.float64)
    ends = np.array([end for _, end, _ in ordered], np.float64)
    if not (starts < ends).all():
        raise ValueError("a turn ends after its start")
    order = list(dict.fromkeys(who for _, _, who in ordered))
    speakers = np.array([order.index(who) for _, _, who in ordered], np.int64)
    dimensions = max((len(voice) for voice in voices.values()), default=0)
    means = np.zeros((len(order), dimensions))
    for row, who in enumerate(order):
        if who in voices:
            means[row] = voices[who]
    if not np.isfinite(means).all():
        raise ValueError("a voice holds NaN or infinity")
    return Diarization(
        starts_s=starts,
        ends_s=ends,
        speakers=speakers,
        # How sure they are nobody has said.
        confidences=np.full(len(ordered), np.nan),
        overlaps=_overlaps(starts, ends, speakers),
        centroids=unit(means).astype(np.float32),
        seconds=np.bincount(speakers, ends - starts, len(order)),
    )


def _overlaps(starts: np.ndarray, ends: np.ndarray, speakers: np.ndarray) -> np.ndarray:
    """Whether somebody else speaks at some time of each turn, bool ``[turns]``; turns in the order of their starts."""
    found = np.zeros(len(starts), bool)
    for index in range(len(starts)):
        later = slice(index + 1, np.searchsorted(starts, ends[index]))
        both = speakers[later] != speakers[index]
        found[later] |= both
        found[index] |= both.any()
    return found
