"""Fixtures shared by all tests."""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from helpers.music_weights import hide_music_weights
from skips import pytest_addoption, pytest_configure  # noqa: F401  hooks of its own

REPO = Path(__file__).resolve().parents[1]
hide_music_weights()


# The parts of a run with ``-n 3``: whoever is through with one takes the next. Whole jobs stay together, some of which
# share runs and ports, and so does all that is quick; the others are for whoever is free. The longest come first, and
# the service, which waits for most of its time: at the end nobody would make use of that.
PARTS = (
    ("speech", ("tests/integration/test_speech", "tests/models/speech/", "tests/speech/")),
    ("inline", ("tests/integration/test_inline_run.py", "tests/integration/test_karaoke.py",
                "tests/integration/test_toy_job.py", "tests/sequences/")),
    ("masters", ("tests/mastering/", "tests/integration/test_master.py", "tests/features/")),
    ("models", ("tests/models/",)),
    ("service", ("tests/service/",)),
    ("kit", ("tests/benchmarks/",)),
    ("jobs", ("tests/integration/", "tests/pins/")),
)  # fmt: skip
ORDER = ("jobs", "others", "service", "inline", "speech", "masters", "models", "kit")


def part_of(nodeid: str) -> str:
    """The part that a test belongs to. One that starts a Ray is among the jobs: only one Ray at a time is this
    machine's, which others may look for."""
    part = next((name for name, beginnings in PARTS if nodeid.startswith(beginnings)), "others")
    return "jobs" if part in ("inline", "masters") and "ray" in nodeid.rpartition("::")[2] else part


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Part by part: a part begins where its first test stands."""
    items.sort(key=lambda item: ORDER.index(part_of(item.nodeid)))


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """By parts, in their order."""
    from xdist.scheduler import LoadScopeScheduling

    class Parts(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return part_of(nodeid)

    config.option.loadscopereorder = False
    return Parts(config, log)


HELD: set[str] = set()
"""Libraries with threads of their own that this process was held to one of."""


def pytest_runtest_setup() -> None:
    """What tests compute in this process is computed in one thread, as in an actor: where three processes share two
    cores, threads of a library that wait for each other spin for most of the time. It is not said by environment
    variables, which whatever tests start would have, too."""
    new = {"numpy", "scipy.linalg", "torch"}.intersection(sys.modules) - HELD
    if new:
        from threadpoolctl import threadpool_limits

        threadpool_limits(1)
        if "torch" in new:
            sys.modules["torch"].set_num_threads(1)
        HELD.update(new)


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
