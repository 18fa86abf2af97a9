"""Regions, turns, words, passages and clips of a recording, and the algebra of their times.

All times are seconds of the source, float64. A span is half-open, ``[start_s, end_s)``: spans that touch share nothing,
and one of no length is an empty set that ``union`` drops. Nothing here needs its input in order.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol, TypeVar

import numpy as np


class Span(Protocol):
    """Whatever has a start and an end in seconds."""

    @property
    def start_s(self) -> float: ...

    @property
    def end_s(self) -> float: ...


AnySpan = TypeVar("AnySpan", bound=Span)
# What spans say of themselves beside their times: finite, or None.
_MEASURES = (
    "confidence", "probability", "overlap_ratio", "language_probability", "avg_logprob", "no_speech_prob",
    "compression_ratio",
)  # fmt: skip


class _Timed:
    """What all spans have: numbers that are checked and made floats, whatever kind of numpy's they were."""

    start_s: float
    end_s: float

    def __post_init__(self) -> None:
        for name in ("start_s", "end_s", *_MEASURES):
            value = getattr(self, name, None)
            if value is None and name in _MEASURES:
                continue
            if not math.isfinite(value):
                raise ValueError(f"{name} is a finite number: {value}")
            object.__setattr__(self, name, float(value))
        if self.start_s > self.end_s:
            raise ValueError(f"a span ends at or after its start: {self.start_s} to {self.end_s}")

    @property
    def duration_s(self) -> float:
        """Its length in seconds."""
        return self.end_s - self.start_s


@dataclass(frozen=True)
class Region(_Timed):
    """A part of the recording: where somebody speaks, or nobody does.

    Raises:
        ValueError: a time is not finite, or the end lies before the start. So it is for all spans below.
    """

    start_s: float
    end_s: float


@dataclass(frozen=True)
class Turn(_Timed):
    """A stretch in which one speaker has the word.

    Args:
        start_s: in seconds of the source.
        end_s: likewise.
        speaker: the name that the diarization gave.
        confidence: in the speaker, 0..1; None where nobody said.
        overlap: somebody else speaks at the same time.
    """

    start_s: float
    end_s: float
    speaker: str
    confidence: float | None = None
    overlap: bool = False


@dataclass(frozen=True)
class Word(_Timed):
    """A word with its times. May have no length, as some recognizers give them.

    Args:
        word: as the recognizer wrote it, with its punctuation, and with a space before it where it gives one.
        start_s: in seconds of the source.
        end_s: likewise.
        probability: of the recognizer, 0..1; None where it gives none.
        speaker: who said it; None where that is unsure.
        segment: the index of the passage it comes from.
    """

    word: str
    start_s: float
    end_s: float
    probability: float | None = None
    speaker: str | None = None
    segment: int | None = field(default=None, kw_only=True)


@dataclass(frozen=True, kw_only=True)
class Passage(_Timed):
    """What a recognizer says of one of its segments, beside the words. ``Word.segment`` is its ``index``.

    Args:
        index: of the segment within the recording.
        start_s: in seconds of the source.
        end_s: likewise.
        text: as the recognizer wrote it.
        language: ISO 639-1.
        language_probability: 0..1.
        avg_logprob: mean log probability of its tokens.
        no_speech_prob: probability that nobody speaks, 0..1.
        compression_ratio: bytes of the text by bytes of its zlib; high where a recognizer repeats itself.
    """

    index: int
    start_s: float
    end_s: float
    text: str = ""
    language: str | None = None
    language_probability: float | None = None
    avg_logprob: float | None = None
    no_speech_prob: float | None = None
    compression_ratio: float | None = None


@dataclass(frozen=True, kw_only=True)
class Clip(_Timed):
    """A piece of the recording for training: one row of the table of clips.

    Args:
        segment_id: unique within the source, and in order of time.
        start_s: in seconds of the source, with the margin.
        end_s: likewise.
        start_sample: the first sample of the source, at the sample rate that ``clips`` was told.
        end_sample: the one after the last.
        speaker: the only one; None where nobody knows.
        overlap_ratio: the part of it in which two or more speak, 0..1.
        text: what is said; None where no words were given.
        language: ISO 639-1 of most of its words.
        language_probability: mean over its words, 0..1.
        avg_logprob: likewise.
        no_speech_prob: likewise, 0..1.
        compression_ratio: of its text: bytes by bytes of its zlib.
        keep: it passed all thresholds.
        drop_reason: the name of the first that it failed; None where it is kept.
    """

    segment_id: str
    start_s: float
    end_s: float
    start_sample: int
    end_sample: int
    speaker: str | None = None
    overlap_ratio: float = 0.0
    text: str | None = None
    language: str | None = None
    language_probability: float | None = None
    avg_logprob: float | None = None
    no_speech_prob: float | None = None
    compression_ratio: float | None = None
    keep: bool = True
    drop_reason: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.keep != (self.drop_reason is None):
            raise ValueError(
                f"clip {self.segment_id}: a reason goes with what is dropped, and only with that"
            )


