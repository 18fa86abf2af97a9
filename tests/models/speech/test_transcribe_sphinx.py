"""PocketSphinx: what its decoder says becomes words in source time. The decoder here is a stand-in; the package is none
that the tests install."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from pipeline.errors import UserError
from pipeline.models.speech.base import BackendUnavailable
from pipeline.models.speech.transcribe import sphinx
from pipeline.models.speech.transcribe.choose import load_backend
from pipeline.models.speech.transcribe.transcript import is_doubtful

SAID = (
    ("<s>", 0, 9, 1.0),
    ("press", 10, 39, 0.5),
    ("<sil>", 40, 49, 0.9),
    ("to(2)", 50, 69, 0.25),
    ("[NOISE]", 70, 79, 0.4),
    ("live", 80, 120, 1.2),
    ("</s>", 121, 130, 1.0),
)


class Decoder:
    """Says the same of everything, and notes what it was given."""

    def __init__(self, said=SAID) -> None:
        self.said, self.heard, self.open = said, [], False

    def start_utt(self) -> None:
        assert not self.open
        self.open = True

    def process_raw(self, data: bytes, no_search: bool, full_utt: bool) -> None:
        assert (self.open, no_search, full_utt) == (True, False, True)
        self.heard.append(np.frombuffer(data, "<i2"))

    def end_utt(self) -> None:
        self.open = False

    def seg(self):
        names = ("word", "start_frame", "end_frame", "prob")
        return [SimpleNamespace(**dict(zip(names, row, strict=True))) for row in self.said]


def test_words_are_in_source_time_and_within_their_piece():
    decoder = Decoder()
    speech = np.full(16_000, 0.5, np.float32)
    told = []
    [segment] = sphinx.PocketSphinx(decoder, "m").recognise(
        [(7.0, speech), (9.0, np.zeros(1600, np.float32))], told=told.append
    )
    assert told == [0.5, 1.0]
    assert segment.text == "press to live"
    assert [word.word for word in segment.words] == ["press", "to", "live"]
    assert [word.start_s for word in segment.words] == pytest.approx([7.1, 7.5, 7.8])
    assert [word.end_s for word in segment.words] == pytest.approx([7.4, 7.7, 8.0]), "a piece of one second"
    assert [word.probability for word in segment.words] == [0.5, 0.25, 1.0]
    assert segment.avg_logprob == pytest.approx(np.log([0.5, 0.25, 1.0]).mean())
    assert (segment.language, segment.no_speech_prob) == ("en", None)
    assert is_doubtful(segment) is None
    assert len(decoder.heard) == 1, "of silence nobody asks"
    assert set(decoder.heard[0].tolist()) == {16384}


def test_where_nothing_is_understood_there_is_no_segment():
    noises = Decoder((("<s>", 0, 9, 1.0), ("<sil>", 10, 90, 1.0)))
    assert sphinx.PocketSphinx(noises, "m").recognise([(0.0, np.ones(800, np.float32))]) == []


def test_what_it_cannot_take_is_refused():
    recogniser = sphinx.PocketSphinx(Decoder(), "m")
    assert recogniser.refuses("en") is recogniser.refuses(None) is None
    assert "of English" in recogniser.refuses("fr")
    with pytest.raises(UserError, match="of English"):
        recogniser.recognise([], language="fr")
    with pytest.raises(ValueError, match="finite"):
        recogniser.recognise([(0.0, np.full(800, np.nan, np.float32))])


def test_without_the_package_it_is_said_what_to_type(monkeypatch):
    missing = SimpleNamespace(
        available=False, reason="pocketsphinx is not installed; type `pip install 'pocketsphinx>=5.1,<6'`"
    )
    monkeypatch.setattr(sphinx, "look_up", lambda name, load: missing)
    with pytest.raises(BackendUnavailable, match=r"type `pip install 'pocketsphinx>=5.1,<6'`"):
        load_backend("pocketsphinx")
