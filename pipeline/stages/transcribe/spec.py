"""The declaration of transcription: passages of speech with their words. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from pipeline.engine.declare import Gpu, Product, Stage, Table, View
from pipeline.features.base import column, stable_key
from pipeline.stages.vad.spec import END, START, VIEW
from pipeline.stages.vad.spec import NAME as VAD

NAME = "transcribe"
WORKER = "pipeline.stages.transcribe.worker:TranscribeWorker"
VERSION = 1
# By one core, which decodes at 450 times real time: Whisper base.
WEIGHT = 32.0

_WORDS = "of the words, in their order"
PASSAGES = Table(
    "passages",
    (
        column("passage_index", pa.int32(), "1", "place in the recording, from 0"),
        START,
        END,
        column("text", pa.string(), "text", "as it was recognised, with punctuation; null where it is withheld"),
        column("language", pa.string(), "ISO 639-1", "of the recording; null where it is not sure"),
        column("language_probability", pa.float32(), "1", "0 to 1; null where the language was given"),
        column("avg_logprob", pa.float32(), "1", "mean natural log probability of the tokens"),
        column("no_speech_prob", pa.float32(), "1", "that nobody speaks, 0 to 1; null where the backend does not say"),
        column("compression_ratio", pa.float32(), "1",
               "bytes of the text over those of its deflated form: above 2.4 it repeats itself"),
        column("doubt", pa.string(), "name", "why it may be invented: repetition, no-speech, improbable; or null"),
        column("word_texts", pa.list_(pa.string()), "text", f"{_WORDS}; null where they are withheld"),
        column("word_starts_s", pa.list_(pa.float64()), "s", f"starts {_WORDS}, in time of the source"),
        column("word_ends_s", pa.list_(pa.float64()), "s", f"ends {_WORDS}, in time of the source"),
        column("word_probabilities", pa.list_(pa.float32()), "1", f"probabilities {_WORDS}, 0 to 1"),
    ),
    key="passage_index",
    count="transcribe_passages",
    description="What is said in each stretch of speech.",
    noun="passage",
)  # fmt: skip
COLUMNS = (
    column("transcribe_passages", pa.int32(), "1", "stretches of speech in which something was understood"),
    column("transcribe_language", pa.string(), "ISO 639-1", "of the recording; null where it is not sure"),
    column("transcribe_language_probability", pa.float32(), "1", "0 to 1; null where the language was given"),
    column("transcribe_backend", pa.string(), "name", "what wrote it down"),
    column("transcribe_model", pa.string(), "name", "its weights"),
)


def transcribe_stage(
    backend: str,
    model: str,
    *,
    hears: View = VIEW,
    language: str | None = None,
    redact: tuple[str, ...] = (),
    options: Mapping[str, Any],
    card_bytes: int = 0,
) -> Stage:
    """The stage that writes down what is said.

    Args:
        backend: its name.
        model: its version and weights.
        hears: the view that it reads.
        language: ISO 639-1; None finds it out.
        redact: what is withheld of ``text`` and ``words``.
        options: of `pipeline.models.speech.transcribe.names.TranscribeOptions`.
        card_bytes: what it takes of a card; 0 keeps it on the CPU.
    """
    said = {
        "model": model,
        "backend": backend,
        "language": language,
        "beam": options.get("beam"),
        "hears": hears.name,
    }
    key = stable_key({"name": NAME, "version": VERSION, "redact": sorted(redact), **said})
    arguments = {"backend": backend, "language": language, "redact": redact, "hears": hears}
    return Stage(
        NAME,
        WORKER,
        (transcribe_product(key),),
        (hears,),
        needs=(VAD,),
        arguments={**arguments, "options": dict(options)},
        weight=WEIGHT,
        # A maker of views and who reads them share a process, and denoising is none for a card.
        gpu=Gpu("windows", 1, 1, needs_bytes=card_bytes) if card_bytes and hears == VIEW else None,
        torch=False,
        # Of what is withheld nothing is kept elsewhere either.
        kept=None if redact else {},
    )


def transcribe_product(key: str | None = None) -> Product:
    """What is filled: computed where there is a ``key``."""
    return Product(
        NAME,
        COLUMNS,
        key=key,
        stage=NAME,
        timed=NAME,
        tables=(PASSAGES,),
        version_column="transcribe_model",
        rank=4,
        title="what is said",
    )
