"""Files of a set of weights in the store, and one hash for all of them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from pipeline.errors import UserError
from pipeline.models import weights
from pipeline.models.speech.base import BackendUnavailable


def stored(name: str, filenames: Sequence[str]) -> tuple[list[Path], str]:
    """The files of the weights ``name`` with the content that the catalogue states, and the sha256 over theirs, hex.

    Native code must not be loaded, nor be given a model, that is not the very one; the others are small.

    Args:
        name: as in `pipeline.models.catalogue`.
        filenames: of the files, in the order in which they are returned and hashed.

    Raises:
        BackendUnavailable: one is missing or another than it should be; the message says what to type.
    """
    try:
        paths = [weights.checked_file(name, filename) for filename in filenames]
    except UserError as error:
        raise BackendUnavailable(str(error)) from error
    digests = [weights.file_sha256(path) for path in paths]
    return paths, hashlib.sha256("".join(digests).encode()).hexdigest()
