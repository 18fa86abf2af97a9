"""Parts of a recording that are short enough for a model: they cover it from start to end, and no word is lost.

``word`` never cuts inside a word and never leaves two speakers in one part; ``time`` cuts at exact times, and
``silence`` at the middle of the longest silence. Words that overlap in time can't be told apart by a cut: they are a
block, which stays whole. A block is a part of its own where it has several speakers, and where it is longer than a part
may be: only such a part is ``too_long``.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from pipeline.speech.segments import (
    Coverage,
    Region,
    Span,
    Turn,
    Word,
    checked_length,
    clamp,
    gaps,
    in_order,
    overlaps,
    pairs_of,
    subtraction,
)
from pipeline.speech.words import assign_speakers, ends_clause, ends_sentence, fill_between

METHODS = ("word", "time", "silence")
MIN_PART_S = 0.1
# Times are sums of floats: what is longer by a nanosecond is not longer.
EPSILON_S = 1e-9


@dataclass(frozen=True)
class Part:
    """A part of the recording with its words.

    Args:
        start_s: in seconds of the source.
        end_s: likewise; the next part starts there.
        words: in order of time.
        speakers: the names of all who said its words, in order of the alphabet.
        too_long: it is longer than asked for: one word is, or words that overlap.
    """

    start_s: float
    end_s: float
    words: tuple[Word, ...] = ()
    speakers: tuple[str, ...] = ()
    too_long: bool = False


@dataclass(frozen=True)
class Block:
    """Words that overlap in time, mostly one: what no cut may part. A stretch without words is one, too.

    Args:
        start_s: of the first, in seconds of the source.
        end_s: of the last.
        words: in order of time.
        speakers: that are known.
    """

    start_s: float
    end_s: float
    words: tuple[Word, ...]
    speakers: frozenset[str]

    @property
    def mark(self) -> int:
        """What is at its end: 2 the end of a sentence, 1 that of a clause, 0 neither."""
        last = self.words[-1].word if self.words else ""
        return 2 if ends_sentence(last) else int(ends_clause(last))


def split(
    words: Iterable[Word],
    turns: Iterable[Turn],
    regions: Iterable[Span] | None,
    duration_s: float,
    *,
    method: str = "word",
    max_seconds: float = 30.0,
) -> list[Part]:
    """The parts of a recording: they cover it without overlap, and every word is in exactly one.

    Args:
        words: in any order. Where none has a speaker they get those of the turns.
        turns: who speaks when; may be empty.
        regions: of speech, used where ``silence`` looks for silence; where they are None it is what no turn covers.
        duration_s: of the recording, in seconds. A word beyond it goes to the last part.
        method: ``word`` cuts wherever the speaker changes, in the middle between two words; what is still too long, at
            the last end of a sentence, else of a clause, else in the longest gap between words. Without words it
            cuts where turns change, and then as ``silence``. ``silence`` cuts at the middle of the longest silence, and
            where there is none after ``max_seconds``. ``time`` cuts at the multiples of ``max_seconds``. These two may
            cut a word, which goes to the part that holds its middle. ``word`` and ``silence`` look at the second half
            of the time that a part may take first.
        max_seconds: of a part, at least 0.1. For ``word``, a longer word, or longer words that overlap, stay whole.

    Raises:
        ValueError: an unknown method, or a length that is not finite or out of range.
    """
    if method not in METHODS:
        raise ValueError(f"a method is one of {', '.join(METHODS)}: {method}")
    if checked_length(max_seconds, "max_seconds") < MIN_PART_S:
        raise ValueError(f"max_seconds is at least {MIN_PART_S}: {max_seconds}")
    whole = Region(0.0, checked_length(duration_s, "duration_s"))
    turns = list(turns)
    spoken = with_speakers(words, turns)
    if duration_s == 0:
        return [_part(whole, spoken, max_seconds)] if spoken else []
    if method == "word" and spoken:
        return list(_parts_at_words(blocks_of(spoken, duration_s), duration_s, max_seconds))
    if method == "time":
        count = math.ceil(duration_s / max_seconds - EPSILON_S)
        return _parts_between([index * max_seconds for index in range(1, count)], spoken, whole, max_seconds)
    silences = subtraction(gaps(turns if regions is None else regions, duration_s), spoken)
    changes = _changes(blocks_of_turns(clamp(turns, 0.0, duration_s))) if method == "word" else []
    cuts = list(changes)
    for start, end in zip([0.0, *changes], [*changes, duration_s], strict=True):
        cuts += _cuts_in_silences(Region(start, end), silences, max_seconds)
    return _parts_between(sorted(cuts), spoken, whole, max_seconds)


def with_speakers(words: Iterable[Word], turns: Sequence[Turn]) -> list[Word]:
    """The words in order, with the speakers of the turns where they bring none at all."""
    ordered = in_order(words)
    if turns and all(word.speaker is None for word in ordered):
        return fill_between(assign_speakers(ordered, turns))
    return ordered


def blocks_of(words: Iterable[Word], duration_s: float) -> list[Block]:
    """The blocks of words, in order and without overlap, their times within the recording.

    A word of no length belongs to the one that it touches: its time says nothing, and no part is that short. So its
    speaker counts only where nobody else's does.
    """
    blocks: list[Block] = []
    group: list[Word] = []
    start = end = 0.0

    def close() -> None:
        lasting = {word.speaker for word in group if word.end_s > word.start_s} - {None}
        speakers = lasting or {word.speaker for word in group} - {None}
        blocks.append(Block(start, end, tuple(group), frozenset(speakers)))

    for word in in_order(words):
        word_start, word_end = (min(max(time, 0.0), duration_s) for time in (word.start_s, word.end_s))
        short = end == start or word_end == word_start
        if group and (word_start < end or (word_start == end and short)):
            group.append(word)
            end = max(end, word_end)
            continue
        if group:
            close()
        group, start, end = [word], word_start, word_end
    if group:
        close()
    return blocks


def blocks_of_turns(turns: Iterable[Turn]) -> list[Block]:
    """The time of each speaker alone, and the time in which several speak, as blocks in order without words."""
    turns = list(turns)
    by_speaker = defaultdict(list)
    for turn in turns:
        by_speaker[turn.speaker].append(turn)
    common = overlaps(turns)
    starts, ends = pairs_of(common).T
    covered = {name: Coverage(theirs).seconds(starts, ends) > 0 for name, theirs in by_speaker.items()}
    blocks = [
        Block(region.start_s, region.end_s, (), frozenset(name for name in covered if covered[name][index]))
        for index, region in enumerate(common)
    ]
    for name, theirs in by_speaker.items():
        alone = subtraction(theirs, common)
        blocks += [Block(region.start_s, region.end_s, (), frozenset([name])) for region in alone]
    return in_order(blocks)


def sections_of(blocks: Sequence[Block]) -> list[list[Block]]:
    """The blocks, cut where their speakers change. Those of nobody stay with those before them."""
    sections: list[list[Block]] = []
    speakers: frozenset[str] = frozenset()
    for block in blocks:
        if sections and (not block.speakers or not speakers or block.speakers == speakers):
            sections[-1].append(block)
        else:
            sections.append([block])
        speakers = block.speakers or speakers
    return sections


def best_boundary(blocks: Sequence[Block], after: Iterable[int]) -> int | None:
    """The best of the blocks after which a cut may come: the last that ends a sentence, else a clause, else the one
    before the longest gap; None where there are none to choose from."""

    def worth(index: int) -> tuple[int, float, int]:
        mark = blocks[index].mark
        gap = (
            blocks[index + 1].start_s - blocks[index].end_s if mark == 0 and index + 1 < len(blocks) else 0.0
        )
        return mark, gap, index

    return max(after, key=worth, default=None)


def _changes(blocks: Sequence[Block]) -> list[float]:
    """Where the speakers change: in the middle between the blocks."""
    sections = sections_of(blocks)
    return [(before[-1].end_s + after[0].start_s) / 2 for before, after in pairwise(sections)]


def _parts_at_words(blocks: Sequence[Block], duration_s: float, max_s: float) -> Iterator[Part]:
    sections = sections_of(blocks)
    edges = [0.0, *_changes(blocks), duration_s]
    for section, start, end in zip(sections, edges[:-1], edges[1:], strict=True):
        at, first = start, 0
        while end - at > max_s + EPSILON_S:
            cut, after = _cut_between_words(section, first, at, end, max_s=max_s)
            if cut >= end:
                break
            yield _part(Region(at, cut), _words_of(section[first:after]), max_s)
            at, first = cut, after
        yield _part(Region(at, end), _words_of(section[first:]), max_s)


def _cut_between_words(
    blocks: Sequence[Block], first: int, start_s: float, end_s: float, *, max_s: float
) -> tuple[float, int]:
    """Where a part ends that starts at ``start_s``, and the index of the first block after it."""
    latest = start_s + max_s
    fitting = range(first, _first_beyond(blocks, first, latest))
    if len(fitting) == len(blocks) - first:
        last = max((blocks[index].end_s for index in fitting), default=latest)
        return max(latest, last), len(blocks)  # only silence is left beyond it
    if not fitting:
        block = blocks[first]
        if block.start_s - start_s > EPSILON_S:
            return min(block.start_s, latest), first  # silence
        return block.end_s, first + 1  # too long, and whole
    late = [index for index in fitting if blocks[index].end_s >= start_s + max_s / 2]
    best = best_boundary(blocks, late or fitting)
    following = blocks[best + 1]
    cut = (blocks[best].end_s + following.start_s) / 2
    if following.end_s - cut > max_s:
        cut = following.start_s  # it has no room for the silence before it
    return max(min(cut, latest), blocks[best].end_s), best + 1


def _first_beyond(blocks: Sequence[Block], first: int, latest_s: float) -> int:
    """The index of the first block that ends after ``latest_s``."""
    index = first
    while index < len(blocks) and blocks[index].end_s <= latest_s + EPSILON_S:
        index += 1
    return index


def _words_of(blocks: Iterable[Block]) -> list[Word]:
    return [word for block in blocks for word in block.words]


def _cuts_in_silences(section: Region, silences: Sequence[Region], max_s: float) -> list[float]:
    """Where the parts of a section end, but the last."""
    cuts: list[float] = []
    starts = [silence.start_s for silence in silences]
    ends = [silence.end_s for silence in silences]
    at = section.start_s
    while section.end_s - at > max_s + EPSILON_S:
        half, latest = at + max_s / 2, at + max_s
        near = silences[bisect_right(ends, at) : bisect_left(starts, latest)]
        cut = _cut_in_longest(near, half, latest)
        if cut is None:
            # A silence that the part begins with was cut already.
            cut = _cut_in_longest([silence for silence in near if silence.start_s > at], at, half)
        at = latest if cut is None else cut
        cuts.append(at)
    return cuts


def _cut_in_longest(silences: Sequence[Region], earliest_s: float, latest_s: float) -> float | None:
    """The middle of the longest silence between two times, or what of it is nearest; None where all is speech."""
    between = [silence for silence in silences if silence.end_s > earliest_s and silence.start_s < latest_s]
    longest = max(between, key=lambda silence: silence.duration_s, default=None)
    if longest is None:
        return None
    middle = (longest.start_s + longest.end_s) / 2
    return min(middle if middle > earliest_s else longest.end_s, latest_s)


def _parts_between(cuts: Sequence[float], words: Iterable[Word], whole: Region, max_s: float) -> list[Part]:
    """The parts between cuts, each with the words whose middle it holds."""
    words_of_part: list[list[Word]] = [[] for _ in range(len(cuts) + 1)]
    for word in words:
        words_of_part[bisect_right(cuts, (word.start_s + word.end_s) / 2)].append(word)
    edges = [whole.start_s, *cuts, whole.end_s]
    return [
        _part(Region(start, end), theirs, max_s)
        for start, end, theirs in zip(edges[:-1], edges[1:], words_of_part, strict=True)
    ]


def _part(span: Region, words: Sequence[Word], max_s: float) -> Part:
    speakers = sorted({word.speaker for word in words if word.speaker is not None})
    too_long = span.duration_s > max_s + EPSILON_S
    return Part(span.start_s, span.end_s, tuple(in_order(words)), tuple(speakers), too_long)
