"""The declaration of what turns and words become together: words with speakers, parts, clips, texts. No torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from pipeline.audio.views import View
from pipeline.engine.declare import Artifact, Product, Stage, Table
from pipeline.features.base import column, stable_key
from pipeline.stages.diarize.spec import NAME as DIARIZE
from pipeline.stages.transcribe.spec import NAME as TRANSCRIBE
from pipeline.stages.vad.spec import END, START, VIEW
from pipeline.stages.vad.spec import NAME as VAD

NAME = "clips"
WORKER = "pipeline.stages.clips.worker:ClipsWorker"
NATIVE = View("native", None, None)
WORDS, PARTS, CLIPS, TEXTS = "words", "parts", "clips", "texts"
PRODUCTS = (WORDS, PARTS, CLIPS, TEXTS)
VERSIONS = {WORDS: 1, PARTS: 1, CLIPS: 1, TEXTS: 2}
# A step that fails leaves the others' results: of each product those that it is made of, and can be made without.
# Words are those of the transcription.
_SPARES = {
    WORDS: (VAD, DIARIZE),
    PARTS: (VAD, DIARIZE, TRANSCRIBE),
    CLIPS: (VAD, DIARIZE, TRANSCRIBE),
    TEXTS: (VAD, DIARIZE, TRANSCRIBE),
}
# By one core, which decodes at 450 times real time; with DNSMOS of every clip.
WEIGHT = 12.0

_SPEAKER = column(
    "speaker", pa.string(), "name", "as in turns; null where that is not sure, or nobody looked"
)
_ON_WORDS = "mean over its words"
WORD_ROWS = Table(
    "words",
    (
        column("word_index", pa.int32(), "1", "place in the recording, from 0"),
        column("word", pa.string(), "text", "with its punctuation; null where it is withheld"),
        START,
        END,
        column("probability", pa.float32(), "1", "of the recogniser, 0 to 1"),
        _SPEAKER,
        column("passage_index", pa.int32(), "1", "the passage that it comes from"),
    ),
    key="word_index",
    count="words_count",
    description="Every word, with its time and its speaker.",
    noun="word",
)
PART_ROWS = Table(
    "parts",
    (
        column("part_index", pa.int32(), "1", "place in the recording, from 0"),
        START,
        END,
        column("words", pa.int32(), "1", "words in it: each is in one part"),
        column("speakers", pa.list_(pa.string()), "name", "who says them"),
        column("too_long", pa.bool_(), "1", "whether it is longer than asked for, because a word is"),
        column("path", pa.string(), "path", "its audio, below the output root; null where it is not written"),
    ),
    key="part_index",
    count="parts_count",
    description="The recording cut at times that suit it: all parts together are the whole.",
    noun="part",
)
CLIP_ROWS = Table(
    "clips",
    (
        column("segment_id", pa.string(), "name", "of the clip, unique in the output"),
        START,
        END,
        column("start_sample", pa.int64(), "sample", "of the source, at its own rate"),
        column("end_sample", pa.int64(), "sample", "the one after the last"),
        _SPEAKER,
        column("overlap_ratio", pa.float32(), "1", "how much of it two or more speak, 0 to 1"),
        column("text", pa.string(), "text", "what is said; null where it is withheld or nobody wrote it down"),
        column("language", pa.string(), "ISO 639-1", "of most of its words"),
        column("language_probability", pa.float32(), "1", f"{_ON_WORDS}, 0 to 1"),
        column("avg_logprob", pa.float32(), "1", _ON_WORDS),
        column("no_speech_prob", pa.float32(), "1", f"{_ON_WORDS}, 0 to 1"),
        column("compression_ratio", pa.float32(), "1", "bytes of its text over those of its deflated form"),
        column("snr_db", pa.float32(), "dB", "speech over what is between it; null where nothing is between"),
        column("dnsmos_sig", pa.float32(), "1", "quality of the speech, 1 to 5; predicted", "Reddy et al., 2022"),
        column("dnsmos_bak", pa.float32(), "1", "quality of the background, 1 to 5; predicted", "Reddy et al., 2022"),
        column("dnsmos_ovrl", pa.float32(), "1", "quality overall, 1 to 5; predicted", "Reddy et al., 2022"),
        column("dnsmos_p808", pa.float32(), "1", "quality by P.808, 1 to 5; predicted", "Reddy et al., 2021"),
        column("sample_rate", pa.int32(), "Hz", "of the source, and of the clip's file"),
        column("path", pa.string(), "path", "its audio, below the output root; null where it is not kept"),
        column("keep", pa.bool_(), "1", "whether it passed every threshold"),
        column("drop_reason", pa.string(), "name", "the first that it did not; null where it is kept"),
    ),
    key="segment_id",
    count="clips_count",
    description="Pieces of one speaker, cut where a person would cut, for training.",
    noun="clip",
)  # fmt: skip

COLUMNS = {
    WORDS: (
        column("words_count", pa.int32(), "1", "words"),
        column("words_per_minute", pa.float32(), "1/min", "of speech; null where there is none"),
        column("words_unsure_speaker", pa.int32(), "1", "words whose speaker is not sure"),
    ),
    PARTS: (
        column("parts_count", pa.int32(), "1", "parts that the recording was cut into"),
        column("parts_files", pa.list_(pa.string()), "path", "their audio, below the output root"),
        column("parts_gain_db", pa.float32(), "dB", "of those files: below 0 where samples lie above full scale"),
    ),
    CLIPS: (
        column("clips_count", pa.int32(), "1", "clips, kept or not"),
        column("clips_kept", pa.int32(), "1", "clips that passed every threshold"),
        column("clips_kept_s", pa.float64(), "s", "all of those together"),
        column("clips_snr_db", pa.float32(), "dB", "median of the clips"),
        column("clips_files", pa.list_(pa.string()), "path", "audio of those that are kept, below the output root"),
        column("clips_gain_db", pa.float32(), "dB", "of those files: below 0 where samples lie above full scale"),
    ),
    TEXTS: (
        column("texts_rttm", pa.string(), "path", "turns as RTTM; null where nobody speaks"),
        column("texts_srt", pa.string(), "path", "subtitles as SRT; null where there are no words"),
        column("texts_vtt", pa.string(), "path", "subtitles as WebVTT; null where there are no words"),
        column("texts_report", pa.string(), "path", "who spoke how long, and what, for people"),
    ),
}  # fmt: skip

CLIP_FILES = Artifact(
    "clip_files", ".flac", b"fLaC", files={"clips_files": "000000.flac"}, audio=True, noun="clip"
)
PART_FILES = Artifact(
    "part_files", ".flac", b"fLaC", files={"parts_files": "000000.flac"}, audio=True, noun="part"
)
RTTM = Artifact("rttm", ".rttm", b"SPEAKER ", files={"texts_rttm": "turns.rttm"}, noun="RTTM file")
SRT = Artifact("srt", ".srt", b"1\n", files={"texts_srt": "words.srt"}, noun="subtitle file")
VTT = Artifact("vtt", ".vtt", b"WEBVTT", files={"texts_vtt": "words.vtt"}, noun="subtitle file")
REPORT_BEGINS = "Speech report\n\n"
REPORT = Artifact(
    "reports", ".txt", REPORT_BEGINS.encode(), files={"texts_report": "report.txt"}, noun="text report"
)
_TABLES = {WORDS: (WORD_ROWS,), PARTS: (PART_ROWS,), CLIPS: (CLIP_ROWS,), TEXTS: ()}
_ARTIFACTS = {WORDS: (), PARTS: (PART_FILES,), CLIPS: (CLIP_FILES,), TEXTS: (RTTM, SRT, VTT, REPORT)}
_TITLES = {
    WORDS: "words with their speakers",
    PARTS: "the recording in parts",
    CLIPS: "clips for training",
    TEXTS: "RTTM, subtitles and a report",
}


def clips_stage(parameters: Mapping[str, Mapping[str, Any]], **arguments: Any) -> Stage:
    """The stage that puts turns and words together.

    Args:
        parameters: of each product that is wanted; what follows from them, of `PRODUCTS`.
        arguments: of `pipeline.stages.clips.worker.ClipsWorker`.
    """
    return Stage(
        NAME,
        WORKER,
        tuple(clips_product(name, _key(name, parameters[name])) for name in PRODUCTS if name in parameters),
        _views(parameters),
        needs=(VAD, DIARIZE, TRANSCRIBE),
        spares=_SPARES,
        arguments={"parameters": {name: dict(given) for name, given in parameters.items()}, **arguments},
        weight=WEIGHT,
        torch=False,
        kept=None,
    )


def _views(parameters: Mapping[str, Mapping[str, Any]]) -> tuple[View, ...]:
    """What is heard: the recording itself only where pieces of it are written."""
    native = (NATIVE,) if any(given.get("files") for given in parameters.values()) else ()
    return (*native, *((VIEW,) if CLIPS in parameters else ()))


def _key(product: str, parameters: Mapping[str, Any]) -> str:
    return stable_key(
        {"name": product, "version": VERSIONS[product], "parameters": sorted(parameters.items())}
    )


def clips_product(name: str, key: str | None = None) -> Product:
    """What is filled: computed where there is a ``key``."""
    return Product(
        name,
        COLUMNS[name],
        key=key,
        stage=NAME,
        timed=f"{NAME}.{name}",
        tables=_TABLES[name],
        artifacts=_ARTIFACTS[name],
        version=str(VERSIONS[name]),
        rank=5 + PRODUCTS.index(name),
        title=_TITLES[name],
    )


def clips_products(names: Sequence[str] = PRODUCTS) -> tuple[Product, ...]:
    """All of them, none computed."""
    return tuple(clips_product(name) for name in names)
