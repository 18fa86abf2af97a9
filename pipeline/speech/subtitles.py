"""Subtitles of words: SRT and WebVTT.

A cue has one speaker, two lines of 42 characters at most, and seven seconds at most, as is the custom of broadcasters.
A character of East Asian width counts twice, one that joins another not at all. Text stays in logical order, whichever
way it is read: players turn it.
"""

from __future__ import annotations

import html
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest

from pipeline.speech.segments import Word, in_order
from pipeline.speech.splitting import Block, best_boundary
from pipeline.speech.words import runs_of_speakers, text_of

LINE_WIDTH = 42
LINES = 2
MAX_S = 7.0
# A cue that is shorter stays a little, if no other follows.
MIN_S = 0.7
# A longer pause ends a cue.
PAUSE_S = 1.5
# Of a name in a label; the rest of a longer one is left out.
LABEL_WIDTH = 20


@dataclass(frozen=True)
class Cue:
    """What is shown at once.

    Args:
        start_s: in seconds of the source.
        end_s: likewise, and after the start.
        lines: of text, without markup.
        speaker: None where nobody knows.
    """

    start_s: float
    end_s: float
    lines: tuple[str, ...]
    speaker: str | None = None


def write_srt(words: Iterable[Word], *, labels: bool = True) -> str:
    """The words as SRT. A label is the speaker's name in brackets, at the start of each cue."""
    blocks = []
    for number, cue in enumerate(cues(words, labels=labels), 1):
        # An arrow in the text would be taken for a line of times.
        text = "\n".join(cue.lines).replace("-->", "->")
        blocks.append(f"{number}\n{_time(cue.start_s, ',')} --> {_time(cue.end_s, ',')}\n{text}\n")
    return "\n".join(blocks)


def write_vtt(words: Iterable[Word], *, labels: bool = True) -> str:
    """The words as WebVTT. A label is a voice tag, which players show in a colour or not at all."""
    blocks = ["WEBVTT\n"]
    for cue in cues(words):
        text = html.escape("\n".join(cue.lines), quote=False)
        if labels and cue.speaker is not None:
            text = f"<v {html.escape(' '.join(cue.speaker.split()), quote=False)}>{text}</v>"
        blocks.append(f"{_time(cue.start_s, '.')} --> {_time(cue.end_s, '.')}\n{text}\n")
    return "\n".join(blocks)


def cues(words: Iterable[Word], *, labels: bool = False) -> list[Cue]:
    """The cues in order of their start. They do not overlap unless two speak at once, or one would only flash.

    Args:
        words: in any order.
        labels: the text of a cue starts with its speaker's name in brackets.
    """
    made: list[Cue] = []
    spoken = (word for word in words if word.word.strip())
    for run in runs_of_speakers(spoken, pause_s=PAUSE_S):
        made += _cues_of_run(run, _label(run[0].speaker) if labels else "")
    made = in_order(made)
    return [_until_next(cue, following) for cue, following in zip_longest(made, made[1:])]


def wrap(text: str, width: int = LINE_WIDTH) -> list[str]:
    """Lines of at most ``width``, cut at spaces, and within a word only where it has no room in a line of its own."""
    lines: list[str] = []
    line = ""
    for word in text.split():
        longer = f"{line} {word}" if line else word
        if _width(longer) <= width:
            line = longer
            continue
        if line:
            lines.append(line)
        *whole, line = _pieces(word, width)
        lines += whole
    return [*lines, line] if line else lines


def _pieces(word: str, width: int) -> Iterator[str]:
    piece = ""
    for character in word:
        if _width(piece + character) > width:
            yield piece
            piece = ""
        piece += character
    yield piece


def _width(text: str) -> int:
    if text.isascii():
        return len(text)
    joining = ("Mn", "Me", "Cf")
    return sum(
        0 if unicodedata.category(each) in joining else 2 if unicodedata.east_asian_width(each) in "WF" else 1
        for each in text
    )


def _label(speaker: str | None) -> str:
    if speaker is None:
        return ""
    name = " ".join(speaker.split())
    if _width(name) > LABEL_WIDTH:
        name = next(_pieces(name, LABEL_WIDTH - 1)).rstrip() + "…"
    return f"[{name}] "


def _cues_of_run(run: Sequence[Word], label: str) -> Iterator[Cue]:
    """The cues of one speaker's words: each ends with a sentence, else a clause, else at a gap, where there is room."""
    blocks = [Block(word.start_s, word.end_s, (word,), frozenset()) for word in run]
    first = 0
    while first < len(run):
        after = first + 1
        while after < len(run) and _fits(run[first : after + 1], label):
            after += 1
        if after < len(run) and after - first > 1:
            late = range(first + (after - first) // 2, after)
            after = best_boundary(blocks, late) + 1
        yield from _cues_of(run[first:after], label)
        first = after


def _fits(words: Sequence[Word], label: str) -> bool:
    end = max(word.end_s for word in words)
    return end - words[0].start_s <= MAX_S and len(wrap(label + text_of(words))) <= LINES


def _cues_of(words: Sequence[Word], label: str) -> Iterator[Cue]:
    """One cue, or several that share the time of a word whose text has no room in one."""
    start, end = words[0].start_s, max(word.end_s for word in words)
    lines = wrap(label + text_of(words))
    count = -(-len(lines) // LINES)
    step = (end - start) / count
    for index in range(count):
        here = start + step * index
        shown = tuple(lines[index * LINES : (index + 1) * LINES])
        yield Cue(here, min(here + step, here + MAX_S), shown, words[0].speaker)


def _until_next(cue: Cue, following: Cue | None) -> Cue:
    """The cue with an end that is after its start, long enough to be read, and before the next if that can be."""
    readable = cue.start_s + MIN_S
    end = max(cue.end_s, readable)
    if following is not None and following.start_s - cue.start_s > 0.001:
        # Those who speak at once are shown at once, as long as that lasts.
        together = following.start_s < cue.end_s and following.speaker != cue.speaker
        end = cue.end_s if together else min(end, max(following.start_s, readable))
    return Cue(cue.start_s, end, cue.lines, cue.speaker)


def _time(seconds: float, comma: str) -> str:
    """Hours, minutes, seconds and milliseconds; before the start of the recording is its start."""
    milliseconds = round(max(seconds, 0.0) * 1000)
    minutes, milliseconds = divmod(milliseconds, 60_000)
    return (
        f"{minutes // 60:02d}:{minutes % 60:02d}:{milliseconds // 1000:02d}{comma}{milliseconds % 1000:03d}"
    )
