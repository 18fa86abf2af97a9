"""Parts that cover the whole and lose no word."""

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.speech.segments import Region, Turn, Word
from pipeline.speech.splitting import METHODS, blocks_of, blocks_of_turns, split

seconds = st.one_of(
    st.integers(0, 400).map(lambda tenths: tenths / 10), st.floats(0, 40, allow_subnormal=False)
)  # fmt: skip
texts = st.sampled_from(["a", " b", "c.", "d,", "否。", "لا؟", ""])
names = st.sampled_from([None, "ann", "bob", "cy"])


@st.composite
def any_words(draw):
    """Words in any order, which may overlap, have no length or lie beyond the end."""
    starts = draw(st.lists(seconds, max_size=25))
    lengths = st.one_of(st.just(0.0), st.floats(0, 3), st.floats(0, 20))
    return [
        Word(draw(texts), start, start + draw(lengths), 1.0, draw(names), segment=index)
        for index, start in enumerate(starts)
    ]


@st.composite
def spoken_words(draw):
    """Words one after the other, as of a recognizer."""
    made, at = [], 0.0
    for index in range(draw(st.integers(0, 30))):
        at += draw(st.sampled_from([0.0, 0.0, 0.1, 0.7, 5.0]))
        length = draw(st.sampled_from([0.1, 0.3, 0.5, 1.0]))
        made.append(Word(draw(texts), at, at + length, 1.0, draw(names), segment=index))
        at += length
    return made


turns = st.lists(
    st.tuples(seconds, seconds, st.sampled_from(["ann", "bob"])).map(
        lambda t: Turn(min(t[:2]), max(t[:2]), t[2])
    ),
    max_size=6,
)
regions = st.one_of(
    st.none(), st.lists(st.tuples(seconds, seconds).map(lambda t: Region(min(t), max(t))), max_size=6)
)


def check_cover(parts, words, duration):
    assert parts[0].start_s == 0
    assert parts[-1].end_s == duration
    assert all(before.end_s == after.start_s for before, after in pairwise(parts))
    assert all(part.start_s < part.end_s for part in parts)
    said = [word.segment for part in parts for word in part.words]
    assert sorted(said) == sorted(word.segment for word in words)


@settings(deadline=None)
@given(any_words(), turns, regions, st.sampled_from(METHODS), st.floats(0.1, 60), st.floats(0.5, 60))
def test_the_parts_are_the_whole(words, some_turns, some_regions, method, longest, duration):
    parts = split(words, some_turns, some_regions, duration, method=method, max_seconds=longest)
    check_cover(parts, words, duration)
    for part in parts:
        assert part.too_long == (part.end_s - part.start_s > longest + 1e-9)
        if method != "word":
            assert not part.too_long


@settings(deadline=None)
@given(any_words(), st.floats(0.1, 60))
def test_no_cut_lies_inside_a_word(words, longest):
    parts = split(words, [], [], 100.0, method="word", max_seconds=longest)
    for part in parts[:-1]:
        assert not [word for word in words if word.start_s < part.end_s < word.end_s]
    for part in parts:
        inside = [word for word in part.words if word.start_s >= part.start_s and word.end_s <= part.end_s]
        assert len(inside) == len(part.words)
        # Only words that overlap, or one, are too long; and they are alone.
        assert not part.too_long or len(blocks_of(part.words, 100.0)) == 1


@settings(deadline=None)
@given(spoken_words(), st.floats(1.5, 60))
def test_no_part_has_two_speakers_or_is_too_long(words, longest):
    for part in split(words, [], [], 200.0, method="word", max_seconds=longest):
        assert len(part.speakers) <= 1
        assert not part.too_long


def said(parts):
    return ["".join(word.word for word in part.words) for part in parts]


def spaced(texts, step=1.0, speaker="ann"):
    return [Word(text, i * step, i * step + 0.8, 1.0, speaker) for i, text in enumerate(texts)]


def test_the_speaker_comes_before_a_sentence_and_that_before_a_clause_and_that_before_a_gap():
    words = spaced(["a", "b.", "c", "d,", "e", "f"])
    assert said(split(words, [], [], 6.0, max_seconds=3.5)) == ["ab.", "cd,", "ef"]
    words = spaced(["a", "b", "c,", "d", "e", "f"])
    assert said(split(words, [], [], 6.0, max_seconds=4.5)) == ["abc,", "def"]
    words = [Word(t, s, s + 0.5, 1.0) for t, s in zip("abcdef", (0, 1, 2, 3.2, 4, 5), strict=True)]
    parts = split(words, [], [], 6.0, max_seconds=4.0)
    assert said(parts) == ["abc", "def"]
    assert parts[0].end_s == pytest.approx(2.85)  # the middle of the gap
    other = [*spaced(["a.", "b"]), Word("c", 2, 2.8, 1.0, "bob")]
    assert said(split(other, [], [], 3.0, max_seconds=30)) == ["a.b", "c"]


