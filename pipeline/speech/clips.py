"""Clips for training: pieces of one speaker, cut between words, each with the reason why it is not kept."""

from __future__ import annotations

import zlib
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, fields
from itertools import pairwise
from math import ceil, fsum

from pipeline.speech.segments import (
    Clip,
    Coverage,
    Passage,
    Region,
    Span,
    Turn,
    Word,
    checked_length,
    clamp,
    intersection,
    overlaps,
    sample_of,
    seconds_of,
    union,
)
from pipeline.speech.splitting import (
    EPSILON_S,
    Block,
    best_boundary,
    blocks_of,
    blocks_of_turns,
    with_speakers,
)
from pipeline.speech.words import text_of


def _threshold(default: float | None, reason: str) -> float | None:
    return field(default=default, metadata={"reason": reason})


@dataclass(frozen=True, kw_only=True)
class Thresholds:
    """What a clip has to pass to be kept. None asks for nothing. Their order is that in which they are looked at.

    Args:
        min_s: seconds, with the margin; else ``short``.
        max_s: seconds, with the margin; else ``long``: a word that is longer, or words that overlap.
        max_overlap_ratio: the part in which two or more speak; else ``overlap``.
        min_speakers: 1 wants its speaker to be known; else ``no_speaker``. Asked only where turns are given.
        min_speech_ratio: the part that regions of speech cover; else ``no_speech``. Asked only where they are given.
        max_no_speech_prob: of the recognizer; else ``no_speech``.
        min_words: else ``few_words``. This one and those below are asked only where words are given.
        min_word_probability: mean over its words; else ``low_confidence``.
        min_avg_logprob: else ``low_confidence``.
        max_compression_ratio: a text that repeats itself; else ``repetitive``.

    The defaults of the recognizer's values are those at which Whisper decodes again.
    """

    min_s: float | None = _threshold(5.0, "short")
    max_s: float | None = _threshold(20.0, "long")
    max_overlap_ratio: float | None = _threshold(0.1, "overlap")
    min_speakers: float | None = _threshold(1, "no_speaker")
    min_speech_ratio: float | None = _threshold(0.5, "no_speech")
    max_no_speech_prob: float | None = _threshold(0.6, "no_speech")
    min_words: float | None = _threshold(2, "few_words")
    min_word_probability: float | None = _threshold(0.5, "low_confidence")
    min_avg_logprob: float | None = _threshold(-1.0, "low_confidence")
    max_compression_ratio: float | None = _threshold(2.4, "repetitive")

    def reason(self, measured: dict[str, float | None]) -> str | None:
        """The reason of the first threshold that what was measured fails; None where it passes them all.

        Args:
            measured: values by the name of the threshold without ``min_`` and ``max_``; what is None or missing passes.
        """
        for each in fields(self):
            bound, value = getattr(self, each.name), measured.get(each.name[4:])
            if bound is None or value is None:
                continue
            # A margin that is rounded to samples decides nothing.
            if value < bound - 1e-4 if each.name.startswith("min_") else value > bound + 1e-4:
                return each.metadata["reason"]
        return None


REASONS = tuple(dict.fromkeys(each.metadata["reason"] for each in fields(Thresholds)))


