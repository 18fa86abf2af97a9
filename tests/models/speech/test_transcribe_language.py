from __future__ import annotations

from dataclasses import replace

import pytest

from pipeline.models.speech.transcribe.language import spread, vote
from pipeline.models.speech.transcribe.transcript import RecognisedSegment, is_doubtful
from pipeline.models.speech.transcribe.whisper_window import compression_ratio


def test_probabilities_count_and_not_heads():
    # Two windows lean towards Italian, one is sure of Spanish.
    windows = [{"it": 0.4, "es": 0.35}, {"it": 0.4, "es": 0.35}, {"it": 0.05, "es": 0.9}]
    assert vote(windows, [1, 1, 1]) == ("es", pytest.approx(1.6 / 3))


def test_windows_with_more_speech_count_for_more():
    windows = [{"en": 0.9, "fr": 0.1}, {"en": 0.2, "fr": 0.8}]
    assert vote(windows, [1, 9])[0] == "fr"
    assert vote(windows, [9, 1])[0] == "en"


def test_equal_languages_are_decided_by_name_whatever_their_order():
    assert vote([{"it": 0.5, "fr": 0.5}], [1]) == vote([{"fr": 0.5, "it": 0.5}], [1]) == ("fr", 0.5)


@pytest.mark.parametrize(("windows", "weights"), [([], []), ([{"en": 1.0}], [0])])
def test_nothing_to_vote_with(windows, weights):
    with pytest.raises(ValueError, match="no window"):
        vote(windows, weights)


@pytest.mark.parametrize(
    ("count", "most", "expected"),
    [
        (0, 5, []),
        (1, 5, [0]),
        (5, 5, [0, 1, 2, 3, 4]),
        (9, 5, [0, 2, 4, 6, 8]),
        (7, 1, [0]),
        (100, 3, [0, 50, 99]),
    ],
)
def test_windows_are_spread_over_the_recording(count, most, expected):
    assert spread(count, most) == expected


SEGMENT = RecognisedSegment(0.0, 1.0, "Hello.", -0.2, 0.1, 0.9, (), "en", 0.99)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, None),
        ({"compression_ratio": 2.5}, "repetition"),
        ({"avg_logprob": -1.2}, "improbable"),
        ({"avg_logprob": -1.2, "no_speech_prob": 0.9}, "no-speech"),
        # A text that the network is sure of is one, whatever it thinks of the window.
        ({"no_speech_prob": 0.9}, None),
    ],
)
def test_what_is_doubtful(changes, expected):
    assert is_doubtful(replace(SEGMENT, **changes)) == expected


def test_a_text_in_circles_compresses():
    assert compression_ratio("Please enter your agent number followed by the pound key.") < 1.5
    assert compression_ratio("thank you " * 40) > 2.4
    assert compression_ratio("") == 0.0
