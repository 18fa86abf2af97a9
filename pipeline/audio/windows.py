"""Cutting a track into overlapping windows without copying it, and filling up the ones that are short."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np


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


def cut_windows(x: np.ndarray, window: int, hop: int) -> Iterator[np.ndarray]:
    """The windows of `window_spans` as views into ``x``, one at a time.

    Shape:
        - x: ``[..., samples]``
        - yields: ``[..., n]``, ``n <= window``; they share the memory of ``x``
    """
    for start, stop in window_spans(x.shape[-1], window, hop):
        yield x[..., start:stop]


def repeat_pad(x: np.ndarray, length: int) -> np.ndarray:
    """Fill ``x`` up to ``length`` samples: as many whole repetitions as fit, then zeros.

    This is LAION-CLAP's ``data_filling="repeatpad"`` (Wu et al., "Large-scale Contrastive Language-Audio
    Pretraining with Feature Fusion and Keyword-to-Caption Augmentation", ICASSP 2023;
    ``laion_clap.training.data.get_audio_features``). An empty ``x`` gives zeros.

    Shape:
        - x: ``[..., samples]``, ``samples <= length``
        - returns: ``[..., length]``, the dtype of ``x``; ``x`` itself when it is long enough already

    Raises:
        ValueError: ``x`` is longer than ``length``.
    """
    samples = x.shape[-1]
    if samples > length:
        raise ValueError(f"cannot fill {samples} samples up to {length}")
    if samples == length:
        return x
    repeats = length // samples if samples else 0
    padded = np.zeros((*x.shape[:-1], length), x.dtype)
    padded[..., : repeats * samples] = np.tile(x, repeats)
    return padded
