"""PocketSphinx: English words without a neural network, for machines on which nothing else runs.

Its package carries its own models of American English. It knows the words of its dictionary alone, writes no
punctuation, and is wrong far more often than Whisper.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.errors import UserError
from pipeline.models.speech.base import BackendUnavailable
from pipeline.models.speech.transcribe.names import TranscribeOptions
from pipeline.models.speech.transcribe.transcript import SAMPLE_RATE, Piece, RecognisedSegment, RecognisedWord
from pipeline.models.speech.transcribe.whisper_window import compression_ratio
from pipeline.optional import look_up

NAME = "pocketsphinx"
LANGUAGE = "en"
FRAMES_PER_S = 100
_LEAST = 1e-10
"""Of a probability whose logarithm is taken."""


class PocketSphinx:
    """The recogniser. Use `load`.

    Args:
        decoder: a ``pocketsphinx.Decoder`` at 16 kHz.
        model_id: name and hash of its models.
    """

    name = NAME
    version = "1"
    sample_rate = SAMPLE_RATE

    def __init__(self, decoder: Any, model_id: str) -> None:
        self._decoder = decoder
        self._model_id = model_id

    def model_id(self) -> str:
        """Version of the package and hash of its models."""
        return self._model_id

    def refuses(self, language: str | None) -> str | None:
        """Why it cannot take this language, or None."""
        if language in (None, LANGUAGE):
            return None
        return f"its models are of English, and not of {language!r}"

    def recognise(
        self,
        pieces: Sequence[Piece],
        *,
        language: str | None = None,
        told: Callable[[float], object] = lambda share: None,
    ) -> list[RecognisedSegment]:
        """As `Transcriber.recognise`. Each piece is heard alone; that nobody speaks in it is nothing that it says."""
        if refusal := self.refuses(language):
            raise UserError(refusal)
        segments = []
        for number, (start, samples) in enumerate(pieces, 1):
            segments.append(self._segment(start, np.asarray(samples, np.float32)))
            told(number / len(pieces))
        return [segment for segment in segments if segment is not None]

    def _segment(self, start_s: float, samples: np.ndarray) -> RecognisedSegment | None:
        if samples.ndim != 1 or not np.isfinite(samples).all():
            raise ValueError("a piece of speech is [samples] of finite numbers")
        words = self._words(start_s, samples) if np.any(samples) else ()
        if not words:
            return None
        text = " ".join(word.word for word in words)
        return RecognisedSegment(
            start_s=start_s,
            end_s=start_s + len(samples) / SAMPLE_RATE,
            text=text,
            avg_logprob=float(np.mean([np.log(max(word.probability, _LEAST)) for word in words])),
            no_speech_prob=None,
            compression_ratio=compression_ratio(text),
            words=words,
            language=LANGUAGE,
            language_probability=None,
        )

    def _words(self, start_s: float, samples: np.ndarray) -> tuple[RecognisedWord, ...]:
        steps = np.rint(np.clip(samples, -1.0, 1.0) * 32767).astype("<i2")
        self._decoder.start_utt()
        try:
            self._decoder.process_raw(steps.tobytes(), False, True)
        finally:
            self._decoder.end_utt()
        end_s = start_s + len(samples) / SAMPLE_RATE
        found = []
        for heard in self._decoder.seg() or ():
            if heard.word[0] in "<[+":  # sentence ends, silence and noises
                continue
            # A second pronunciation is written "to(2)".
            word = heard.word.partition("(")[0]
            times = (start_s + frame / FRAMES_PER_S for frame in (heard.start_frame, heard.end_frame + 1))
            first, last = (min(time, end_s) for time in times)
            found.append(RecognisedWord(word, first, last, float(np.clip(heard.prob, 0.0, 1.0))))
        return tuple(found)


def load(device: str = "cpu", options: TranscribeOptions | None = None) -> PocketSphinx:
    """Load the models of the package; there are no options, and it runs on the CPU.

    Raises:
        BackendUnavailable: the package is missing, or does not load; what to type.
    """
    found = look_up("pocketsphinx", load=True)
    if not found.available:
        raise BackendUnavailable(found.reason)
    import pocketsphinx

    folder = Path(pocketsphinx.get_model_path())
    try:
        decoder = pocketsphinx.Decoder(samprate=float(SAMPLE_RATE), loglevel="FATAL")
    except (RuntimeError, ValueError) as error:
        raise BackendUnavailable(f"pocketsphinx does not load the models in {folder}: {error}") from error
    return PocketSphinx(decoder, f"pocketsphinx-{found.version}:{_digest(folder)[:16]}")


@functools.cache
def _digest(folder: Path) -> str:
    """Of all files of the models, hex."""
    whole = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        whole.update(str(path.relative_to(folder)).encode())
        whole.update(path.read_bytes())
    return whole.hexdigest()
