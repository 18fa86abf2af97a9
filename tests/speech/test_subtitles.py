"""Subtitles, read back by a small parser of each format and by FFmpeg."""

import html
import re
import unicodedata
from itertools import pairwise

import av
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.speech.segments import Word
from pipeline.speech.subtitles import cues, wrap, write_srt, write_vtt

TIME = r"(\d\d+):(\d\d):(\d\d)[,.](\d\d\d)"


def seconds_of(hours, minutes, seconds, milliseconds):
    return int(hours) * 3600 + int(minutes) * 60 + int(seconds) + int(milliseconds) / 1000


def parsed(text):
    """Start, end and lines of each cue of an SRT or WebVTT text, by the grammar of neither's writer here."""
    blocks = [block.split("\n") for block in re.split(r"\n\n+", text.strip("\n")) if block]
    if blocks and blocks[0] == ["WEBVTT"]:
        blocks = [[str(number), *block] for number, block in enumerate(blocks[1:], 1)]
    found = []
    for number, (index, times, *lines) in enumerate(blocks, 1):
        assert index == str(number)
        match = re.fullmatch(f"{TIME} --> {TIME}", times)
        assert match, times
        found.append((seconds_of(*match.groups()[:4]), seconds_of(*match.groups()[4:]), lines))
    return found


def spoken(text, start=0.0, step=0.4, speaker="ann"):
    return [
        Word(f" {word}", start + i * step, start + i * step + step * 0.9, 1.0, speaker)
        for i, word in enumerate(text.split())
    ]


PROSE = (
    "It was a bright cold day in April, and the clocks were striking thirteen. Nobody knew why they did so, "
    "and nobody asked. The wind went on, along the street, and took the dust with it. "
)


def width(line):
    joining = sum(unicodedata.category(c) in ("Mn", "Me", "Cf") for c in line)
    return len(line) - joining + sum(unicodedata.east_asian_width(c) in "WF" for c in line)


def text_of_lines(lines):
    return " ".join(lines)


def check_rules(found):
    for start, end, lines in found:
        assert 0 < end - start <= 7.001
        assert 1 <= len(lines) <= 2
        assert all(0 < width(line) <= 42 for line in lines)


def test_cues_keep_the_rules_and_all_words():
    words = spoken(PROSE * 5)
    found = parsed(write_srt(words, labels=False))
    check_rules(found)
    assert " ".join(text_of_lines(lines) for _, _, lines in found) == " ".join((PROSE * 5).split())
    assert all(before[1] <= after[0] + 0.001 for before, after in pairwise(found))
    # A cue ends with a clause or a sentence where there is one.
    assert all(lines[-1][-1] in ",." for _, _, lines in found)


def test_labels():
    words = [
        *spoken("yes. " * 6, speaker="Ann Lee"),
        *spoken("no? " * 4, 4.0, speaker="b&b <x>"),
        *spoken("so", 9, speaker=None),
    ]
    srt = [lines[0] for _, _, lines in parsed(write_srt(words))]
    assert srt == ["[Ann Lee] yes. yes. yes. yes. yes. yes.", "[b&b <x>] no? no? no? no?", "so"]
    vtt = [lines[0] for _, _, lines in parsed(write_vtt(words))]
    assert vtt[0].startswith("<v Ann Lee>yes.")
    assert vtt[1:] == ["<v b&amp;b &lt;x&gt;>no? no? no? no?</v>", "so"]
    assert "<v" not in write_vtt(words, labels=False)


def test_a_long_name_leaves_room():
    found = parsed(write_srt(spoken(PROSE, speaker="x" * 100)))
    check_rules(found)
    assert all(lines[0].startswith("[" + "x" * 19 + "…]") for _, _, lines in found)


