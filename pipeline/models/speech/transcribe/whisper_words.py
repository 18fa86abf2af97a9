"""Words with times, out of the attention of those heads of Whisper that follow the speech."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from pipeline.models.speech.transcribe.transcript import SAMPLE_RATE

TOKEN_SAMPLES = SAMPLE_RATE // 50
"""Samples per step of the encoder's output, 20 ms."""
_LEAST = 1e-10
_PREPENDED = "\"'“¿([{-"
_APPENDED = "\"'.。,，!！?？:：”)]}、"


@dataclass(frozen=True)
class HeardWord:
    """A word of a window.

    Args:
        text: with the space before it, where the language has spaces, and its punctuation.
        start, end: samples from the beginning of the window.
        probability: mean of its tokens, 0..1, without the punctuation.
        logprob: sum of its tokens' log probabilities.
        tokens: how many there are.
    """

    text: str
    start: float
    end: float
    probability: float
    logprob: float
    tokens: int


def aligned_words(
    model: Any, encoded: Any, tokenizer: Any, tokens: tuple[int, ...], frames: int
) -> tuple[HeardWord, ...]:
    """The words of a text, in order and without overlap.

    Args:
        model: a ``ctranslate2.models.Whisper``.
        encoded: its encoder's output of the window.
        tokenizer: a ``faster_whisper.tokenizer.Tokenizer`` of the language.
        tokens: of the text, without special ones.
        frames: of the window that are not padding; two make a step of the encoder's output.
    """
    if not tokens:
        return ()
    found = model.align(encoded, tokenizer.sot_sequence, [list(tokens)], frames, median_filter_width=7)[0]
    texts, groups = tokenizer.split_to_word_tokens([*tokens, tokenizer.eot])
    rows, columns = np.array(found.alignments, np.int64).reshape(-1, 2).T
    # Where the path goes on to the next token is when that one begins.
    steps = columns[np.diff(rows, prepend=-1) != 0]
    bounds = np.concatenate([[0], np.cumsum([len(group) for group in groups[:-1]])])
    probabilities = np.asarray(found.text_token_probs, np.float64)
    words = []
    for text, low, high in zip(texts[:-1], bounds[:-1], bounds[1:], strict=True):
        own = probabilities[low:high]
        start, end = (float(steps[min(i, len(steps) - 1)]) * TOKEN_SAMPLES for i in (low, high))
        logprob = float(np.log(np.maximum(own, _LEAST)).sum())
        words.append(
            HeardWord(text, start, end, probability=float(own.mean()), logprob=logprob, tokens=len(own))
        )
    return tuple(word for word in _with_punctuation(words) if word.text.strip())


def _with_punctuation(words: list[HeardWord]) -> list[HeardWord]:
    """Marks joined to the word that they belong to, whose times and probability stay as they are.

    An opening mark is spoken as little as a closing one, so neither moves an edge.
    """
    joined: list[HeardWord] = []
    opening = ""
    for word in words:
        mark = word.text.strip()
        if mark and mark in _APPENDED and not word.text.startswith(" ") and joined and not opening:
            last = joined.pop()
            joined.append(replace(last, text=last.text + word.text))
        elif mark and mark in _PREPENDED and word.text.startswith(" "):
            opening += word.text
        else:
            joined.append(replace(word, text=opening + (word.text.lstrip() if opening else word.text)))
            opening = ""
    return joined
