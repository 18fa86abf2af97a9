"""Whisper, through CTranslate2: the words of a recording in some hundred languages."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from pipeline.errors import UserError
from pipeline.models.speech.base import BackendUnavailable
from pipeline.models.speech.transcribe import language as languages
from pipeline.models.speech.transcribe.names import TranscribeOptions
from pipeline.models.speech.transcribe.packing import GAP_S, WINDOW_S, PackedWindow, Place, pack
from pipeline.models.speech.transcribe.transcript import (
    REPETITIVE,
    SAMPLE_RATE,
    Piece,
    RecognisedSegment,
    RecognisedWord,
    is_doubtful,
)
from pipeline.models.speech.transcribe.whisper_models import (
    ModelFiles,
    compute_type,
    find_model,
    needs_package,
)
from pipeline.models.speech.transcribe.whisper_window import (
    HeardWindow,
    WindowReader,
    compression_ratio,
)
from pipeline.models.speech.transcribe.whisper_words import HeardWord

NAME = "whisper"
WINDOW = round(WINDOW_S * SAMPLE_RATE)
GAP = round(GAP_S * SAMPLE_RATE)
_SHORTEST = SAMPLE_RATE // 50
"""20 ms, the step of Whisper's times: nobody says anything in less."""


class Whisper:
    """A Whisper model. Use `load`.

    Args:
        reader: of windows.
        model_id: name and hash of the weights.
    """

    name = NAME
    version = "1"
    sample_rate = SAMPLE_RATE

    def __init__(self, reader: Any, model_id: str) -> None:
        self._reader = reader
        self._model_id = model_id

    def model_id(self) -> str:
        """Name, number format and hash of the weights: what its words depend on, besides the version."""
        return self._model_id

    def refuses(self, language: str | None) -> str | None:
        """Why it cannot take this language, or None."""
        if language is None or language in self._reader.languages:
            return None
        if not self._reader.multilingual:
            return f"the model knows English only, and not {language!r}"
        return f"the model does not know the language {language!r}: use ISO 639-1 such as en, fr, it"

    def recognise(
        self,
        pieces: Sequence[Piece],
        *,
        language: str | None = None,
        told: Callable[[float], object] = lambda share: None,
    ) -> list[RecognisedSegment]:
        """As `Transcriber.recognise`.

        Pieces are packed into windows. What comes out doubtful is heard a second time: the pieces of a window whose
        text repeats itself each alone, and those in which nothing was understood among themselves, since a network
        that ends its text early loses the last pieces of a window.
        """
        if refusal := self.refuses(language):
            raise UserError(refusal)
        checked = [_checked(i, start, samples) for i, (start, samples) in enumerate(pieces)]
        _in_order(checked)
        sounding = [i for i, (_, x) in enumerate(checked) if len(x) >= _SHORTEST and np.any(x)]
        if not sounding:
            return []
        hearing = _Hearing(self._reader, checked, language, told)
        heard, circling = hearing.hear(sounding)
        hearing.first = False
        for i in circling:
            heard.pop(i, None)
            heard |= hearing.hear([i], careful=True)[0]
        missed = [i for i in sounding if i not in heard and i not in circling]
        if missed and len(missed) < len(sounding):
            # What nobody understood at first is likely to be no speech: only what is beyond doubt counts.
            again, _ = hearing.hear(missed)
            heard |= {i: segment for i, segment in again.items() if is_doubtful(segment) is None}
        return [heard[i] for i in sorted(heard)]


