"""Whisper itself on prompts whose words are known."""

from __future__ import annotations

import jiwer
import numpy as np
import pytest
import soundfile
import soxr

from pipeline.errors import UserError
from pipeline.models import weights
from pipeline.models.catalogue import ENTRIES
from pipeline.models.speech.transcribe import whisper
from pipeline.models.speech.transcribe.names import STORED_MODELS, TranscribeOptions
from pipeline.models.speech.transcribe.transcript import SAMPLE_RATE
from pipeline.models.speech.transcribe.whisper_words import HeardWord

AGENT = "that agent is already logged on please enter your agent number followed by the pound key"
PROMPTS = ("agent-alreadyon", "vm-newuser", "vm-intro")


def whisper_of(model: str) -> whisper.Whisper:
    try:
        weights.fetch(STORED_MODELS[model], log=lambda line: None)
    except UserError as error:
        pytest.skip(f"no Whisper weights: {error}")
    return whisper.load("cpu", TranscribeOptions(model=model))


@pytest.fixture(scope="module")
def tiny() -> whisper.Whisper:
    return whisper_of("tiny.en")


@pytest.fixture(scope="module")
def base() -> whisper.Whisper:
    return whisper_of("base")


@pytest.fixture(scope="module")
def prompt(shared_audio):
    """``prompt("en", "vm-intro")``: samples at 16 kHz."""

    def read(language: str, name: str) -> np.ndarray:
        (path,) = (shared_audio / "speech").glob(f"{language}_*/{name}.wav")
        samples, rate = soundfile.read(path, dtype="float32")
        return soxr.resample(samples, rate, SAMPLE_RATE).astype(np.float32)

    return read


def plain(text: str) -> str:
    return " ".join("".join(c for c in text.lower() if c.isalpha() or c.isspace()).split())


def apart(*samples: np.ndarray) -> list[tuple[float, np.ndarray]]:
    """Pieces of a recording, 3 s of something else between two."""
    starts = np.cumsum([10.0, *(len(x) / SAMPLE_RATE + 3 for x in samples[:-1])])
    return list(zip(starts.tolist(), samples, strict=True))


def test_the_stored_models_are_in_the_catalogue():
    assert set(STORED_MODELS.values()) <= {entry.name for entry in ENTRIES}


def test_packed_prompts_give_the_words_of_single_ones_in_their_own_time(tiny, prompt):
    pieces = apart(*(prompt("en", name) for name in PROMPTS))
    packed = tiny.recognise(pieces)
    alone = [segment for piece in pieces for segment in tiny.recognise([piece])]
    assert plain(packed[0].text) == AGENT
    assert len(packed) == len(alone)
    # Of two that are as likely, "after the tone" and "out to the tone", the last bits of a processor choose.
    counted = jiwer.process_words(*([plain(segment.text) for segment in heard] for heard in (alone, packed)))
    assert counted.substitutions + counted.deletions + counted.insertions <= 2
    for (start, samples), segment in zip(pieces, packed, strict=True):
        assert segment.text.split() == [word.word for word in segment.words]
        times = [t for word in segment.words for t in (word.start_s, word.end_s)]
        assert times == sorted(times)
        assert start <= times[0] < start + 1
        assert times[-1] <= start + len(samples) / SAMPLE_RATE
        assert (segment.language, segment.language_probability) == ("en", None)
        assert -1 < segment.avg_logprob < 0
        assert segment.compression_ratio < 2.4
        assert all(0 < word.probability <= 1 for word in segment.words)
    # The same samples give the same words, and nothing is remembered.
    assert tiny.recognise(pieces) == packed


def test_silence_and_noise(tiny):
    rng = np.random.default_rng(0)
    assert tiny.recognise([(0.0, np.zeros(5 * SAMPLE_RATE, np.float32))]) == []
    hiss = (1e-3 * rng.standard_normal(3 * SAMPLE_RATE)).astype(np.float32)
    heard = tiny.recognise([(0.0, hiss)])
    # Whatever it makes of noise is in the piece, and its numbers are numbers.
    for segment in heard:
        assert np.isfinite([segment.avg_logprob, segment.no_speech_prob, segment.compression_ratio]).all()
        assert all(0 <= word.start_s <= word.end_s <= 3 for word in segment.words)
    assert sum(len(segment.words) for segment in heard) <= 3


def test_base_tells_languages_apart(base, prompt):
    for language, word in (("en", "agent"), ("fr", "agent"), ("it", "operatore")):
        (segment,) = base.recognise([(4.0, prompt(language, "agent-alreadyon"))])
        assert segment.language == language
        assert segment.language_probability > 0.8
        assert word in plain(segment.text)


def test_the_model_id_says_which_weights(tiny, base):
    assert tiny.model_id() != base.model_id()
    assert tiny.model_id().startswith("whisper-tiny.en@")
    assert ":int8:" in tiny.model_id()


def test_tokens_of_a_word_are_all_counted(tiny, prompt):
    samples = prompt("en", "agent-alreadyon")
    reader = tiny._reader
    found = reader.read(reader.encode(samples), len(samples), "en")
    assert all(isinstance(word, HeardWord) and word.tokens >= 1 for word in found.words)
    per_token = sum(word.logprob for word in found.words) / sum(word.tokens for word in found.words)
    # By alignment without the punctuation, and by the search with it: two views of one text.
    assert per_token == pytest.approx(found.avg_logprob, abs=0.15)
