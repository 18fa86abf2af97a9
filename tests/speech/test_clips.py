"""Clips of one speaker, with whole words and the reasons why they are dropped."""

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.speech.clips import REASONS, Thresholds, clips, compression_ratio
from pipeline.speech.segments import Passage, Region, Turn, Word

RATE = 16000


def made(words, turns=None, regions=None, *, duration=60.0, **options):
    return clips(words, turns, regions, duration_s=duration, sample_rate=RATE, **options)


def speech(start, count, speaker="ann", *, every=0.5, length=0.4, **options):
    return [
        Word(f" w{i}", start + i * every, start + i * every + length, 0.9, speaker, **options)
        for i in range(count)
    ]


@st.composite
def spoken_words(draw):
    words, at = [], 0.0
    for index in range(draw(st.integers(0, 40))):
        at += draw(st.sampled_from([0.0, 0.0, 0.1, 0.4, 3.0]))
        length = draw(st.sampled_from([0.0, 0.1, 0.5, 2.0]))
        speaker = draw(st.sampled_from([None, "ann", "bob"]))
        text = draw(st.sampled_from([" a", " b.", " c,"]))
        words.append(Word(f"{text}{index}", at, at + length, 1.0, speaker))
        at += length
    return words


@settings(deadline=None)
@given(spoken_words(), st.sampled_from([0.0, 0.05, 0.3]), st.sampled_from([3.0, 20.0]))
def test_every_word_is_whole_in_one_clip_and_in_no_other(words, margin, longest):
    found = made(words, duration=100.0, margin_s=margin, max_s=longest, min_s=1.0)
    assert all(before.end_sample <= after.start_sample for before, after in pairwise(found))
    half = 0.5 / RATE + 1e-9
    for word in words:
        holding = [c for c in found if word.word.strip() in c.text.split()]
        assert len(holding) == 1
        assert holding[0].start_s - half <= word.start_s <= word.end_s <= holding[0].end_s + half
        others = [c for c in found if c is not holding[0]]
        assert all(c.end_s <= word.start_s + half or c.start_s >= word.end_s - half for c in others)
    for clip in found:
        assert clip.duration_s <= longest + 1 / RATE
        speakers = {w.speaker for w in words if w.word.strip() in clip.text.split() and w.duration_s > 0}
        assert len(speakers - {None}) <= 1
        assert clip.start_sample == round(clip.start_s * RATE)
        assert clip.start_s == clip.start_sample / RATE


def test_a_clip_per_speaker_and_pause_with_its_margin():
    words = [*speech(1.0, 12), *speech(9.0, 12, "bob"), *speech(20.0, 3, "bob")]
    found = made(words)
    assert [(c.speaker, c.start_s, c.end_s, c.drop_reason) for c in found] == [
        ("ann", 0.8, pytest.approx(7.1), None),
        ("bob", 8.8, pytest.approx(15.1), None),
        ("bob", 19.8, pytest.approx(21.6), "short"),
    ]
    assert found[0].text == " ".join(f"w{i}" for i in range(12))
    assert [c.segment_id for c in found] == ["000000", "000001", "000002"]


def test_what_is_too_long_is_cut_at_a_sentence_and_leaves_no_crumb():
    words = speech(0.0, 44)  # 22 s
    marked = [
        Word(w.word + "." * (i in (19, 35)), w.start_s, w.end_s, 0.9, "ann") for i, w in enumerate(words)
    ]
    found = made(marked, margin_s=0.05)
    # The end of a sentence at 18 s would leave 4 s.
    assert [len(c.text.split()) for c in found] == [20, 24]
    assert all(c.keep for c in found)


def test_the_margin_stays_out_of_other_words_and_turns():
    words = [*speech(1.0, 12), *speech(7.0, 12, "bob")]
    turns = [Turn(0.9, 6.93, "ann"), Turn(6.93, 13, "bob"), Turn(13.1, 14, "ann")]
    ann, bob = made(words, turns, margin_s=0.5)
    assert (ann.start_s, ann.end_s) == (0.5, pytest.approx(6.93, abs=1e-4))
    assert (bob.start_s, bob.end_s) == (pytest.approx(6.95, abs=1e-4), pytest.approx(13.1, abs=1e-4))


def test_words_get_the_speakers_of_the_turns():
    found = made(speech(0.0, 24, None), [Turn(0, 6, "ann"), Turn(6, 12, "bob")])
    assert [c.speaker for c in found] == ["ann", "bob"]