def checked_length(seconds: float, name: str) -> float:
    """``seconds`` if they are finite and not negative.

    Raises:
        ValueError: they are not.
    """
    if not math.isfinite(seconds) or seconds < 0:
        raise ValueError(f"{name} is finite and not negative: {seconds}")
    return float(seconds)


def sample_of(seconds: float, sample_rate: int) -> int:
    """The sample next to a time in seconds. ``sample_of(seconds_of(n, rate), rate) == n`` up to 2**50 samples.

    Raises:
        ValueError: a time that is not finite, or a sample rate that is not positive.
    """
    if sample_rate <= 0:
        raise ValueError(f"a sample rate is positive: {sample_rate}")
    if not math.isfinite(seconds):
        raise ValueError(f"times are finite seconds: {seconds}")
    return round(float(seconds) * sample_rate)


def seconds_of(sample: int, sample_rate: int) -> float:
    """The time of a sample in seconds, float64.

    Raises:
        ValueError: a sample rate that is not positive.
    """
    if sample_rate <= 0:
        raise ValueError(f"a sample rate is positive: {sample_rate}")
    return sample / sample_rate


def regions_of(pairs: np.ndarray | Sequence[Sequence[float]]) -> list[Region]:
    """The regions of an array ``[regions, 2]`` of starts and ends in seconds, as voice activity gives them.

    Raises:
        ValueError: another shape, a time that is not finite, or an end before its start.
    """
    array = np.asarray(pairs, np.float64)
    if array.size == 0:
        return []
    if array.ndim != 2 or array.shape[1] != 2:
        raise ValueError(f"regions have the shape [regions, 2]: {array.shape}")
    return [Region(start, end) for start, end in array.tolist()]


def pairs_of(spans: Iterable[Span]) -> np.ndarray:
    """Starts and ends of spans in seconds, float64 ``[spans, 2]``."""
    return np.array([(span.start_s, span.end_s) for span in spans], np.float64).reshape(-1, 2)


def in_order(spans: Iterable[AnySpan]) -> list[AnySpan]:
    """Spans by start, then by end; those that are equal stay as they came."""
    return sorted(spans, key=lambda span: (span.start_s, span.end_s))


def merge(spans: Iterable[Span], gap_s: float = 0.0) -> list[Region]:
    """The union of spans in which gaps of at most ``gap_s`` seconds are closed.

    Raises:
        ValueError: a gap that is negative or not finite.
    """
    checked_length(gap_s, "gap_s")
    merged: list[Region] = []
    for span in in_order(span for span in spans if span.end_s > span.start_s):
        if merged and span.start_s - merged[-1].end_s <= gap_s:
            if span.end_s > merged[-1].end_s:
                merged[-1] = Region(merged[-1].start_s, span.end_s)
        else:
            merged.append(Region(span.start_s, span.end_s))
    return merged


def union(*groups: Iterable[Span]) -> list[Region]:
    """What lies in any span of any group: regions in order, which neither overlap nor touch."""
    return merge(span for group in groups for span in group)


def intersection(first: Iterable[Span], second: Iterable[Span]) -> list[Region]:
    """What lies in a span of both groups."""
    ours, theirs = union(first), union(second)
    common, i, j = [], 0, 0
    while i < len(ours) and j < len(theirs):
        start = max(ours[i].start_s, theirs[j].start_s)
        end = min(ours[i].end_s, theirs[j].end_s)
        if start < end:
            common.append(Region(start, end))
        if ours[i].end_s <= theirs[j].end_s:
            i += 1
        else:
            j += 1
    return common


