"""Words to speakers, and words to text.

Which speaker said a word is decided by how long their turns overlap with it; where two speak at once, or nobody's turn
covers the word, it is nobody's (None) rather than a guess.
"""

from __future__ import annotations

import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np

from pipeline.speech.segments import Coverage, Turn, Word, in_order, pairs_of

# Marks that end a sentence or a clause in Latin, Greek, CJK, Arabic, Urdu, Devanagari, Ethiopic and Armenian script.
SENTENCE_ENDS = frozenset(".?!…。？！．｡‼⁇⁈⁉։؟۔।॥።፧")
CLAUSE_ENDS = frozenset(",;:，、；：､،؛፣፤፥–—")
# What may follow such a mark and belongs to it: closing quotes and brackets.
CLOSING = frozenset("\"'”’»›)]}」』】）》〉\u200e\u200f")
# Scripts that are written without spaces: Han, kana, Thai, Lao, Myanmar, Khmer.
_UNSPACED = ("CJK", "HIRAGANA", "KATAKANA", "THAI", "LAO", "MYANMAR", "KHMER", "IDEOGRAPHIC", "FULLWIDTH")


def assign_speakers(
    words: Iterable[Word], turns: Iterable[Turn], *, min_cover: float = 0.5, min_share: float = 0.6
) -> list[Word]:
    """The words in order, each with the speaker whose turns overlap with it most; None where that is unsure.

    Args:
        words: in any order. The speakers they have are replaced.
        turns: in any order.
        min_cover: the part of the word that the turns of its speaker cover at least, 0..1.
        min_share: the part that is its speaker's, of all that turns cover of it, each speaker's counted, 0..1.

    A word of no length is its speaker's if the turns of exactly one hold its time.
    """
    ordered = in_order(words)
    by_speaker = defaultdict(list)
    for turn in turns:
        by_speaker[turn.speaker].append(turn)
    if not ordered or not by_speaker:
        return [replace(word, speaker=None) for word in ordered]
    speakers = sorted(by_speaker)
    starts, ends = pairs_of(ordered).T
    covers = [Coverage(by_speaker[speaker]) for speaker in speakers]
    seconds = np.stack([cover.seconds(starts, ends) for cover in covers])
    holds = np.stack([cover.holds(starts) for cover in covers]).astype(np.float64)
    # What is a rounding error long has no length: its parts say nothing.
    lasting = ends - starts > 1e-9
    shares = np.where(lasting, seconds, holds)
    lengths = np.where(lasting, ends - starts, 1.0)
    best = shares.argmax(axis=0)
    most, everybody = shares.max(axis=0), shares.sum(axis=0)
    # 1e-9: half of a word is half, however its times are rounded.
    sure = (most > 0) & (most >= min_cover * lengths - 1e-9) & (most >= min_share * everybody - 1e-9)
    return [
        replace(word, speaker=speakers[who] if known else None)
        for word, who, known in zip(ordered, best.tolist(), sure.tolist(), strict=True)
    ]


def fill_between(words: Iterable[Word], *, max_s: float = 1.0) -> list[Word]:
    """The words in order; those of nobody between two words of one speaker, ``max_s`` apart at most, become theirs."""
    filled = in_order(words)
    known = None
    for index, word in enumerate(filled):
        if word.speaker is None:
            continue
        if known is not None and index - known > 1 and filled[known].speaker == word.speaker:
            between = filled[known + 1 : index]
            if word.start_s - filled[known].end_s <= max_s:
                filled[known + 1 : index] = [replace(each, speaker=word.speaker) for each in between]
        known = index
    return filled


def speaker_changes(words: Sequence[Word]) -> list[int]:
    """The indices of words whose speaker is another than the last that was known. Words of nobody change nothing."""
    changes: list[int] = []
    speaker = None
    for index, word in enumerate(words):
        if word.speaker is None or word.speaker == speaker:
            continue
        if speaker is not None:
            changes.append(index)
        speaker = word.speaker
    return changes


def runs_of_speakers(words: Iterable[Word], *, pause_s: float = float("inf")) -> list[list[Word]]:
    """The words of each speaker in order, cut at pauses beyond ``pause_s`` and where somebody else, or nobody, follows.

    Runs are in order of their start. Where two speak at once they do not cut each other: then runs overlap.
    """
    runs: list[list[Word]] = []
    going_on: dict[str | None, tuple[list[Word], float]] = {}
    for word in in_order(words):
        for speaker, (_, end) in list(going_on.items()):
            over = word.start_s - end > pause_s if speaker == word.speaker else end <= word.start_s
            if over:
                del going_on[speaker]
        if word.speaker not in going_on:
            runs.append([])
        run, end = going_on.get(word.speaker, (runs[-1], word.end_s))
        run.append(word)
        going_on[word.speaker] = (run, max(end, word.end_s))
    return runs


def ends_sentence(word: str) -> bool:
    """Whether a mark that ends a sentence is the last of a word, closing quotes and brackets aside."""
    return _last_mark(word) in SENTENCE_ENDS


def ends_clause(word: str) -> bool:
    """Whether a mark that ends a clause (a comma, a colon, a dash) is the last of a word."""
    return _last_mark(word) in CLAUSE_ENDS


def _last_mark(word: str) -> str:
    bare = word.rstrip()
    while bare and bare[-1] in CLOSING:
        bare = bare[:-1].rstrip()
    return bare[-1:]


def text_of(words: Iterable[Word]) -> str:
    """The text of words, in the order they are given, with single spaces.

    Where a word brings its own space (" Hello", as Whisper writes them) the words are put together as they are: so
    " well" and "-known" become one. Where none does, a space comes between two unless their script has none.
    """
    texts = [word.word for word in words if word.word]
    if any(text[0].isspace() or text[-1].isspace() for text in texts):
        return " ".join("".join(texts).split())
    joined = ""
    for text in texts:
        if joined and not (_is_unspaced(joined[-1]) and _is_unspaced(text[0])):
            joined += " "
        joined += text
    return " ".join(joined.split())


def _is_unspaced(character: str) -> bool:
    return unicodedata.name(character, "").startswith(_UNSPACED)
