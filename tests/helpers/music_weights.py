"""The weights whose stages are on where they are: out of the sight of tests that are not about them.

Whether a store has them is chance, and another test may fetch them in the middle of a run; a whole job computes more
where they have appeared. So tests see a store that lacks them, whose other folders are those of the real one, and those
that are about them see the real one.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from pipeline.errors import UserError
from pipeline.models import weights

NAMES = ("beatnet", "musicnn")
VARIABLE = "SOUNDMILL_WEIGHTS"
_REAL = "SOUNDMILL_TEST_REAL_WEIGHTS"
"""The store without anything hidden, for processes that inherit the variable above."""


def hide_music_weights() -> None:
    """Let this process and all that it starts see a store without those weights."""
    if _REAL in os.environ:
        return
    real = weights.root()
    seen = real.with_name("weights-of-tests")
    for entry in weights.catalogue():
        if entry.name not in NAMES:
            (real / entry.name).mkdir(parents=True, exist_ok=True)
            _link(seen / entry.name, real / entry.name)
    for name in NAMES:  # that somebody has fetched into it
        shutil.rmtree(seen / name, ignore_errors=True)
    os.environ[_REAL], os.environ[VARIABLE] = str(real), str(seen)


def _link(path: Path, to: Path) -> None:
    """A link that other processes may be making, too."""
    path.parent.mkdir(exist_ok=True)
    with suppress(FileExistsError):
        path.symlink_to(to, target_is_directory=True)


def real_store() -> Path:
    """The store without anything hidden."""
    return Path(os.environ.get(_REAL) or weights.root())


@contextmanager
def seen(name: str) -> Iterator[Path]:
    """The weights ``name``, fetched once if they are not in the store, which is the real one meanwhile.

    Skips where they cannot be had.
    """
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv(VARIABLE, str(real_store()))
        try:
            found = weights.find(name) or weights.fetch(name, print)
        except UserError as error:
            pytest.skip(f"no {name} weights: {error}")
        yield found


@pytest.fixture(scope="module")
def beatnet() -> Iterator[Path]:
    """BeatNet's published networks."""
    with seen("beatnet") as path:
        yield path


@pytest.fixture(scope="module")
def musicnn() -> Iterator[Path]:
    """The two networks of musicnn."""
    with seen("musicnn") as path:
        yield path
