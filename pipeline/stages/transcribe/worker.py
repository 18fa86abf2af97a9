"""What is said in the regions of speech of each recording."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from pipeline.audio.reader import AudioReader
from pipeline.audio.views import View
from pipeline.dataset.cache.entry import Entry
from pipeline.dataset.storage import one_line
from pipeline.engine.batch import Track
from pipeline.engine.late_worker import LateWorker
from pipeline.engine.passing import of_card
from pipeline.engine.timing import Cost, StageClock
from pipeline.errors import Fallback
from pipeline.models.speech.base import BackendUnavailable
from pipeline.models.speech.transcribe.choose import load_backend
from pipeline.models.speech.transcribe.edges import snap_words
from pipeline.models.speech.transcribe.names import AUTO, TranscribeOptions
from pipeline.models.speech.transcribe.packing import LONGEST_S, windows_of
from pipeline.models.speech.transcribe.transcript import (
    Piece,
    RecognisedSegment,
    Transcriber,
    is_doubtful,
)
from pipeline.stages.transcribe.spec import NAME

FRAME_S = 0.02
"""Of the energy by which a long region is cut, s."""
READ_S = 600.0
"""Of a region that is read at a time, s."""
GROUP_S = 3600.0
"""Speech that is in memory at a time, s: 230 MB."""


class _Placed(NamedTuple):
    """A transcriber, and the device that it works on."""

    transcriber: Transcriber
    device: str


class TranscribeWorker(LateWorker):
    """Fills the ``transcribe_*`` columns and the table of passages.

    Args:
        backend: its name.
        hears: the view that it reads.
        language: ISO 639-1; None finds it out.
        redact: what is withheld, of ``text`` and ``words``.
        options: of `TranscribeOptions`.
        common: see `pipeline.engine.late_worker.LateWorker`.

    Raises:
        BackendUnavailable: it cannot run here.
    """

    says_how_far = True

    def __init__(
        self,
        backend: str,
        hears: View,
        *,
        language: str | None = None,
        redact: Sequence[str] = (),
        options: Mapping[str, Any],
        **common: Any,
    ) -> None:
        super().__init__(**{"stage": NAME, **common})
        self.backend, self.options = backend, TranscribeOptions(**{**options, "threads": self.threads})
        self.hears, self.language, self.redact = hears, language, tuple(redact)
        self._placed: _Placed | None = None
        self._leaving = threading.Lock()
        self.load_unless_idle()

    def load(self) -> None:
        """Load the model; where it does not run on the card, on the CPU."""
        try:
            self._placed = _Placed(load_backend(self.backend, self.device, self.options), self.device)
            if self.device != "cpu":
                # Libraries of the card are looked for with the first window, not before.
                tone = np.full(self.hears.sample_rate, 1e-3, np.float32)
                self._placed.transcriber.recognise([(0.0, tone)])
        except (BackendUnavailable, RuntimeError) as error:
            if self.device == "cpu":
                raise
            self._leave_card(error, self._placed)

    def _leave_card(self, error: BaseException, used: _Placed | None) -> None:
        """Work on the CPU from now on, which every later track says; unless another thread, for which the card that
        was ``used`` did not do it either, has seen to that already."""
        with self._leaving:
            if self._placed is not used:
                return
            # A number format of cards may be none of the CPU's.
            transcriber = load_backend(self.backend, "cpu", replace(self.options, precision=AUTO))
            self.standing.append(Fallback(NAME, self.device, "cpu", one_line(error)))
            self._placed = _Placed(transcriber, "cpu")
            self.device, self.keeps = "cpu", False

    def process(self, tracks: Sequence[Track], clock: StageClock) -> None:
        """Write down what is said in each track."""
        self.load_once(clock)
        self.one_by_one(tracks, NAME, self._transcribe)

    def _transcribe(self, track: Track) -> None:
        rows = track.found("rows@regions") or []
        regions = np.array([(row["start_s"], row["end_s"]) for row in rows], np.float64).reshape(-1, 2)
        with ExitStack() as stack:
            reader, used = self.reader(track, self.hears, stack), self._placed
            try:
                found = self._recognised(track, reader, regions, used.transcriber)
            except RuntimeError as error:  # the card's memory is full, or it is in trouble
                if used.device == "cpu" or not of_card(error):
                    raise
                self._leave_card(error, used)
                used = self._placed
                found = self._recognised(track, reader, regions, used.transcriber)
        track.fallbacks.extend(self.standing if used.device == "cpu" else ())
        languages = [segment for segment in found if segment.language is not None]
        first = languages[0] if languages else found[0] if found else None
        track.values.update(
            transcribe_passages=len(found),
            transcribe_language=first.language if first else None,
            transcribe_language_probability=first.language_probability if first else None,
            transcribe_backend=used.transcriber.name,
            transcribe_model=f"{used.transcriber.version}:{used.transcriber.model_id()}",
        )
        track.rows["passages"] = [self._row(n, s, regions) for n, s in enumerate(found)]
        name = used.transcriber.name
        cost = Cost(NAME, device=used.device, backend=name, batch_audio_s=track.duration_s or 0.0)
        track.costs.append(cost)
        kept = None if self.redact else Entry({**track.values, **track.rows}, backend=name)
        self.done(track, NAME, kept)

    def _recognised(
        self, track: Track, reader: AudioReader, regions: np.ndarray, transcriber: Transcriber
    ) -> list[RecognisedSegment]:
        """Hour by hour of speech, so that ten hours need no more memory than one; all in the language of the first."""
        found: list[RecognisedSegment] = []
        language, first, done = self.language, None, 0
        whole = max(1.0, float(np.diff(regions).sum()) * self.hears.sample_rate)
        for group in self._groups(reader, regions):
            size = sum(len(samples) for _, samples in group)

            def told(share: float, done: int = done, size: int = size) -> None:
                self.gets_on(track, (done + share * size) / whole)

            told(0.0)
            heard = transcriber.recognise(group, language=language, told=told)
            done += size
            if first is not None:
                heard = [replace(s, language_probability=first.language_probability) for s in heard]
            found += heard
            if language is None and heard and heard[0].language is not None:
                first, language = heard[0], heard[0].language
        return found

    def _groups(self, reader: AudioReader, regions: np.ndarray) -> Iterator[list[Piece]]:
        """The pieces of speech, cut where they are too long for a window, an hour of them at a time."""
        pieces: list[Piece] = []
        size = 0
        for start, end in regions.tolist():
            for piece in self._pieces(reader, start, end):
                pieces.append(piece)
                size += len(piece[1])
                if size >= GROUP_S * self.hears.sample_rate:
                    yield pieces
                    pieces, size = [], 0
        if pieces:
            yield pieces

    def _pieces(self, reader: AudioReader, start_s: float, end_s: float) -> Iterator[Piece]:
        """A region as pieces that a window holds; some minutes of it are read at a time."""
        rate = self.hears.sample_rate
        first, end = max(0, round(start_s * rate)), min(reader.samples, round(end_s * rate))
        origin = first
        while first < end:
            stop = min(end, first + round(READ_S * rate))
            heard = reader.read(first, stop)[0]
            spans = _within(heard, rate)
            if stop < end and len(spans) > 1:  # where the last one ends is not known yet
                spans = spans[:-1]
            for begin, after in spans:
                at = start_s + (first + begin - origin) / rate
                yield at, np.ascontiguousarray(heard[begin:after])
            first += spans[-1][1] if spans else len(heard)

    def _row(self, number: int, segment: RecognisedSegment, regions: np.ndarray) -> dict[str, Any]:
        first, last = (
            np.searchsorted(regions[:, 1], segment.start_s),
            np.searchsorted(regions[:, 0], segment.end_s),
        )
        words = snap_words(segment.words, regions[first:last])
        withheld = "words" in self.redact
        return {
            "passage_index": number,
            "start_s": segment.start_s,
            "end_s": segment.end_s,
            "text": None if self.redact else segment.text,  # words can be read from it
            "language": segment.language,
            "language_probability": segment.language_probability,
            "avg_logprob": segment.avg_logprob,
            "no_speech_prob": segment.no_speech_prob,
            "compression_ratio": segment.compression_ratio,
            "doubt": is_doubtful(segment),
            "word_texts": None if withheld else [word.word for word in words],
            "word_starts_s": [word.start_s for word in words],
            "word_ends_s": [word.end_s for word in words],
            "word_probabilities": [word.probability for word in words],
        }


def _within(samples: np.ndarray, rate: int) -> list[tuple[int, int]]:
    """The samples of a region as pieces that a window holds: the first, and the one after the last."""
    if len(samples) <= LONGEST_S * rate:
        return [(0, len(samples))] if len(samples) else []
    size = round(FRAME_S * rate)
    whole = samples[: len(samples) // size * size].reshape(-1, size)
    energy = np.square(whole, dtype=np.float64).mean(axis=1)
    cut = windows_of(np.array([[0.0, len(samples) / rate]]), energy, frame_s=FRAME_S)
    return [(round(start * rate), round(end * rate)) for start, end in cut.tolist()]