def clips(
    words: Iterable[Word] | None,
    turns: Iterable[Turn] | None,
    regions: Iterable[Span] | None,
    *,
    duration_s: float,
    sample_rate: int,
    min_s: float = 5.0,
    max_s: float = 20.0,
    margin_s: float = 0.2,
    pause_s: float = 1.0,
    passages: Iterable[Passage] = (),
    thresholds: Thresholds | None = None,
    id_prefix: str = "",
) -> list[Clip]:
    """The clips of a recording, in order and without overlap: each of one speaker, with all its words whole.

    A clip ends where the speaker changes, at a pause, and where it would become too long: there after the last end of
    a sentence, else of a clause, else in the longest gap, so that neither it nor the rest is shorter than ``min_s``
    if that can be. Words of nobody, and words of several speakers that overlap, are clips of their own.

    Args:
        words: None where nobody recognized any; turns, or regions without them, are cut then, and what of one is too
            long, into equal pieces. Likewise where there are none, but then clips have an empty text.
        turns: who speaks when; None where nobody looked. Words without speakers get those of the turns.
        regions: of speech; None where nobody looked.
        duration_s: of the recording, in seconds.
        sample_rate: of the source, Hz. Clips start and end at its samples.
        min_s: length that is aimed at, in seconds.
        max_s: likewise; no clip is longer, unless one word is, or words that overlap.
        margin_s: before and after the words, in seconds: at most to the middle of the gap to the next word, and not
            into another speaker's turn.
        pause_s: a longer pause between words ends a clip, in seconds.
        passages: what the recognizer says of its segments, which words name.
        thresholds: what is kept; by default lengths from ``min_s`` to ``max_s``, and the other defaults.
        id_prefix: of each ``segment_id``, before its number.

    Raises:
        ValueError: a length that is not finite or out of range.
    """
    checked_length(duration_s, "duration_s")
    for name, value in (("min_s", min_s), ("margin_s", margin_s), ("pause_s", pause_s)):
        checked_length(value, name)
    room = checked_length(max_s, "max_s") - 2 * margin_s
    if room <= 0 or min_s > max_s:
        raise ValueError(f"min_s, and two margins of {margin_s} s, have room in max_s: {min_s}, {max_s}")
    recording = _Recording(words, turns, regions, duration_s, passages)
    blocks = recording.blocks(room)
    thresholds = thresholds or Thresholds(min_s=min_s, max_s=max_s)
    made: list[Clip] = []
    for first, after in _pieces(blocks, pause_s, min_s, room):
        span = recording.with_margins(blocks, first, after, margin_s)
        start, end = sample_of(span.start_s, sample_rate), sample_of(span.end_s, sample_rate)
        span = Region(seconds_of(start, sample_rate), seconds_of(end, sample_rate))
        said = recording.said(span, blocks[first:after])
        reason = thresholds.reason(said.measured) if end > start else "short"
        made.append(
            Clip(
                segment_id=f"{id_prefix}{len(made):06d}",
                start_s=span.start_s,
                end_s=span.end_s,
                start_sample=start,
                end_sample=end,
                keep=reason is None,
                drop_reason=reason,
                **said.columns,
            )
        )
    return made


def _pieces(blocks: Sequence[Block], pause_s: float, min_s: float, room: float) -> Iterator[tuple[int, int]]:
    """The first block of each clip, and the one after its last."""
    first = 0
    for index, block in enumerate(blocks):
        following = blocks[index + 1] if index + 1 < len(blocks) else None
        goes_on = following is not None and following.speakers == block.speakers
        if goes_on and following.start_s - block.end_s <= pause_s:
            continue
        for start, end in _short_enough(blocks[first : index + 1], min_s, room):
            yield first + start, first + end
        first = index + 1


def _short_enough(run: Sequence[Block], min_s: float, room: float) -> Iterator[tuple[int, int]]:
    """The same of a run of blocks of one speaker, no longer than ``room`` seconds unless one block is."""
    first, ends = 0, [block.end_s for block in run]
    while first < len(run):
        start = run[first].start_s
        fitting = range(first, bisect_right(ends, start + room + EPSILON_S))
        if len(fitting) == len(run) - first:
            yield first, len(run)
            return
        enough = [index for index in fitting if run[index].end_s - start >= min_s]
        balanced = [index for index in enough if run[-1].end_s - run[index + 1].start_s >= min_s]
        best = best_boundary(run, balanced or enough or fitting or [first])
        yield first, best + 1
        first = best + 1


@dataclass(frozen=True)
class _Said:
    """What is said in a clip: its columns, and what the thresholds measure."""

    columns: dict[str, object]
    measured: dict[str, float | None]


