from __future__ import annotations

import pytest
import torch

from pipeline.errors import UserError
from pipeline.models.separation import AUTO, BACKEND_NAMES, BackendUnavailable, Separator, load_backend
from pipeline.models.separation.choose import choose, forget_backends
from pipeline.models.separation.midside import MidSide


@pytest.fixture(autouse=True)
def empty_store(tmp_path, monkeypatch):
    """No weights anywhere, and nothing loaded."""
    monkeypatch.setenv("SOUNDMILL_WEIGHTS", str(tmp_path))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    forget_backends()
    yield
    forget_backends()


class FakeSeparator(Separator):
    """A stand-in whose loading is counted."""

    name, version, sources = "fake", "1", ("vocals", "other")
    device, cpu_speed = torch.device("cpu"), 1.0
    loads = 0
    unavailable = ""

    @classmethod
    def load(cls, device="cpu", options=None):
        cls.loads += 1
        if cls.unavailable:
            raise BackendUnavailable(cls.unavailable)
        return cls()


@pytest.fixture
def fake(monkeypatch):
    from pipeline.models.separation import base

    monkeypatch.setitem(base.REGISTRY, "fake", FakeSeparator)
    monkeypatch.setattr(FakeSeparator, "loads", 0)
    return FakeSeparator


def test_a_list_ends_at_midside_with_every_reason():
    choice = choose(BACKEND_NAMES, load_backend, channels=2, samples=44100)
    assert isinstance(choice.separator, MidSide)
    assert choice.fallback.stage == "separation"
    assert (choice.fallback.wanted, choice.fallback.used) == ("demucs", "midside")
    for words in (
        "demucs: htdemucs is in no cache of this machine: type separation.demucs_model=htdemucs",
        "openunmix: ",
        "spleeter: spleeter-2stems weights are missing: python jobs/models.py fetch spleeter-2stems",
    ):
        assert words in choice.fallback.reason
        assert words in choice.reason


def test_auto_says_why_and_is_no_fallback():
    choice = choose([AUTO], load_backend, channels=2, samples=44100)
    assert choice.separator.name == "midside"
    assert choice.reason.startswith("auto; demucs: ")
    assert choice.fallback is None


def test_auto_without_anything_is_one():
    choice = choose([AUTO], load_backend, channels=1, samples=44100)
    assert choice.separator is None
    assert (choice.fallback.wanted, choice.fallback.used) == ("auto", "none")
    assert "midside: the track is mono" in choice.fallback.reason


@pytest.mark.parametrize(("seconds", "threads", "taken"), [
    (59, 1, "fake"), (61, 1, "midside"), (119, 2, "fake"), (600, 2, "midside"), (7200, 4, "fake"),
])  # fmt: skip
def test_auto_plans_with_the_cpu_time(fake, monkeypatch, seconds, threads, taken):
    def load(name):
        return load_backend({"demucs": "fake"}.get(name, name))

    samples = seconds * fake.sample_rate
    choice = choose([AUTO], load, samples=samples, threads=threads, auto_cpu_seconds=60)
    assert choice.separator.name == taken
    if taken == "midside":
        assert f"demucs: about {seconds / threads:.0f} s on {threads} CPU" in choice.reason
    assert choose(["demucs", "midside"], load, samples=samples).separator.name == "fake", "a list is obeyed"
    monkeypatch.setattr(fake, "device", torch.device("cuda"))
    assert choose([AUTO], load, samples=samples).separator.name == "fake", "a GPU is fast enough"


def test_models_that_do_not_fit_the_tables(fake, monkeypatch):
    monkeypatch.setattr(fake, "sources", ("vocals", "tuba"))
    with pytest.raises(BackendUnavailable, match="stems without a column: tuba"):
        load_backend("fake")
    forget_backends()
    monkeypatch.setattr(fake, "sample_rate", 48000)
    with pytest.raises(BackendUnavailable, match="48000 Hz and not at 44100"):
        load_backend("fake")


def test_the_first_choice_leaves_no_fallback():
    separator, reason, fallback = choose(["midside", "spleeter"], load_backend, channels=2, samples=1)
    assert separator.name == "midside"
    assert reason == "listed"
    assert fallback is None


def test_nothing_is_left_for_mono_without_weights():
    separator, _, fallback = choose(["spleeter", "midside"], load_backend, channels=1, samples=44100)
    assert separator is None
    assert (fallback.wanted, fallback.used) == ("spleeter", "none")
    assert "midside: the track is mono" in fallback.reason


def test_lists_that_are_wrong_are_the_users_mistake():
    with pytest.raises(UserError, match="did you mean spleeter"):
        choose(["spleter"], load_backend, channels=2, samples=1)
    with pytest.raises(UserError, match="no backend 'xyz': use one of demucs"):
        load_backend("xyz")
    with pytest.raises(UserError, match="empty"):
        choose([], load_backend, channels=2, samples=1)


def test_a_backend_is_loaded_once_per_device(fake):
    assert load_backend("fake") is load_backend("fake")
    assert fake.loads == 1
    load_backend("fake", "meta")
    assert fake.loads == 2


def test_a_backend_of_another_store_is_another_one(fake, monkeypatch, tmp_path):
    load_backend("fake")
    monkeypatch.setenv("SOUNDMILL_WEIGHTS", str(tmp_path / "empty"))
    monkeypatch.setattr(fake, "unavailable", "no weights")
    with pytest.raises(BackendUnavailable, match="^no weights$"):
        load_backend("fake")


def test_that_a_backend_is_missing_is_found_out_once(fake, monkeypatch):
    monkeypatch.setattr(fake, "unavailable", "no weights")
    for _ in range(3):
        with pytest.raises(BackendUnavailable, match="^no weights$"):
            load_backend("fake")
    assert fake.loads == 1
    forget_backends()
    monkeypatch.setattr(fake, "unavailable", "")
    assert load_backend("fake").name == "fake"
