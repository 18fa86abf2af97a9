"""Names of the transcription backends and their options: what a configuration can be checked against without them."""

from __future__ import annotations

from dataclasses import dataclass

AUTO = "auto"
BACKEND_NAMES = ("whisper", "pocketsphinx")
AUTOMATIC = ("whisper",)
"""Those that are good enough to be taken without being named, best first."""

PRECISIONS = (AUTO, "int8", "float16", "bfloat16", "float32")
SIZES = ("large-v3", "large-v3-turbo", "medium", "small", "base")
"""Whisper models for many languages, the largest first: with ``model=auto`` the first that is here, from that on which
the machine is for."""
CARD_GIB = {"tiny": 1, "base": 1, "small": 2, "medium": 5, "large-v3-turbo": 6, "large-v3": 10}
"""Model → memory that it takes of a card, GiB, as the README of openai/whisper says of its authors' own runtime, in
float16. CTranslate2 takes less; nobody has measured that here."""

STORED_MODELS = {"base": "whisper-base", "tiny.en": "whisper-tiny.en"}
"""Model → the entry of the weights store."""


@dataclass(frozen=True)
class TranscribeOptions:
    """How to transcribe.

    Args:
        model: one of `STORED_MODELS`, another name that the hub knows and that lies in its cache (``large-v3``,
            ``owner/name``), or a folder with ``model.bin``.
        precision: one of `PRECISIONS`; ``auto`` is int8 on a CPU, and on a GPU bfloat16, float16 or float32,
            whichever is the first that it computes in.
        threads: of this backend on a CPU, at least 1.
        beam: hypotheses that are followed at once, 1 to 10.
    """

    model: str = "base"
    precision: str = AUTO
    threads: int = 1
    beam: int = 5