class _Recording:
    """All that is known of a recording, made ready for many questions."""

    def __init__(
        self,
        words: Iterable[Word] | None,
        turns: Iterable[Turn] | None,
        regions: Iterable[Span] | None,
        duration_s: float,
        passages: Iterable[Passage],
    ) -> None:
        self.duration_s = duration_s
        self.turns = None if turns is None else clamp(turns, 0.0, duration_s)
        self.regions = None if regions is None else clamp(union(regions), 0.0, duration_s)
        self.words = None if words is None else with_speakers(words, self.turns or [])
        self.passages = {passage.index: passage for passage in passages}
        named = [word for word in self.words or () if word.speaker is not None]
        said = self.turns if self.turns is not None else [Turn(w.start_s, w.end_s, w.speaker) for w in named]
        self._common = Coverage(overlaps(said))
        self._speech = None if self.regions is None else Coverage(self.regions)
        self._others: dict[frozenset[str], list[Region]] = {}

    def blocks(self, room: float) -> list[Block]:
        """What clips are put together from: words, else what each speaker says alone, else speech."""
        if self.words:
            return blocks_of(self.words, self.duration_s)
        if self.turns is not None:
            spoken = blocks_of_turns(self.turns)
        else:
            spoken = [Block(each.start_s, each.end_s, (), frozenset()) for each in self.regions or ()]
        made = []
        for block in spoken:
            for region in [block] if self.regions is None else _within(block, self.regions):
                count = ceil((region.end_s - region.start_s) / room - EPSILON_S)
                step = (region.end_s - region.start_s) / count
                edges = [*(region.start_s + step * part for part in range(count)), region.end_s]
                made += [Block(start, end, (), block.speakers) for start, end in pairwise(edges)]
        return made

    def with_margins(self, blocks: Sequence[Block], first: int, after: int, margin_s: float) -> Region:
        """The time from the first block to the last one before ``after``, with the margin there is room for."""
        start, end = blocks[first].start_s, blocks[after - 1].end_s
        earliest, latest = max(start - margin_s, 0.0), min(end + margin_s, self.duration_s)
        if first > 0:
            earliest = max(earliest, (blocks[first - 1].end_s + start) / 2)
        if after < len(blocks):
            latest = min(latest, (blocks[after].start_s + end) / 2)
        others = self._turns_of_others(blocks[first].speakers)
        before = bisect_left(others, start, key=lambda region: region.start_s) - 1
        if before >= 0:
            earliest = max(earliest, min(others[before].end_s, start))
        behind = bisect_right(others, end, key=lambda region: region.end_s)
        if behind < len(others):
            latest = min(latest, max(others[behind].start_s, end))
        return Region(earliest, latest)

    def _turns_of_others(self, speakers: frozenset[str]) -> list[Region]:
        if speakers not in self._others:
            theirs = (turn for turn in self.turns or () if turn.speaker not in speakers)
            self._others[speakers] = union(theirs) if speakers else []
        return self._others[speakers]

    def said(self, span: Region, blocks: Sequence[Block]) -> _Said:
        """What is said in a clip that has these blocks."""
        words = [word for block in blocks for word in block.words]
        speakers = blocks[0].speakers
        text = None if self.words is None else text_of(words)
        columns = {
            "speaker": next(iter(speakers)) if len(speakers) == 1 else None,
            "overlap_ratio": _ratio(self._common, span) or 0.0,
            "text": text,
            "compression_ratio": compression_ratio(text) if text else None,
            **self._recognizer_says(words),
        }
        measured = {
            **{name: value for name, value in columns.items() if isinstance(value, float)},
            "s": span.duration_s,
            "speakers": None if self.turns is None else float(len(speakers) == 1),
            "speech_ratio": _ratio(self._speech, span),
            "words": None if text is None else len(words),
            "word_probability": _mean(word.probability for word in words),
        }
        return _Said(columns, measured)

    def _recognizer_says(self, words: Sequence[Word]) -> dict[str, object]:
        passages = [self.passages[word.segment] for word in words if word.segment in self.passages]
        languages = Counter(passage.language for passage in passages if passage.language is not None)
        return {
            "language": languages.most_common(1)[0][0] if languages else None,
            "language_probability": _mean(passage.language_probability for passage in passages),
            "avg_logprob": _mean(passage.avg_logprob for passage in passages),
            "no_speech_prob": _mean(passage.no_speech_prob for passage in passages),
        }


def compression_ratio(text: str) -> float:
    """Bytes of a text, UTF-8, by bytes of its zlib, as Whisper counts it: beyond 2.4 it repeats itself."""
    data = text.encode()
    return len(data) / len(zlib.compress(data))


def _ratio(coverage: Coverage | None, span: Region) -> float | None:
    if coverage is None or span.duration_s == 0:
        return None
    return min(float(coverage.seconds(span.start_s, span.end_s)) / span.duration_s, 1.0)


def _within(block: Block, regions: Sequence[Region]) -> list[Region]:
    """The parts of a block that lie in regions, which are in order: a look-up, as there are many of both."""
    first = bisect_right(regions, block.start_s, key=lambda region: region.end_s)
    after = bisect_left(regions, block.end_s, key=lambda region: region.start_s)
    return intersection([block], regions[first:after])


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return fsum(known) / len(known) if known else None
