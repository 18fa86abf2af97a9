"""Fixtures shared by all tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[1]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """With ``-n 2``: the tests that run jobs, which share runs, in one process, and all others in the other. More
    would not help, and two processes that compile for numba at the same time have crashed."""
    jobs = REPO / "tests" / "integration"
    for item in items:
        item.add_marker(pytest.mark.xdist_group("jobs" if item.path.is_relative_to(jobs) else "others"))
    items.sort(key=lambda item: not item.path.is_relative_to(jobs))


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
