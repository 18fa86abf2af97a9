"""Fixtures shared by all tests."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any

import pytest
from skips import pytest_addoption, pytest_configure  # noqa: F401  hooks of its own

REPO = Path(__file__).resolve().parents[1]


WHOLE_JOBS = ("tests/integration/", "tests/pins/", "tests/sequences/")


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """With ``-n 2``: the tests that run whole jobs, some of which share runs, in one process, and all others in the
    other. More would not help, and two processes that compile for numba at the same time have crashed."""
    from xdist.scheduler import LoadScopeScheduling

    class Halves(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return "jobs" if nodeid.startswith(WHOLE_JOBS) else "others"

    return Halves(config, log)


@pytest.fixture(autouse=True)
def no_lock_is_left():
    """A lock that a test forgets goes on beating, into the tests after it."""
    before = set(threading.enumerate())
    yield
    left = [t for t in threading.enumerate() if t.name == "output-lock" and t not in before]
    assert not left, "the test acquired an OutputLock and did not release it"


@pytest.fixture(scope="session")
def repo() -> Path:
    """The checkout."""
    return REPO


@pytest.fixture(scope="session")
def shared_audio() -> Path:
    """Real music and speech: ``SOUNDMILL_TEST_AUDIO``, or ``../shared/audio`` beside the checkout."""
    folder = Path(os.environ.get("SOUNDMILL_TEST_AUDIO", REPO.parent / "shared" / "audio"))
    if not (folder / "music").is_dir():
        pytest.skip(
            f"no real audio at {folder}; set SOUNDMILL_TEST_AUDIO to a folder with music/ and speech/"
        )
    return folder
