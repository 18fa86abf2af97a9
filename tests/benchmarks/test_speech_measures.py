"""The measures of `benchmarks/speech.py`, and the recordings that it makes, where the truth is known."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("jiwer", reason="jiwer is in the test extra")
sys.path.append(str(Path(__file__).resolve().parents[2] / "benchmarks"))
import speech_talks
from speech import by_speaker, word_errors, wrong_by_speaker
from speech_talks import SAMPLE_RATE as RATE
from speech_talks import Prompt, Said, Talk, conversation

TALK = Talk(
    "two",
    "en",
    np.zeros(10 * RATE, np.float32),
    [
        Said(0, 2, "anna", "Hello there."),
        Said(3, 5, "ben", "Good morning, Anna!"),
        Said(6, 8, "anna", "Goodbye."),
    ],
)
RIGHT = [
    (0.1, 0.5, "S2", "hello"), (0.6, 1.5, "S2", " There,"), (3.0, 3.3, "S1", "Good"), (3.4, 4.0, "S1", "morning"),
    (4.1, 4.6, "S1", "Anna"), (6.2, 7.5, "S2", "goodbye"),
]  # fmt: skip


def test_names_of_speakers_punctuation_and_order_do_not_count():
    assert word_errors([TALK], {"two": RIGHT[::-1]}) == (0, 0, 1)


def test_a_word_of_the_wrong_speaker_is_an_error_of_both():
    heard = [*RIGHT[:2], (3.0, 3.3, "S2", "Good"), *RIGHT[3:]]
    plainly, with_speakers, right = word_errors([TALK], {"two": heard})
    assert plainly == 0
    assert with_speakers == pytest.approx(2 / 6), "left out of one text, invented in the other"
    assert right == 1


def test_a_speaker_who_was_taken_for_two_and_one_who_was_not_found():
    two = [*RIGHT[:5], (6.2, 7.5, "S3", "goodbye")]
    assert word_errors([TALK], {"two": two})[1:] == (pytest.approx(2 / 6), 0)
    one = [(*word[:2], "S1", word[3]) for word in RIGHT]
    plainly, with_speakers, right = word_errors([TALK], {"two": one})
    assert (plainly, right) == (0, 0)
    assert with_speakers == pytest.approx(6 / 6), (
        "three words too many in one text, a text of three without words"
    )


def test_nothing_heard_is_everything_wrong():
    assert word_errors([TALK], {"two": []}) == (1, 1, 0)
    assert wrong_by_speaker({}, by_speaker(RIGHT, "en")) == 6


def test_a_conversation_says_what_it_holds(monkeypatch):
    monkeypatch.setattr(speech_talks, "SPEEDS", (1.0, 0.5))
    tone = np.sin(2 * np.pi * 500 * np.arange(RATE) / RATE).astype(np.float32)
    prompts = [Prompt(f"{number}", f"text {number}", tone) for number in range(8)]
    talk = conversation("made", "en", prompts, speakers=2, seconds=60)
    assert [said.text for said in talk.said] == [prompt.text for prompt in prompts]
    assert talk.said[-1].end_s < talk.seconds
    for said in talk.said:
        stretch = talk.samples[round(said.start_s * RATE) : round(said.end_s * RATE)]
        pitch = np.abs(np.fft.rfft(stretch)).argmax() / len(stretch) * RATE
        slow = said.speaker == "speaker1"
        assert said.end_s - said.start_s == pytest.approx(2 if slow else 1, abs=0.01)
        assert pitch == pytest.approx(250 if slow else 500, abs=2)
    turns = {said.speaker for said in talk.said}
    assert turns == {"speaker0", "speaker1"}
