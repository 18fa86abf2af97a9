"""One window of at most 30 s through Whisper: encoded once, for its language as well as for its words.

Whisper's usual way out of a bad text, drawing tokens at random at a rising temperature, gives another text in each run:
CTranslate2 seeds its generators per thread and not per call. Here everything is a beam search at temperature 0: the
same samples give the same words. The way out of a text that runs in circles is a second search that may not repeat
itself.

Windows go through the model one at a time. Batches would be padded to the longest text and round differently with
their neighbours; on a CPU they gain nothing."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.models.speech.transcribe.transcript import LOW_LOGPROB, NO_SPEECH, REPETITIVE
from pipeline.models.speech.transcribe.whisper_words import HeardWord, aligned_words

HOP = 160
"""Samples per frame of the network's input."""
_MOST_TOKENS = 448
_NO_REPEAT = 8
"""Tokens that may not come twice in the second search; prompts such as "press one … press two" repeat fewer."""


@dataclass(frozen=True)
class HeardWindow:
    """What Whisper makes of a window; the numbers are those of the whole text, as in `RecognisedSegment`."""

    words: tuple[HeardWord, ...]
    avg_logprob: float
    no_speech_prob: float
    compression_ratio: float


def compression_ratio(text: str) -> float:
    """Bytes of a text over bytes of its deflated form: 2.4 and more is a phrase over and over. 0 for no text."""
    raw = text.encode()
    return len(raw) / len(zlib.compress(raw)) if raw else 0.0


class WindowReader:
    """Reads windows with one model.

    Args:
        model: a ``faster_whisper.WhisperModel``.
        beam: hypotheses followed at once.
    """

    def __init__(self, model: Any, beam: int) -> None:
        self._model = model
        self._beam = beam
        self._tokenizers: dict[str, Any] = {}

    @property
    def languages(self) -> tuple[str, ...]:
        """That the model knows, as ISO 639-1 (and ``yue``, ``haw``, ``jw``, which have other codes)."""
        return tuple(self._model.supported_languages)

    @property
    def multilingual(self) -> bool:
        """Whether it knows more than English."""
        return bool(self._model.model.is_multilingual)

    def encode(self, samples: np.ndarray) -> Any:
        """The encoder's output of a window, 3 MB for ``base``: what everything else here reads."""
        from faster_whisper.audio import pad_or_trim

        features = self._model.feature_extractor(samples, padding=HOP)
        return self._model.encode(pad_or_trim(features))

    def language(self, encoded: Any) -> dict[str, float]:
        """Language → probability, of a model that is multilingual."""
        found = self._model.model.detect_language(encoded)[0]
        return {token[2:-2]: float(probability) for token, probability in found}

    def read(self, encoded: Any, samples: int, language: str, *, careful: bool = False) -> HeardWindow:
        """The words of a window.

        Args:
            encoded: by `encode`.
            samples: how many the window has.
            language: one of `languages`.
            careful: search a second time where the text repeats itself, for one that does not. Not for windows of
                several pieces, which may well say the same.
        """
        tokenizer = self._tokenizer(language)
        best = self._search(encoded, tokenizer, no_repeat=0)
        if careful and best.compression_ratio > REPETITIVE:
            again = self._search(encoded, tokenizer, no_repeat=_NO_REPEAT)
            best = max(best, again, key=lambda text: (text.compression_ratio <= REPETITIVE, text.avg_logprob))
        words: tuple[HeardWord, ...] = ()
        if not best.is_silence:
            frames = max(2, min(samples // HOP, self._model.feature_extractor.nb_max_frames))
            words = aligned_words(self._model.model, encoded, tokenizer, best.tokens, frames)
        return HeardWindow(words, best.avg_logprob, best.no_speech_prob, best.compression_ratio)

    def _tokenizer(self, language: str) -> Any:
        if language not in self._tokenizers:
            from faster_whisper.tokenizer import Tokenizer

            self._tokenizers[language] = Tokenizer(
                self._model.hf_tokenizer, self.multilingual, task="transcribe", language=language
            )
        return self._tokenizers[language]

    def _search(self, encoded: Any, tokenizer: Any, no_repeat: int) -> _Text:
        prompt = [*tokenizer.sot_sequence, tokenizer.no_timestamps]
        found = self._model.model.generate(
            encoded,
            [prompt],
            beam_size=self._beam,
            no_repeat_ngram_size=no_repeat,
            max_length=_MOST_TOKENS,
            return_scores=True,
            return_no_speech_prob=True,
        )[0]
        tokens = [token for token in found.sequences_ids[0] if token < tokenizer.eot]
        # The score is a mean over the tokens; the end of the text, which has none, counts as one.
        length = len(found.sequences_ids[0])
        avg_logprob = found.scores[0] * length / (length + 1)
        text = tokenizer.decode(tokens).strip()
        return _Text(tuple(tokens), avg_logprob, float(found.no_speech_prob), compression_ratio(text))


@dataclass(frozen=True)
class _Text:
    tokens: tuple[int, ...]
    avg_logprob: float
    no_speech_prob: float
    compression_ratio: float

    @property
    def is_silence(self) -> bool:
        return self.no_speech_prob > NO_SPEECH and self.avg_logprob < LOW_LOGPROB
