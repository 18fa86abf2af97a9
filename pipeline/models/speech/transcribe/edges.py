"""Word edges moved onto the edges of speech that a voice activity detector found.

A recogniser's attention says where a word is, but not where silence begins: first and last words of a region reach a
quarter of a second and more into it, or start late. The detector knows those edges to 0.02 s.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from pipeline.models.speech.transcribe.transcript import RecognisedWord

REACH_S = 0.4


def snap_words(
    words: Sequence[RecognisedWord], regions: np.ndarray, reach_s: float = REACH_S
) -> list[RecognisedWord]:
    """Move the first start and the last end of the words in each region of speech onto its edges.

    A word belongs to the region that it overlaps most, or that is nearest. Of a region only the outermost edges move,
    and only by ``reach_s`` at most, except that what lies outside of the region is always cut off: nobody speaks
    there. Edges between two words of a region stay where they are.

    Args:
        words: in order, without overlap.
        regions: ``[n, 2]``, start and end in s, in order, without overlap.
        reach_s: s.

    Returns:
        as many words, in order, without overlap, none of negative length. A word that overlaps no region, and lies
        further than ``reach_s`` from all of them, is as it was.
    """
    regions = np.asarray(regions, np.float64).reshape(-1, 2) if np.size(regions) else np.zeros((0, 2))
    if len(regions) == 0:
        return list(words)
    homes = _homes(words, regions, reach_s)
    snapped = []
    for i, (word, home) in enumerate(zip(words, homes, strict=True)):
        if home is None:
            snapped.append(word)
            continue
        low, high = regions[home].tolist()
        start, end = min(max(word.start_s, low), high), min(max(word.end_s, low), high)
        if (i == 0 or homes[i - 1] != home) and start - low <= reach_s:
            start = low
        if (i + 1 == len(words) or homes[i + 1] != home) and high - end <= reach_s:
            end = high
        snapped.append(replace(word, start_s=start, end_s=end))
    return _in_order(snapped)


def _homes(words: Sequence[RecognisedWord], regions: np.ndarray, reach_s: float) -> list[int | None]:
    """The region of each word; they never go back, since the words are in order."""
    homes: list[int | None] = []
    for word in words:
        overlap = np.minimum(word.end_s, regions[:, 1]) - np.maximum(word.start_s, regions[:, 0])
        # Below zero it is the distance, so one maximum finds the nearest region, too.
        best = int(np.argmax(overlap))
        homes.append(best if overlap[best] > -reach_s else None)
    return homes


def _in_order(words: list[RecognisedWord]) -> list[RecognisedWord]:
    """Words of which each starts at the end of the one before it, or later; a place they both claim is halved."""
    for i in range(1, len(words)):
        before, word = words[i - 1], words[i]
        if word.start_s < before.end_s:
            seam = min(
                max((word.start_s + before.end_s) / 2, before.start_s), max(word.end_s, before.start_s)
            )
            words[i - 1] = replace(before, end_s=seam)
            words[i] = replace(word, start_s=seam, end_s=max(word.end_s, seam))
    return words
