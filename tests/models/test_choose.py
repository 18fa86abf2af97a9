from __future__ import annotations

import math

import numpy as np
import pytest

from pipeline.errors import UserError
from pipeline.models.separation import BACKEND_NAMES, BackendUnavailable, Separator, choose, load_backend
from pipeline.models.separation.choose import forget_backends, stem_statistics
from pipeline.models.separation.midside import MidSide


@pytest.fixture(autouse=True)
def empty_store(tmp_path, monkeypatch):
    """No weights anywhere, and nothing loaded."""
    monkeypatch.setenv("SOUNDMILL_WEIGHTS", str(tmp_path))
    forget_backends()
    yield
    forget_backends()


class FakeSeparator(Separator):
    """A stand-in whose loading is counted."""

    name, version, sources = "fake", "1", ("a", "b")
    loads = 0
    unavailable = ""

    @classmethod
    def load(cls, device="cpu"):
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


def test_the_default_list_ends_at_midside_with_every_reason():
    choice = choose(BACKEND_NAMES, load_backend, channels=2, samples=44100)
    assert isinstance(choice.separator, MidSide)
    assert choice.fallback.stage == "separation"
    assert (choice.fallback.wanted, choice.fallback.used) == ("demucs", "midside")
    assert choice.fallback.reason == (
        "demucs: not part of this version; openunmix: not part of this version; "
        "spleeter: spleeter-2stems weights are missing: python jobs/models.py fetch spleeter-2stems"
    )


def test_the_first_choice_leaves_no_fallback():
    separator, fallback = choose(["midside", "spleeter"], load_backend, channels=2, samples=1)
    assert separator.name == "midside"
    assert fallback is None


def test_nothing_is_left_for_mono_without_weights():
    separator, fallback = choose(["spleeter", "midside"], load_backend, channels=1, samples=44100)
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
    load_backend("fake", "other")
    assert fake.loads == 2


def test_that_a_backend_is_missing_is_found_out_once(fake, monkeypatch):
    monkeypatch.setattr(fake, "unavailable", "no weights")
    for _ in range(3):
        with pytest.raises(BackendUnavailable, match="^no weights$"):
            load_backend("fake")
    assert fake.loads == 1
    forget_backends()
    monkeypatch.setattr(fake, "unavailable", "")
    assert load_backend("fake").name == "fake"


def test_statistics_of_known_levels():
    time = np.arange(44100) / 44100
    sine = np.sin(2 * np.pi * 441 * time)
    stems = np.stack([np.stack([sine, sine]), np.stack([sine, sine]) / 10]).astype(np.float32)
    seen = []
    shares, levels = stem_statistics(iter(np.split(stems, 10, axis=-1)), ("vocals", "rest"), seen.append)
    assert shares["vocals"] == pytest.approx(100 / 101, abs=1e-6)
    assert sum(shares.values()) == pytest.approx(1.0, abs=1e-12)
    assert levels["vocals"] == pytest.approx(-10 * math.log10(2), abs=1e-4)
    assert levels["rest"] == pytest.approx(-10 * math.log10(2) - 20, abs=1e-4)
    np.testing.assert_array_equal(np.concatenate(seen, axis=-1), stems)


def test_blocks_do_not_change_the_statistics():
    stems = np.random.default_rng(0).standard_normal((2, 2, 5000)).astype(np.float32)
    whole = stem_statistics([stems], ("a", "b"))
    parts = stem_statistics(np.split(stems, [1, 7, 4096], axis=-1), ("a", "b"))
    assert parts.shares == pytest.approx(whole.shares, rel=1e-12)
    assert parts.rms_dbfs == pytest.approx(whole.rms_dbfs, rel=1e-12)


def test_silence_has_no_shares_and_no_level():
    nothing = {"a": None, "b": None}
    assert stem_statistics([np.zeros((2, 2, 9), np.float32)], ("a", "b")) == (nothing, nothing)
    assert stem_statistics([], ("a", "b")) == (nothing, nothing)
    half = np.zeros((2, 2, 9), np.float32)
    half[0] = 0.5
    shares, levels = stem_statistics([half], ("a", "b"))
    assert shares == {"a": 1.0, "b": 0.0}
    assert levels["a"] == pytest.approx(20 * math.log10(0.5))
    assert levels["b"] is None


def test_statistics_refuse_what_they_cannot_sum():
    with pytest.raises(ValueError, match="NaN"):
        stem_statistics([np.full((2, 2, 3), np.nan, np.float32)], ("a", "b"))
    with pytest.raises(ValueError, match="not one of the stems"):
        stem_statistics([np.zeros((3, 2, 3), np.float32)], ("a", "b"))
