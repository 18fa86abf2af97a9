from __future__ import annotations

import pytest

from pipeline.errors import UserError
from pipeline.models.speech.base import BackendUnavailable
from pipeline.models.speech.transcribe import choose as module
from pipeline.models.speech.transcribe.choose import choose, forget_backends, load_backend
from pipeline.models.speech.transcribe.names import BACKEND_NAMES


class FakeTranscriber:
    """A stand-in that knows English only."""

    name, version, sample_rate = "fake", "1", 16000
    loads = 0

    def model_id(self):
        return "fake"

    def refuses(self, language):
        return None if language in (None, "en") else f"it does not know {language}"

    def recognise(self, pieces, *, language=None):
        return []


@pytest.fixture(autouse=True)
def nothing_loaded(tmp_path, monkeypatch):
    monkeypatch.setenv("SOUNDMILL_WEIGHTS", str(tmp_path))
    forget_backends()
    yield
    forget_backends()


@pytest.fixture
def fake(monkeypatch):
    def load(device, options):
        FakeTranscriber.loads += 1
        return FakeTranscriber()

    def missing(device, options):
        FakeTranscriber.loads += 1
        raise BackendUnavailable("its package is missing")

    FakeTranscriber.loads = 0
    monkeypatch.setitem(module.REGISTRY, "fake", load)
    monkeypatch.setitem(module.REGISTRY, "absent", missing)


def test_all_names_are_registered():
    assert set(BACKEND_NAMES) == set(module.REGISTRY)


def test_a_backend_is_loaded_once_and_so_is_why_it_is_not_there(fake):
    assert load_backend("fake") is load_backend("fake")
    for _ in range(2):
        with pytest.raises(BackendUnavailable, match="its package"):
            load_backend("absent")
    assert FakeTranscriber.loads == 2
    forget_backends()
    load_backend("fake")
    assert FakeTranscriber.loads == 3


@pytest.mark.parametrize(
    ("name", "hint"), [("wisper", "did you mean whisper"), ("x", "use one of whisper, pocketsphinx, auto")]
)
def test_an_unknown_name(name, hint):
    with pytest.raises(UserError, match=hint):
        load_backend(name)


def test_an_empty_list():
    with pytest.raises(UserError, match="no transcription backend is named"):
        choose([])


def test_the_first_that_runs_is_taken_and_the_step_recorded(fake):
    choice = choose(["absent", "fake"])
    assert choice.transcriber.name == "fake"
    assert (choice.fallback.stage, choice.fallback.wanted, choice.fallback.used) == (
        "transcribe",
        "absent",
        "fake",
    )
    assert "its package is missing" in choice.reason
    assert choose(["fake", "absent"]).fallback is None


def test_a_language_that_the_backend_does_not_know(fake):
    choice = choose(["fake"], language="fr")
    assert choice.transcriber is None
    assert choice.fallback.used == "none"
    assert "it does not know fr" in choice.reason
    assert choose(["fake"], language="en").transcriber is not None


def test_auto_without_any_weights_says_why():
    choice = choose(["auto"])
    assert choice.transcriber is None
    assert choice.reason.startswith("whisper: ")
    assert (
        "python jobs/models.py fetch whisper-base" in choice.reason or "weights are missing" in choice.reason
    )
