"""RTTM, read back by this project and by pyannote."""

import io

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.speech.rttm import escaped, read_rttm, unescaped, write_rttm
from pipeline.speech.segments import Turn

NAMES = ["ann", "SPEAKER_00", "Ann Lee", "", "%", "%20", "NA", "nan", "null", "None", "<NA>", "#N/A N/A", "1", "1e3",
         "; no comment", '"quoted"', "it's", "naïve 名前", "اسم",
         "a\tb\nc\r\x85\u2028", "a\u3000b", "\ufeffbom"]  # fmt: skip
turns = st.lists(
    st.tuples(st.floats(0, 40000), st.floats(0.001, 100), st.sampled_from(NAMES)).map(
        lambda t: Turn(t[0], t[0] + t[1], t[2])
    ),
    max_size=6,
)


def test_a_line():
    text = write_rttm([Turn(1.5, 2.25, "Ann Lee", 0.75), Turn(0, 1, "bob")], "a talk.wav", channel=2)
    assert text == (
        "SPEAKER a%20talk.wav 2 0.000000 1.000000 <NA> <NA> bob <NA> <NA>\n"
        "SPEAKER a%20talk.wav 2 1.500000 0.750000 <NA> <NA> Ann%20Lee 0.750000 <NA>\n"
    )


@settings(deadline=None)
@given(turns, st.sampled_from(NAMES))
def test_what_is_written_is_read(some, name):
    read = read_rttm(write_rttm(some, name)).get(name, [])
    # Starts may change places by the microsecond that they are rounded to.
    read = sorted(read, key=lambda turn: (turn.speaker, turn.start_s))
    expected = sorted(some, key=lambda turn: (turn.speaker, round(turn.start_s, 6)))
    assert [turn.speaker for turn in read] == [turn.speaker for turn in expected]
    assert sorted(turn.start_s for turn in read) == pytest.approx(sorted(t.start_s for t in some), abs=1e-6)
    assert sorted(turn.end_s for turn in read) == pytest.approx(sorted(t.end_s for t in some), abs=2e-6)


@pytest.mark.parametrize("name", NAMES)
def test_names_come_back(name):
    assert unescaped(escaped(name)) == name
    assert escaped(name).split() == [escaped(name)]


@given(st.text())
def test_any_name_comes_back(name):
    assert unescaped(escaped(name)) == name


@pytest.mark.parametrize("name", NAMES)
def test_pyannote_reads_it(tmp_path, name):
    util = pytest.importorskip("pyannote.database.util")
    some = [Turn(0.125, 2.5, name), Turn(2.25, 36000.75, "ann")]
    (tmp_path / "it.rttm").write_text(write_rttm(some, f"file {name}"))
    ((recording, annotation),) = util.load_rttm(tmp_path / "it.rttm").items()
    assert unescaped(recording) == f"file {name}"
    assert [(s.start, s.end, unescaped(label)) for s, _, label in annotation.itertracks(yield_label=True)] == [
        (0.125, 2.5, name), (2.25, 36000.75, "ann"),
    ]  # fmt: skip


def test_what_pyannote_writes_is_read():
    core = pytest.importorskip("pyannote.core")
    annotation = core.Annotation(uri="talk")
    annotation[core.Segment(0.5, 1.25)] = "ann"
    annotation[core.Segment(1, 3)] = "bob"
    text = io.StringIO()
    annotation.write_rttm(text)
    assert read_rttm(text.getvalue()) == {"talk": [Turn(0.5, 1.25, "ann"), Turn(1, 3, "bob")]}


def test_turns_of_nothing_are_left_out():
    assert write_rttm([], "a") == ""
    assert write_rttm([Turn(1, 1, "ann"), Turn(1, 1 + 1e-9, "ann")], "a") == ""
    assert read_rttm("") == {}


def test_other_lines_say_no_turns():
    text = "\ufeff;; comment\nSPKR-INFO a 1 <NA> <NA> <NA> unknown ann <NA> <NA>\r\n\r\n"
    text += "SPEAKER a 1 0 1 <NA> <NA> ann\r\n"
    assert read_rttm(text) == {"a": [Turn(0, 1, "ann")]}


@pytest.mark.parametrize("line", ["SPEAKER a 1 0 1", "SPEAKER a 1 x 1 <NA> <NA> ann", "SPEAKER a 1 0 -1 <NA> <NA> ann",
                                  "SPEAKER a 1 nan 1 <NA> <NA> ann"])  # fmt: skip
def test_a_line_that_is_none_is_refused_by_its_number(line):
    with pytest.raises(ValueError, match="line 2"):
        read_rttm(f";; one\n{line}\n")
