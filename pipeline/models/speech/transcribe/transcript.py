"""What a transcription gives, and what a backend of it has to offer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from pipeline.models.speech.base import Backend

SAMPLE_RATE = 16000
"""Hz, of every piece of speech."""

Piece = tuple[float, np.ndarray]
"""A region of speech: where it starts in the recording, s, and its samples, float32 ``[n]`` at `SAMPLE_RATE`."""

NO_SPEECH = 0.6
LOW_LOGPROB = -1.0
REPETITIVE = 2.4
"""The bounds of Whisper's authors: above, below, above which a text is not to be believed."""


@dataclass(frozen=True)
class RecognisedWord:
    """One word.

    Args:
        word: with the punctuation that belongs to it, without spaces around it.
        start_s, end_s: in the recording, s; ``end_s`` is never the smaller one.
        probability: 0..1.
    """

    word: str
    start_s: float
    end_s: float
    probability: float


@dataclass(frozen=True)
class RecognisedSegment:
    """What was said in one piece of speech.

    Args:
        start_s, end_s: of the piece, s.
        text: as the backend wrote it, with punctuation.
        avg_logprob: mean log probability of the tokens of this piece, natural logarithm.
        no_speech_prob: that nobody speaks in the window that the piece was heard in, 0..1; None where the backend does
            not say.
        compression_ratio: bytes of the text over bytes of its deflated form; repetitions make it large.
        words: in order, within the piece, without overlap.
        language: of the recording, as ISO 639-1; None where it was identified with too low a probability.
        language_probability: of the likeliest language; None where the language was given, or is the only one that
            the model knows.
    """

    start_s: float
    end_s: float
    text: str
    avg_logprob: float
    no_speech_prob: float | None
    compression_ratio: float
    words: tuple[RecognisedWord, ...]
    language: str | None
    language_probability: float | None


def is_doubtful(segment: RecognisedSegment) -> str | None:
    """Why a segment is probably invented, or None: one word for tables."""
    if segment.compression_ratio > REPETITIVE:
        return "repetition"
    if segment.avg_logprob < LOW_LOGPROB:
        return "no-speech" if (segment.no_speech_prob or 0.0) > NO_SPEECH else "improbable"
    return None


class Transcriber(Backend, Protocol):
    """A backend that says what is spoken."""

    def refuses(self, language: str | None) -> str | None:
        """Why it cannot take speech in this language, in words; None where it can. None is "find out"."""
        ...

    def recognise(
        self,
        pieces: Sequence[Piece],
        *,
        language: str | None = None,
        told: Callable[[float], object] = lambda share: None,
    ) -> list[RecognisedSegment]:
        """The words of one recording.

        Args:
            pieces: in order, without overlap, none longer than 30 s.
            language: ISO 639-1; None identifies it, once for the recording.
            told: is called at least once for each half minute of speech with the share of the pieces that was heard, 0
                to 1; what it raises ends the work.

        Returns:
            one for each piece in which something was understood, in order.

        Raises:
            ValueError: a piece is too long, out of order, not one-dimensional, or has values that are no numbers.
            UserError: the model does not know the language.
        """
        ...
