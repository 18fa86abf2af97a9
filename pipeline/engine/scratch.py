"""Temporary folders of workers: those of a process that was killed are removed by the next one that needs one."""

from __future__ import annotations

import fcntl
import functools
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_PREFIX = "soundmill-scratch-"
_ALIVE = ".alive"


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """A folder for what is written before it goes to the output; gone at the end, or with the next process's first.

    Raises:
        OSError: there is no place for one.
    """
    remove_abandoned()
    folder = Path(tempfile.mkdtemp(prefix=_PREFIX))
    try:
        # The lock is there before its name is: a folder without that name has just been begun. The system lets go of it
        # when this process ends, however it does.
        begun = folder / f"{_ALIVE}.tmp"
        with begun.open("w") as alive:
            fcntl.flock(alive, fcntl.LOCK_EX)
            begun.rename(folder / _ALIVE)
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@functools.cache
def remove_abandoned() -> None:
    """Remove the folders of processes that are no more, once in each process."""
    for alive in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*/{_ALIVE}"):
        with suppress(OSError), alive.open("w") as file:  # somebody else's, or in use
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(alive.parent, ignore_errors=True)