def subtraction(first: Iterable[Span], second: Iterable[Span]) -> list[Region]:
    """What lies in a span of the first group and in none of the second."""
    taken, left, j = union(second), [], 0
    for region in union(first):
        start = region.start_s
        while j < len(taken) and taken[j].end_s <= start:
            j += 1
        k = j
        while k < len(taken) and taken[k].start_s < region.end_s:
            if taken[k].start_s > start:
                left.append(Region(start, taken[k].start_s))
            start = max(start, taken[k].end_s)
            k += 1
        if start < region.end_s:
            left.append(Region(start, region.end_s))
    return left


def gaps(spans: Iterable[Span], duration_s: float) -> list[Region]:
    """Where a recording of ``duration_s`` seconds has none of the spans.

    Raises:
        ValueError: a duration that is negative or not finite.
    """
    return subtraction([Region(0.0, checked_length(duration_s, "duration_s"))], spans)


def total_s(spans: Iterable[Span]) -> float:
    """Seconds in which there is any of the spans; what overlaps counts once."""
    return math.fsum(region.duration_s for region in union(spans))


class Coverage:
    """How much of any stretch of time some spans cover: many stretches at once, in logarithmic time each."""

    def __init__(self, spans: Iterable[Span]) -> None:
        pairs = pairs_of(union(spans))
        self._edges = pairs.ravel()
        lengths = pairs[:, 1] - pairs[:, 0]
        self._covered = np.stack([np.cumsum(lengths) - lengths, np.cumsum(lengths)], axis=1).ravel()

    def seconds(self, starts_s: np.ndarray | float, ends_s: np.ndarray | float) -> np.ndarray:
        """The covered seconds from each start to its end, float64 of their shape, right to a nanosecond."""
        if not len(self._edges):
            return np.zeros(np.broadcast(starts_s, ends_s).shape)
        until_end = np.interp(ends_s, self._edges, self._covered)
        return np.maximum(until_end - np.interp(starts_s, self._edges, self._covered), 0.0)

    def holds(self, times_s: np.ndarray | float) -> np.ndarray:
        """Whether a span covers each time, bool of their shape."""
        return np.searchsorted(self._edges, times_s, side="right") % 2 == 1


def clamp(spans: Iterable[AnySpan], start_s: float, end_s: float) -> list[AnySpan]:
    """What of each span lies from ``start_s`` to ``end_s``. Those outside are gone, those of no length stay inside.

    Raises:
        ValueError: bounds that are not finite, or the end before the start.
    """
    bounds = Region(start_s, end_s)
    kept = []
    for span in spans:
        start, end = max(span.start_s, bounds.start_s), min(span.end_s, bounds.end_s)
        if start < end or (start == end and span.start_s == span.end_s):
            inside = start == span.start_s and end == span.end_s
            kept.append(span if inside else replace(span, start_s=start, end_s=end))  # type: ignore[type-var]
    return kept


def pad(spans: Iterable[Span], pad_s: float, duration_s: float) -> list[Region]:
    """The union of spans that are ``pad_s`` seconds longer on either side, within a recording of ``duration_s``.

    Raises:
        ValueError: a length that is negative or not finite.
    """
    checked_length(pad_s, "pad_s")
    longer = [Region(s.start_s - pad_s, s.end_s + pad_s) for s in spans if s.end_s > s.start_s]
    return clamp(union(longer), 0.0, checked_length(duration_s, "duration_s"))


def overlaps(turns: Iterable[Turn]) -> list[Region]:
    """Where two or more speakers have the word. Two turns of one speaker are none."""
    by_speaker = defaultdict(list)
    for turn in turns:
        by_speaker[turn.speaker].append(turn)
    changes = defaultdict(int)
    for speaker_turns in by_speaker.values():
        for region in union(speaker_turns):
            changes[region.start_s] += 1
            changes[region.end_s] -= 1
    found, speaking, since = [], 0, 0.0
    for time in sorted(changes):
        before, speaking = speaking, speaking + changes[time]
        if before < 2 <= speaking:
            since = time
        elif speaking < 2 <= before:
            found.append(Region(since, time))
    return found


def mark_overlaps(turns: Iterable[Turn]) -> list[Turn]:
    """The turns in order, each with ``overlap`` true where somebody else speaks within it."""
    ordered = in_order(turns)
    common = overlaps(ordered)
    ends = [region.end_s for region in common]
    marked = []
    for turn in ordered:
        after = bisect_right(ends, turn.start_s)  # the first overlap that ends within the turn or after it
        meets = after < len(common) and common[after].start_s < turn.end_s
        marked.append(replace(turn, overlap=meets and turn.start_s < turn.end_s))
    return marked