class _Hearing:
    """One recording: its pieces and its language. Of what is heard a second time ``told`` is told that all is heard."""

    def __init__(
        self,
        reader: Any,
        pieces: list[Piece],
        language: str | None,
        told: Callable[[float], object],
    ) -> None:
        self._reader, self._told, self.first = reader, told, True
        self._starts = [start for start, _ in pieces]
        self._samples = [samples for _, samples in pieces]
        self._language = language or ("en" if not reader.multilingual else None)
        self._probability: float | None = None

    def hear(
        self, numbers: list[int], *, careful: bool = False
    ) -> tuple[dict[int, RecognisedSegment], list[int]]:
        """What is understood in some of the pieces.

        Args:
            numbers: of the pieces, in order.
            careful: as `WindowReader.read`; for a piece alone.

        Returns:
            number of a piece → what was understood in it, where anything was; and the numbers of those that have to
            be heard again, since the text of their window repeats itself.
        """
        lengths = [len(samples) for samples in self._samples]
        windows = pack(lengths, gap=GAP, window=WINDOW, only=numbers)
        # Windows that the language was found in are not encoded again.
        encoded = {} if self._language else self._find_language(windows)
        heard: dict[int, RecognisedSegment] = {}
        circling: list[int] = []
        for number, window in enumerate(windows):
            features = encoded.pop(number, None)
            if features is None:
                features = self._reader.encode(window.samples(self._samples))
            found = self._reader.read(features, window.length, self._language, careful=careful)
            self._told((number + 1) / len(windows) if self.first else 1.0)
            heard |= self._segments(window, found)
            if found.compression_ratio > REPETITIVE and not careful:
                circling += [place.piece for place in window.places]
        return heard, circling

    def _find_language(self, windows: list[PackedWindow]) -> dict[int, Any]:
        chosen = languages.spread(len(windows))
        encoded = {i: self._reader.encode(windows[i].samples(self._samples)) for i in chosen}
        votes = [self._reader.language(encoded[i]) for i in chosen]
        spoken = [sum(place.length for place in windows[i].places) for i in chosen]
        self._language, self._probability = languages.vote(votes, spoken)
        return encoded

    def _segments(self, window: PackedWindow, found: HeardWindow) -> dict[int, RecognisedSegment]:
        by_place: dict[Place, list[HeardWord]] = {}
        for word in found.words:
            by_place.setdefault(window.place_of(word.start, word.end), []).append(word)
        return {place.piece: self._segment(place, words, found) for place, words in by_place.items()}

    def _segment(self, place: Place, words: list[HeardWord], found: HeardWindow) -> RecognisedSegment:
        start_s = self._starts[place.piece]
        text = "".join(word.text for word in words).strip()
        sure = self._probability is None or self._probability >= languages.SURE
        return RecognisedSegment(
            start_s=start_s,
            end_s=start_s + place.length / SAMPLE_RATE,
            text=text,
            avg_logprob=sum(word.logprob for word in words) / sum(word.tokens for word in words),
            no_speech_prob=found.no_speech_prob,
            compression_ratio=compression_ratio(text),
            words=tuple(_in_source(word, place, start_s) for word in words),
            language=self._language if sure else None,
            language_probability=self._probability,
        )


def _in_source(word: HeardWord, place: Place, start_s: float) -> RecognisedWord:
    """A word in the recording's time; what reaches out of its piece is cut off."""
    start, end = (min(max(t - place.start, 0.0), place.length) for t in (word.start, word.end))
    return RecognisedWord(
        word.text.strip(),
        start_s + start / SAMPLE_RATE,
        start_s + max(start, end) / SAMPLE_RATE,
        word.probability,
    )


def _checked(number: int, start_s: float, samples: np.ndarray) -> Piece:
    samples = np.asarray(samples, np.float32)
    if samples.ndim != 1:
        raise ValueError(f"piece {number} has the shape {samples.shape} and not [samples]")
    if len(samples) > WINDOW:
        raise ValueError(f"piece {number} has {len(samples) / SAMPLE_RATE:.1f} s, over {WINDOW_S:g} s")
    if not np.isfinite(samples).all() or not np.isfinite(start_s):
        raise ValueError(f"piece {number} has values that are no finite numbers")
    return float(start_s), samples


def _in_order(pieces: list[Piece]) -> None:
    # A sample's length of slack: starts are rounded seconds.
    ends = [start + (len(samples) - 1) / SAMPLE_RATE for start, samples in pieces]
    for i in range(1, len(pieces)):
        if pieces[i][0] < ends[i - 1]:
            raise ValueError(f"piece {i} starts at {pieces[i][0]:g} s, before the end of the one before it")


def load(device: str = "cpu", options: TranscribeOptions | None = None) -> Whisper:
    """Load a model from this disk.

    Args:
        device: ``cpu`` or ``cuda``.
        options: how.

    Raises:
        BackendUnavailable: the package or the model is missing, or does not run here; what to type.
        UserError: an option is not possible.
    """
    options = options or TranscribeOptions()
    if options.threads < 1 or not 1 <= options.beam <= 10:
        raise UserError(
            f"threads={options.threads}, beam={options.beam}: use threads from 1 and a beam of 1 to 10"
        )
    needs_package()
    files = find_model(options.model)
    number_format = compute_type(options.precision, device)
    from faster_whisper import WhisperModel

    try:
        model = WhisperModel(
            str(files.folder),
            device=device,
            compute_type=number_format,
            cpu_threads=options.threads,
            local_files_only=True,
        )
    except (
        RuntimeError,
        ValueError,
    ) as error:  # CTranslate2 about a damaged file or a card without its libraries
        raise BackendUnavailable(f"Whisper from {files.folder} does not load: {error}") from error
    return Whisper(WindowReader(model, options.beam), identity(files, number_format, options.beam))


def identity(files: ModelFiles, number_format: str, beam: int) -> str:
    """What `Whisper.model_id` says of a model once it is loaded."""
    return f"whisper-{files.name}@{files.sha256[:16]}:{number_format}:beam{beam}"
