"""The language of a recording, from what a model says about several of its windows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

SURE = 0.5
"""Below this mean probability a language is a guess, and not said to be known."""
WINDOWS = 5
"""That are listened to: more of them cost time and change nothing in a recording of one language."""


def spread(count: int, most: int = WINDOWS) -> list[int]:
    """Numbers of at most ``most`` of ``count`` windows, evenly from first to last."""
    if count <= most:
        return list(range(count))
    if most == 1:
        return [0]
    return [round(i * (count - 1) / (most - 1)) for i in range(most)]


def vote(windows: Sequence[Mapping[str, float]], weights: Sequence[float]) -> tuple[str, float]:
    """The likeliest language and its probability: the mean over windows, each with its weight.

    Args:
        windows: language → probability, of each window.
        weights: of each window, such as the seconds of speech in it; at least one is above zero.

    Raises:
        ValueError: nothing to vote with.
    """
    total = float(sum(weights))
    if not windows or not total > 0:
        raise ValueError("no window says anything about the language")
    means: dict[str, float] = {}
    for window, weight in zip(windows, weights, strict=True):
        for language, probability in window.items():
            means[language] = means.get(language, 0.0) + probability * weight / total
    # Equal ones by name, so that the order of a dictionary decides nothing.
    best = min(means, key=lambda language: (-means[language], language))
    return best, min(means[best], 1.0)