@st.composite
def any_words(draw):
    texts = st.sampled_from(
        [
            " a",
            " word.",
            " longerword,",
            " " + "x" * 100,
            "名前は長い" * 9,
            " שלום",
            " नमस्ते",
            "",
            " <i>",
            " -->",
        ]
    )
    made = []
    for _ in range(draw(st.integers(0, 20))):
        start = draw(st.floats(0, 60))
        length = draw(st.sampled_from([0.0, 0.2, 1.0, 12.0]))
        made.append(
            Word(draw(texts), start, start + length, 1.0, draw(st.sampled_from([None, "ann", "bob"])))
        )
    return made


@settings(deadline=None)
@given(any_words(), st.booleans())
def test_rules_hold_for_any_words(words, labels):
    everything = sorted("".join(word.word for word in words).replace(" ", "").replace("-->", "->"))
    for text in (write_srt(words, labels=labels), write_vtt(words, labels=labels)):
        found = parsed(text)
        plain = [
            (
                start,
                end,
                [html.unescape(re.sub(r"</?v[^>]*>", "", line)) for line in lines]
                if "WEBVTT" in text
                else lines,
            )
            for start, end, lines in found
        ]
        check_rules(plain)
        assert [start for start, _, _ in found] == sorted(start for start, _, _ in found)
        said = "".join("".join(lines) for _, _, lines in plain)
        said = re.sub(r"\[(ann|bob)\]", "", said).replace(" ", "").replace("-->", "->")
        assert sorted(said) == everything


def test_those_who_speak_at_once_are_shown_at_once():
    words = [Word(" one", 0, 2, 1.0, "ann"), Word(" uh", 1, 1.5, 1.0, "bob"), Word(" two", 2, 3, 1.0, "ann")]
    assert [(c.start_s, c.end_s, c.lines) for c in cues(words)] == [(0, 3, ("one two",)), (1, 1.7, ("uh",))]


def test_a_short_cue_stays_a_little():
    ((cue),) = cues([Word("hm", 5, 5, 1.0)])
    assert (cue.start_s, cue.end_s) == (5, 5.7)


def test_a_long_word_is_shown_for_seven_seconds():
    ((cue),) = cues([Word("aaah", 5, 35, 1.0)])
    assert (cue.start_s, cue.end_s) == (5, 12)


def test_hours_and_rounding():
    (found,) = parsed(write_srt([Word("a", 359999.9996, 360001.25, 1.0)]))
    assert found[:2] == (360000.0, 360001.25)
    assert "100:00:00,000" in write_srt([Word("a", 359999.9996, 360001.25, 1.0)])


def test_nothing():
    assert write_srt([]) == ""
    assert write_vtt([]) == "WEBVTT\n"
    assert write_srt([Word(" ", 0, 1, 1.0), Word("", 1, 2, 1.0)]) == ""


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("", []),
        ("a b", ["a b"]),
        ("aaaa bbbb", ["aaaa", "bbbb"]),
        ("aaaaaaaa b", ["aaaaa", "aaa b"]),
        ("名前です", ["名前", "です"]),
        ("e\u0301e\u0301e\u0301e\u0301e\u0301 a", ["e\u0301e\u0301e\u0301e\u0301e\u0301", "a"]),
    ],
)
def test_wrap(text, lines):
    assert wrap(text, 5) == lines


@pytest.mark.parametrize(("write", "ending"), [(write_srt, "srt"), (write_vtt, "vtt")])
def test_ffmpeg_reads_it(tmp_path, write, ending):
    words = [*spoken(PROSE), *spoken("名前は何ですか。 שלום עולם", 30, speaker="bob & co")]
    path = tmp_path / f"it.{ending}"
    path.write_text(write(words, labels=False))
    expected = [(start, end) for start, end, _ in parsed(path.read_text())]
    with av.open(str(path)) as container:
        stream = container.streams.subtitles[0]
        packets = [packet for packet in container.demux(stream) if packet.size]
        times = [(float(p.pts * p.time_base), float((p.pts + p.duration) * p.time_base)) for p in packets]
        shown = [bytes(packet).decode().replace("\n", " ") for packet in packets]
    assert times == [pytest.approx(pair, abs=0.0011) for pair in expected]
    assert html.unescape(" ".join(shown)) == " ".join(PROSE.split()) + " 名前は何ですか。 שלום עולם"
