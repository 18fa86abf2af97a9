"""Files that a stage writes itself, because they are too large or too many to travel in a row."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from pipeline.dataset.output import Output
from pipeline.engine.batch import Blob

_CHUNK = 1 << 20


def uploaded(output: Output, path: str, name: str, shape: Sequence[int], file: Path) -> Blob:
    """Copy a local file to ``path`` below the output root; what the row of its asset says of it.

    Args:
        name: of the file among those of its asset.
        shape: channels and samples.
    """
    digest = hashlib.sha256()
    with file.open("rb") as written:
        while chunk := written.read(_CHUNK):
            digest.update(chunk)
    output.upload(path, file)
    return Blob(path, name, list(shape), None, file.stat().st_size, sha256=digest.hexdigest())
