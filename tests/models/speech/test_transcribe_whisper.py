"""What is around Whisper's network: packing, second hearings, mapping back. The network is a stand-in here."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest

from pipeline.errors import UserError
from pipeline.models import weights
from pipeline.models.speech.base import BackendUnavailable
from pipeline.models.speech.transcribe import whisper, whisper_models
from pipeline.models.speech.transcribe.names import TranscribeOptions
from pipeline.models.speech.transcribe.transcript import SAMPLE_RATE
from pipeline.models.speech.transcribe.whisper_models import compute_type, find_model
from pipeline.models.speech.transcribe.whisper_window import HeardWindow
from pipeline.models.speech.transcribe.whisper_words import HeardWord, aligned_words

LEVEL = 1000


class ScriptedReader:
    """A stand-in for the network: piece ``k`` is a constant of ``k + 1`` thousandths, heard as the word ``wk``."""

    multilingual = True
    languages = ("en", "fr", "it")

    def __init__(self, overhang=0, deaf_to=(), circling_over=1000, spoken=None, logprob=-0.1):
        self.overhang, self.deaf_to, self.circling_over = overhang, deaf_to, circling_over
        self.spoken = spoken or {"en": 0.9, "fr": 0.1}
        self.logprob = logprob
        self.encoded, self.read_with, self.asked_language = [], [], 0

    def encode(self, samples):
        self.encoded.append(samples)
        return samples

    def language(self, encoded):
        self.asked_language += 1
        return self.spoken

    def read(self, encoded, samples, language, *, careful=False):
        assert samples == len(encoded) <= whisper.WINDOW
        values = np.round(encoded * LEVEL).astype(int)
        edges = np.flatnonzero(np.diff(values, prepend=0, append=0))
        runs = [(a, b, values[a] - 1) for a, b in itertools.pairwise(edges) if values[a]]
        self.read_with.append((tuple(k for *_, k in runs), language, careful))
        alone = len(runs) == 1
        words = tuple(
            HeardWord(f" w{k}", a - self.overhang, b + self.overhang, 0.9, self.logprob, 1)
            for a, b, k in runs
            if k not in self.deaf_to or (alone and self.deaf_to[k])
        )
        ratio = 3.0 if len(runs) > self.circling_over else 1.0
        return HeardWindow(words, -0.1, 0.01, ratio)


def pieces_of(*seconds: float) -> list[tuple[float, np.ndarray]]:
    """A piece per length, 2 s apart; the ones that follow each other differ in value."""
    pieces, start = [], 1.0
    for k, length in enumerate(seconds):
        pieces.append((start, np.full(round(length * SAMPLE_RATE), (k + 1) / LEVEL, np.float32)))
        start += length + 2
    return pieces


def recognise(reader, pieces, **options):
    return whisper.Whisper(reader, "scripted").recognise(pieces, **options)


@pytest.mark.parametrize("overhang", [0, 3000])
def test_every_piece_says_its_word_in_its_own_time(overhang):
    pieces = pieces_of(*np.random.default_rng(0).uniform(0.3, 12, 40))
    heard = recognise(ScriptedReader(overhang), pieces)
    assert [segment.text for segment in heard] == [f"w{k}" for k in range(40)]
    for (start, samples), segment in zip(pieces, heard, strict=True):
        end = start + len(samples) / SAMPLE_RATE
        (word,) = segment.words
        # What reached out of the piece into a gap is cut off.
        assert (segment.start_s, segment.end_s) == (start, pytest.approx(end))
        assert (word.start_s, word.end_s) == (pytest.approx(start), pytest.approx(end))
        assert word.word == f"w{segment.text[1:]}"
        assert (segment.language, segment.language_probability) == (
            "en",
            0.9,
        )


def test_short_pieces_share_windows():
    reader = ScriptedReader()
    recognise(reader, pieces_of(*[1.5] * 30), language="en")
    # 30 pieces of 1.5 s and a gap of 0.5 s each: 15 to a window.
    assert [len(pieces) for pieces, *_ in reader.read_with] == [15, 15]


def test_after_each_window_it_says_how_much_is_heard():
    told, reader = [], ScriptedReader(deaf_to={16: True})
    recognise(reader, pieces_of(*[1.5] * 30), language="en", told=told.append)
    assert told == [0.5, 1.0, 1.0], "the last is of a piece that was heard again"

    def enough(share: float) -> None:
        raise TimeoutError

    reader = ScriptedReader()
    with pytest.raises(TimeoutError):
        recognise(reader, pieces_of(*[1.5] * 30), language="en", told=enough)
    assert len(reader.read_with) == 1


def test_the_language_is_found_once_and_no_window_encoded_twice():
    reader = ScriptedReader(spoken={"it": 0.8, "en": 0.2})
    pieces = pieces_of(*[20.0] * 9)
    heard = recognise(reader, pieces)
    assert reader.asked_language == 5
    assert len(reader.encoded) == 9
    assert {language for _, language, _ in reader.read_with} == {"it"}
    assert [segment.language for segment in heard] == ["it"] * len(pieces)
    assert [segment.language_probability for segment in heard] == pytest.approx([0.8] * len(pieces))


def test_an_unsure_language_is_none_with_its_probability():
    reader = ScriptedReader(spoken={"it": 0.4, "en": 0.35})
    pieces = pieces_of(3, 4)
    heard = recognise(reader, pieces)
    assert [segment.language for segment in heard] == [None] * len(pieces)
    assert [segment.language_probability for segment in heard] == pytest.approx([0.4] * len(pieces))
    assert reader.read_with[0][1] == "it"  # heard as the likeliest all the same


def test_a_given_language_is_believed():
    reader = ScriptedReader()
    (segment,) = recognise(reader, pieces_of(3), language="fr")
    assert (segment.language, segment.language_probability, reader.asked_language) == ("fr", None, 0)


def test_pieces_that_were_missed_are_heard_again_among_themselves():
    reader = ScriptedReader(deaf_to={2: True})
    heard = recognise(reader, pieces_of(2, 2, 2, 2), language="en")
    assert [segment.text for segment in heard] == ["w0", "w1", "w2", "w3"]
    assert [pieces for pieces, *_ in reader.read_with] == [(0, 1, 2, 3), (2,)]


def test_what_is_not_understood_twice_is_no_speech():
    heard = recognise(ScriptedReader(deaf_to={2: False}), pieces_of(2, 2, 2, 2), language="en")
    assert [segment.text for segment in heard] == ["w0", "w1", "w3"]


def test_a_doubtful_second_hearing_does_not_count():
    reader = ScriptedReader(deaf_to={1: True}, logprob=-2.0)
    heard = recognise(reader, pieces_of(2, 2), language="en")
    assert len(reader.read_with) == 2
    assert [(segment.text, segment.avg_logprob) for segment in heard] == [("w0", -2.0)]


def test_pieces_of_a_text_in_circles_are_heard_alone_and_carefully():
    reader = ScriptedReader(circling_over=2)
    heard = recognise(reader, pieces_of(9, 9, 9, 20), language="en")
    assert [segment.text for segment in heard] == ["w0", "w1", "w2", "w3"]
    assert reader.read_with == [
        ((0, 1, 2), "en", False),
        ((3,), "en", False),
        ((0,), "en", True),
        ((1,), "en", True),
        ((2,), "en", True),
    ]


def test_silence_and_crumbs_are_not_given_to_the_network():
    reader = ScriptedReader()
    silence = [
        (0.0, np.zeros(16000, np.float32)),
        (2.0, np.ones(1, np.float32)),
        (3.0, np.zeros(0, np.float32)),
    ]
    assert recognise(reader, silence) == [] == recognise(reader, [])
    assert reader.encoded == []


@pytest.mark.parametrize(
    ("pieces", "message"),
    [
        ([(0.0, np.full(100, np.nan, np.float32))], "piece 0 has values"),
        ([(0.0, np.full(100, np.inf, np.float32))], "piece 0 has values"),
        ([(np.nan, np.zeros(100, np.float32))], "piece 0 has values"),
        ([(0.0, np.zeros((2, 100), np.float32))], "shape"),
        ([(0.0, np.zeros(30 * SAMPLE_RATE + 1, np.float32))], "over 30 s"),
        ([(0.0, np.zeros(SAMPLE_RATE)), (0.5, np.zeros(10))], "piece 1 starts at 0.5 s"),
    ],
)
def test_pieces_that_are_none(pieces, message):
    with pytest.raises(ValueError, match=message):
        recognise(ScriptedReader(), pieces)


def test_a_language_that_the_model_does_not_know():
    with pytest.raises(UserError, match="does not know the language 'xx'"):
        recognise(ScriptedReader(), pieces_of(1), language="xx")
    english = ScriptedReader()
    english.multilingual, english.languages = False, ("en",)
    assert "English only" in whisper.Whisper(english, "").refuses("fr")
    (segment,) = recognise(english, pieces_of(1))
    assert (segment.language, segment.language_probability, english.asked_language) == ("en", None, 0)


class ScriptedAligner:
    """A stand-in for the network and its tokenizer: a token is a word or a mark, and one step of 20 ms long."""

    eot, sot_sequence = 9999, (1,)

    def __init__(self, *texts: str) -> None:
        self.texts = texts

    def split_to_word_tokens(self, tokens):
        return [*self.texts, "<eot>"], [[token] for token in tokens]

    def align(self, encoded, start, tokens, frames, median_filter_width):
        self.text_token_probs = [0.5] * len(self.texts)
        self.alignments = [(i, 2 * i + k) for i in range(len(self.texts) + 1) for k in (0, 1)]
        return [self]


def test_marks_join_their_words_and_move_no_edge():
    scripted = ScriptedAligner(" Hello", ",", " (", "you", ")", " there", ".", '"')
    words = aligned_words(scripted, None, scripted, tuple(range(8)), 100)
    assert [word.text for word in words] == [" Hello,", " (you)", ' there."']
    assert [(word.start, word.end) for word in words] == [(0, 640), (1920, 2560), (3200, 3840)]
    assert words[0].logprob == pytest.approx(np.log(0.5))
    assert words[0].tokens == 1
    assert aligned_words(scripted, None, scripted, (), 100) == ()


def test_a_folder_is_a_model_where_its_files_are(tmp_path):
    with pytest.raises(BackendUnavailable, match=r"has no model\.bin"):
        find_model(str(tmp_path))
    (tmp_path / "model.bin").write_bytes(b"abc")
    with pytest.raises(BackendUnavailable, match=r"has no tokenizer\.json"):
        find_model(str(tmp_path))
    (tmp_path / "tokenizer.json").write_text("{}")
    found = find_model(str(tmp_path))
    assert (found.folder, found.name) == (tmp_path, tmp_path.name)
    assert found.sha256 == weights.file_sha256(tmp_path / "model.bin")
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "model.bin",
        "tokenizer.json",
    ]  # nothing was put there


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(BackendUnavailable, match="there is no folder"):
        find_model(str(tmp_path / "nowhere"))


def test_a_model_that_does_not_load_says_so(tmp_path):
    (tmp_path / "model.bin").write_bytes(b"not a model")
    (tmp_path / "tokenizer.json").write_text("{}")
    (tmp_path / "config.json").write_text(json.dumps({}))
    with pytest.raises(BackendUnavailable, match="does not load"):
        whisper.load("cpu", TranscribeOptions(model=str(tmp_path)))


@pytest.fixture
def no_hub(tmp_path, monkeypatch):
    """An empty cache of the hub, and a network that must not be asked."""
    import faster_whisper.utils
    import huggingface_hub

    real = huggingface_hub.snapshot_download

    def local_only(*args, local_files_only=False, **options):
        assert local_files_only
        return real(*args, local_files_only=True, **{**options, "cache_dir": str(tmp_path)})

    monkeypatch.setattr(faster_whisper.utils.huggingface_hub, "snapshot_download", local_only)


@pytest.mark.parametrize(
    ("model", "repository"),
    [("large-v3", "Systran/faster-whisper-large-v3"), ("someone/her-model", "someone/her-model")],
)
def test_a_model_of_the_hub_that_is_not_here_says_what_to_type(no_hub, model, repository):
    with pytest.raises(BackendUnavailable, match=f"hf download {repository}") as caught:
        find_model(model)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("model", ["bose", "owner/name/more"])
def test_a_model_that_nobody_knows(no_hub, model):
    with pytest.raises(UserError, match="there is no Whisper model"):
        find_model(model)


def test_without_the_package_it_is_said_what_to_install(monkeypatch):
    monkeypatch.setattr(
        whisper_models, "_package_problem", lambda: "faster_whisper is not installed; type `x`"
    )
    with pytest.raises(BackendUnavailable, match="not installed; type"):
        whisper.load()


def test_number_formats():
    assert compute_type("auto", "cpu") == "int8"
    assert compute_type("float32", "cpu") == "float32"
    with pytest.raises(UserError, match="precision=int7"):
        compute_type("int7", "cpu")
    with pytest.raises(BackendUnavailable, match="float32"):
        compute_type("bfloat16", "cpu")


@pytest.mark.parametrize("options", [TranscribeOptions(threads=0), TranscribeOptions(beam=0)])
def test_options_out_of_range(options):
    with pytest.raises(UserError, match="use threads from 1"):
        whisper.load("cpu", options)
