"""The plain report."""

import pytest

from pipeline.speech.segments import Turn, Word
from pipeline.speech.text_report import clock, text_report

TURNS = [Turn(0, 6, "ann"), Turn(5, 8, "bob"), Turn(10, 12, "ann")]
WORDS = [Word(" Hello", 0.5, 1, 1.0, "ann"), Word(" there.", 1, 2, 1.0, "ann"), Word(" Hi.", 6.5, 7, 1.0, "bob"),
         Word(" hm", 9, 9.5, 1.0, None), Word(" Well.", 10.5, 11, 1.0, "ann")]  # fmt: skip


def test_a_report():
    assert text_report("talk.wav", 20, TURNS, WORDS, language="en") == (
        "talk.wav\n"
        "========\n"
        "\n"
        "Length:    0:00:20.0\n"
        "Language:  en\n"
        "Speech:    0:00:10.0 (50 %)\n"
        "At once:   0:00:01.0 (5 %)\n"
        "\n"
        "Speaker         Time  Part  Turns  Words\n"
        "ann        0:00:08.0  73 %      2      3\n"
        "bob        0:00:03.0  27 %      1      1\n"
        "(unknown)                              1\n"
        "\n"
        "[0:00:00.5] ann: Hello there.\n"
        "[0:00:06.5] bob: Hi.\n"
        "[0:00:09.0] (unknown): hm\n"
        "[0:00:10.5] ann: Well.\n"
    )


def test_turns_without_words_are_listed():
    report = text_report("a", 20, TURNS)
    assert report.endswith(
        "[0:00:00.0] ann: 0:00:06.0\n[0:00:05.0] bob: 0:00:03.0\n[0:00:10.0] ann: 0:00:02.0\n"
    )
    assert "ann      0:00:08.0  73 %      2      0" in report


def test_words_without_turns_are_counted():
    lines = text_report("a", 20, [], reversed(WORDS)).splitlines()
    assert [line.split() for line in lines if line.startswith(("ann", "bob", "(unk"))] == [
        ["ann", "0:00:02.0", "67", "%", "2", "3"],
        ["(unknown)", "0:00:00.5", "17", "%", "1", "1"],
        ["bob", "0:00:00.5", "17", "%", "1", "1"],
    ]


def test_nobody_speaks():
    report = text_report("", 0)
    assert "Nobody speaks." in report
    assert "0 %" in report


def test_text_of_any_script():
    words = [
        Word("今日", 0, 1, 1.0, "花子"),
        Word("は。", 1, 2, 1.0, "花子"),
        Word(" שלום", 3, 4, 1.0, "דנה"),
    ]
    report = text_report("会議", 5, [], words)
    assert "[0:00:00.0] 花子: 今日は。" in report
    assert "[0:00:03.0] דנה: שלום" in report


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0:00:00.0"),
        (59.96, "0:01:00.0"),
        (3661.25, "1:01:01.2"),
        (36000, "10:00:00.0"),
        (-1, "0:00:00.0"),
    ],
)
def test_clock(seconds, text):
    assert clock(seconds) == text


def test_a_length_that_can_not_be_is_refused():
    with pytest.raises(ValueError, match="duration_s"):
        text_report("a", float("nan"))
