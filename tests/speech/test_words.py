"""Whose word it is, and how words become text."""

import pytest

from pipeline.speech import words as w
from pipeline.speech.segments import Turn, Word

TURNS = [Turn(0, 4, "ann"), Turn(4, 8, "bob"), Turn(7, 10, "ann")]


def speaker_of(start, end, turns=TURNS, **options):
    return w.assign_speakers([Word("x", start, end, 1.0)], turns, **options)[0].speaker


@pytest.mark.parametrize(
    ("start", "end", "speaker"),
    [
        (1, 2, "ann"),
        (3.2, 4.1, "ann"),  # most of it
        (3.9, 4.8, "bob"),
        (3.5, 4.5, None),  # a half each
        (7.2, 7.8, None),  # both speak
        (6.0, 7.5, "bob"),  # all of it bob, a third of it ann, too
        (9.5, 11.0, None),  # a third of it has a turn
        (9.2, 10.3, "ann"),
        (12, 13, None),
        (2, 2, "ann"),  # no length: the turn that holds it
        (4, 4, "bob"),
        (7.5, 7.5, None),
        (11, 11, None),
    ],
)
def test_a_word_is_whose_turn_covers_it(start, end, speaker):
    assert speaker_of(start, end) == speaker


def test_two_turns_of_one_speaker_count_once():
    turns = [Turn(0, 2, "ann"), Turn(1, 3, "ann"), Turn(2.4, 3, "bob")]
    assert speaker_of(1, 3, turns) == "ann"


def test_how_sure_is_a_parameter():
    assert speaker_of(3.5, 4.5, min_share=0.5) == "ann"
    assert speaker_of(9.5, 11.0, min_cover=0.3) == "ann"


def test_words_out_of_order_are_put_in_order_and_keep_what_they_say():
    late, early = Word(" b", 5, 6, 0.5, "old", segment=3), Word(" a", 1, 2, 0.25)
    found = w.assign_speakers([late, early], TURNS)
    assert found == [Word(" a", 1, 2, 0.25, "ann"), Word(" b", 5, 6, 0.5, "bob", segment=3)]
    assert w.assign_speakers([], TURNS) == []
    assert w.assign_speakers([late], []) == [Word(" b", 5, 6, 0.5, None, segment=3)]


def words_of(speakers):
    return [Word(f"w{i}", i, i + 0.9, 1.0, None if s == "-" else s) for i, s in enumerate(speakers)]


@pytest.mark.parametrize(
    ("before", "after"), [("a-a", "aaa"), ("a-b", "a-b"), ("-aa-", "-aa-"), ("a--ab-b", "a--abbb"), ("", "")]
)
def test_words_of_nobody_between_two_of_one(before, after):
    filled = w.fill_between(words_of(before), max_s=2.0)
    assert "".join(word.speaker or "-" for word in filled) == after


@pytest.mark.parametrize(
    ("speakers", "changes"), [("aabb", [2]), ("a-ab-ba", [3, 6]), ("--a", []), ("", []), ("a", [])]
)
def test_speaker_changes(speakers, changes):
    assert w.speaker_changes(words_of(speakers)) == changes


def test_runs_end_with_the_speaker_and_at_pauses():
    runs = w.runs_of_speakers([*words_of("aab-"), Word("w9", 9, 10, 1.0)], pause_s=3)
    assert [[word.word for word in run] for run in runs] == [["w0", "w1"], ["w2"], ["w3"], ["w9"]]


@pytest.mark.parametrize(
    "word", ["end.", "what?!", 'said."', "終わり。」", "؟لماذا؟", "है।", " go… ", "yes.)"]
)
def test_ends_of_sentences(word):
    assert w.ends_sentence(word)
    assert not w.ends_clause(word)


@pytest.mark.parametrize("word", ["well,", "so:", "ثم،", "そして、", 'he,"'])
def test_ends_of_clauses(word):
    assert w.ends_clause(word)
    assert not w.ends_sentence(word)


@pytest.mark.parametrize("word", ["", " ", "word", "3.5", "it's", '"'])
def test_no_ends(word):
    assert not w.ends_sentence(word)
    assert not w.ends_clause(word)


@pytest.mark.parametrize(
    ("texts", "text"),
    [
        ([" Well", "-known", " words."], "Well-known words."),
        (["Hello", "world."], "Hello world."),
        (["今日", "は", "いい", "天気", "です。"], "今日はいい天気です。"),
        (["今日", "OK", "です"], "今日 OK です"),
        (["สวัสดี", "ครับ"], "สวัสดีครับ"),
        (["안녕", "하세요"], "안녕 하세요"),
        (["שלום", "עולם"], "שלום עולם"),
        ([" a", "", "  b\n"], "a b"),
        ([], ""),
        (["", ""], ""),
    ],
)
def test_text(texts, text):
    assert w.text_of([Word(each, i, i + 1, 1.0) for i, each in enumerate(texts)]) == text
