"""BeatNet's weights in the store: the files of the three networks, and what they are called together. No torch."""

from __future__ import annotations

import hashlib
from pathlib import Path

from pipeline.models import weights
from pipeline.models.beats.names import WEIGHTS


def model_id() -> str:
    """``beatnet:`` and the beginning of a hash over what the catalogue says of the files; nothing is read."""
    files = weights.entry(WEIGHTS).origin.files
    together = hashlib.sha256("".join(file.sha256 for file in files).encode())
    return f"{WEIGHTS}:{together.hexdigest()[:12]}"


def checked_files() -> tuple[Path, ...]:
    """The files, each with the very content that `model_id` stands for. Raises `UserError` where one is not."""
    return tuple(weights.checked_file(WEIGHTS, path.name) for path in weights.files(WEIGHTS))
