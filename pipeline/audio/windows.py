"""Cutting a track into overlapping windows without copying it, and filling up the ones that are short."""

from __future__ import annotations


def window_spans(samples: int, window: int, hop: int) -> list[tuple[int, int]]:
    """Where windows begin and end, in samples.

    Windows start at 0, ``hop``, ``2 * hop``, ... and stop with the first one that reaches the end of the
    track, so no window lies wholly inside the one before it. The last may be shorter than ``window``. A
    ``hop`` larger than ``window`` leaves gaps.

    Args:
        samples: length of the track.
        window: length of a window, at least 1.
        hop: distance between two starts, at least 1.

    Returns:
        ``(start, stop)`` pairs, ``stop`` exclusive and never beyond ``samples``: one pair for a track no
        longer than a window, none for an empty one.

    Raises:
        ValueError: ``window`` or ``hop`` is below 1, or ``samples`` is negative.
    """
    if window < 1 or hop < 1:
        raise ValueError(f"window and hop must be at least 1 sample, got {window} and {hop}")
    if samples < 0:
        raise ValueError(f"samples must not be negative, got {samples}")
    spans = []
    for start in range(0, samples, hop):
        spans.append((start, min(start + window, samples)))
        if start + window >= samples:
            break
    return spans