@pytest.mark.parametrize(
    ("words", "options", "reason"),
    [
        (speech(1, 20), {}, None),
        (speech(1, 5), {}, "short"),
        ([Word("aaa", 1, 30, 0.9, "ann")], {}, "long"),
        (speech(1, 20), {"turns": [Turn(0, 12, "ann"), Turn(3, 5, "bob")]}, "overlap"),
        (speech(1, 20, None), {"turns": [Turn(20, 30, "ann")]}, "no_speaker"),
        (speech(1, 20), {"regions": [Region(1, 3)]}, "no_speech"),
        (speech(1, 20), {"regions": []}, "no_speech"),
        ([Word("aaa", 1, 8, 0.9, "ann")], {}, "few_words"),
        ([Word(w.word, w.start_s, w.end_s, 0.3, "ann") for w in speech(1, 20)], {}, "low_confidence"),
        ([Word(" again", w.start_s, w.end_s, 0.9, "ann") for w in speech(1, 30)], {}, "repetitive"),
    ],
)
def test_reasons(words, options, reason):
    clip = made(words, options.get("turns"), options.get("regions"))[0]
    assert (clip.keep, clip.drop_reason) == (reason is None, reason)


def test_what_the_recognizer_says_of_its_passages():
    words = [*speech(1, 10, segment=0), *speech(6, 10, segment=1)]
    said = [
        Passage(index=0, start_s=1, end_s=6, language="en", language_probability=0.8, avg_logprob=-0.2,
                no_speech_prob=0.1),
        Passage(index=1, start_s=6, end_s=11, language="en", language_probability=0.6, avg_logprob=-0.6,
                no_speech_prob=0.3),
    ]  # fmt: skip
    (clip,) = made(words, passages=said)
    assert clip.language == "en"
    assert clip.language_probability == pytest.approx(0.7)
    assert clip.avg_logprob == pytest.approx(-0.4)
    assert clip.no_speech_prob == pytest.approx(0.2)
    assert clip.compression_ratio == compression_ratio(clip.text)
    for changed, reason in (({"avg_logprob": -2}, "low_confidence"), ({"no_speech_prob": 0.9}, "no_speech")):
        (clip,) = made(speech(1, 20, segment=7), passages=[Passage(index=7, start_s=1, end_s=11, **changed)])
        assert clip.drop_reason == reason


def test_thresholds_may_be_other_or_none():
    found = made(speech(1, 5), thresholds=Thresholds(min_s=None))
    assert [c.keep for c in found] == [True]
    assert set(REASONS) == {
        "short", "long", "overlap", "no_speaker", "no_speech", "few_words", "low_confidence", "repetitive",
    }  # fmt: skip


def test_without_words_turns_are_cut_into_equal_pieces_of_one_speaker():
    turns = [Turn(0, 45, "ann"), Turn(43, 52, "bob")]
    found = made(None, turns, margin_s=0.0)
    assert [(c.speaker, round(c.start_s, 2), round(c.end_s, 2), c.drop_reason, c.text) for c in found] == [
        ("ann", 0, 14.33, None, None),
        ("ann", 14.33, 28.67, None, None),
        ("ann", 28.67, 43, None, None),
        (None, 43, 45, "short", None),
        ("bob", 45, 52, None, None),
    ]
    assert found[3].overlap_ratio == pytest.approx(1.0)


def test_without_turns_speech_is_what_is_cut():
    found = made(None, None, [Region(1, 7), Region(7.5, 9), Region(30, 36)])
    assert [(c.speaker, c.start_s, c.end_s, c.keep) for c in found] == [
        (None, 0.8, pytest.approx(9.2), True), (None, 29.8, pytest.approx(36.2), True),
    ]  # fmt: skip
    # Turns are only clips where there is speech in them.
    found = made(None, [Turn(0, 20, "ann")], [Region(1, 7), Region(12, 18)], margin_s=0.0)
    assert [(c.speaker, c.start_s, c.end_s) for c in found] == [("ann", 1, 7), ("ann", 12, 18)]


def test_no_words_that_were_recognized_are_an_empty_text():
    (clip,) = made([], [Turn(0, 10, "ann")])
    assert (clip.text, clip.drop_reason) == ("", "few_words")


def test_nothing_at_all():
    assert made(None) == made([]) == made([], [], []) == made(None, [], duration=0.0) == []
    (clip,) = made([Word("a", 0, 0, 1.0)], duration=0.0)
    assert clip.drop_reason == "short"


def test_a_word_beyond_the_end_stays_within_the_recording():
    (clip,) = made([*speech(50, 19), Word(" z", 59.9, 63, 0.9, "ann")])
    assert clip.end_sample == 60 * RATE
    assert clip.text.endswith("z")


@pytest.mark.parametrize(
    "options", [{"max_s": 0.3}, {"min_s": 30.0}, {"margin_s": -1.0}, {"pause_s": float("nan")}]
)
def test_lengths_that_can_not_be_are_refused(options):
    with pytest.raises(ValueError, match="_s"):
        made([], **options)
