"""Names of the transcription backends and their options: what a configuration can be checked against without them."""

from __future__ import annotations

from dataclasses import dataclass

AUTO = "auto"
BACKEND_NAMES = ("whisper",)
"""Best first."""

PRECISIONS = (AUTO, "int8", "float16", "bfloat16", "float32")
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