def test_turns_say_who_speaks_where_words_do_not():
    words = spaced("abcd", speaker=None)
    parts = split(words, [Turn(0, 1.9, "ann"), Turn(1.9, 4, "bob")], [], 4.0)
    assert [(part.start_s, part.end_s, part.speakers) for part in parts] == [
        (0.0, pytest.approx(1.9), ("ann",)),
        (pytest.approx(1.9), 4.0, ("bob",)),
    ]


def test_a_word_that_is_too_long_stays_whole():
    words = [Word("a", 0, 1, 1.0), Word("looong", 2, 9, 1.0), Word("b", 9.5, 10, 1.0)]
    parts = split(words, [], [], 12.0, max_seconds=3.0)
    assert [("".join(w.word for w in part.words), part.too_long) for part in parts] == [
        ("a", False), ("looong", True), ("b", False),
    ]  # fmt: skip


def test_speakers_who_overlap_have_a_part_of_their_own():
    words = [Word("a", 0, 1, 1.0, "ann"), Word("b", 1, 2, 1.0, "ann"), Word("c", 1.5, 2.5, 1.0, "bob"),
             Word("d", 2.5, 3, 1.0, "bob")]  # fmt: skip
    parts = split(words, [], [], 3.0)
    assert said(parts) == ["a", "bc", "d"]
    assert [part.speakers for part in parts] == [("ann",), ("ann", "bob"), ("bob",)]


def test_long_silence_is_cut_at_the_length():
    parts = split([Word("a", 50, 51, 1.0)], [], [], 100.0, max_seconds=30.0)
    assert [(part.start_s, part.end_s) for part in parts] == [(0, 30), (30, 60), (60, 90), (90, 100)]
    assert said(parts) == ["", "a", "", ""]


def test_time_cuts_at_its_multiples():
    words = [Word("a", 9, 10.5, 1.0), Word("b", 9.8, 11, 1.0), Word("c", 40, 41, 1.0)]
    parts = split(words, [], [], 25.0, method="time", max_seconds=10)
    assert [part.end_s for part in parts] == [10, 20, 25]
    assert said(parts) == ["a", "b", "c"]
    assert len(split([], [], [], 30.0, method="time", max_seconds=0.1)) == 300


def test_silence_is_cut_in_its_middle():
    speech = [Region(0, 6), Region(6.4, 8), Region(9, 14), Region(14.5, 25)]
    parts = split([], [], speech, 25.0, method="silence", max_seconds=10)
    assert [part.end_s for part in parts] == [8.5, 14.25, 24.25, 25]


def test_silence_without_regions_is_what_no_turn_covers_and_never_a_word():
    turns_ = [Turn(0, 5, "ann"), Turn(8, 12, "bob")]
    assert [p.end_s for p in split([], turns_, None, 12.0, method="silence", max_seconds=10)] == [6.5, 12]
    word = Word("a", 5, 7, 1.0)
    assert [p.end_s for p in split([word], turns_, None, 12.0, method="silence", max_seconds=10)] == [7.5, 12]


def test_without_words_turns_are_what_is_cut_between():
    turns_ = [Turn(0, 5, "ann"), Turn(4, 9, "bob"), Turn(10, 12, "ann")]
    assert [part.end_s for part in split([], turns_, None, 12.0)] == [4, 5, 9.5, 12]
    assert [(b.start_s, b.end_s, sorted(b.speakers)) for b in blocks_of_turns(turns_)] == [
        (0, 4, ["ann"]), (4, 5, ["ann", "bob"]), (5, 9, ["bob"]), (10, 12, ["ann"]),
    ]  # fmt: skip


@pytest.mark.parametrize("method", METHODS)
def test_nothing_at_all(method):
    assert split([], [], [], 0.0, method=method) == []
    assert [(p.start_s, p.end_s, p.words) for p in split([], [], [], 9.0, method=method)] == [(0, 9, ())]
    word = Word("a", 0, 0, 1.0)
    assert [part.words for part in split([word], [], [], 0.0, method=method)] == [(word,)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "guess"}, "word, time, silence"),
        ({"max_seconds": 0.05}, "at least"),
        ({"max_seconds": float("nan")}, "finite"),
    ],
)
def test_what_can_not_be_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        split([], [], [], 1.0, **options)
    with pytest.raises(ValueError, match="duration_s"):
        split([], [], [], -1.0)
