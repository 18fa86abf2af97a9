"""Fixtures shared by all tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[1]


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
