"""The process that a command begins before it knows its work: only where it is likely to be needed."""

from __future__ import annotations

import importlib
import importlib.util
import os

import pytest

WORDS = ["source.uri=music", "output.uri=out"]


@pytest.fixture
def ahead(repo, monkeypatch):
    monkeypatch.syspath_prepend(repo / "jobs")
    module = importlib.import_module("ahead")
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    monkeypatch.setattr(module, "has_card", lambda: False)
    return module


def test_a_plain_command_is_likely_to_need_it(ahead):
    assert ahead.likely(WORDS, {})
    assert ahead.likely([*WORDS, "ray.address=inline", "perf.threads=1"], {"PERF_THREADS": "2"})


@pytest.mark.parametrize(
    "words",
    [["ray.address=local"], ["ray.address=auto"], ["perf.threads=2"], ["dry_run=true"], ["-m"], ["--help"]],
)
def test_not_where_the_command_says_otherwise(ahead, words):
    assert not ahead.likely([*WORDS, *words], {})


@pytest.mark.parametrize("environment", [{"RAY_ADDRESS": "head:6379"}, {"PERF_THREADS": "2"}])
def test_nor_where_the_environment_does(ahead, environment):
    assert not ahead.likely(WORDS, environment)


def test_nor_on_one_core_or_beside_a_card(ahead, monkeypatch):
    monkeypatch.setattr(ahead, "has_card", lambda: True)
    assert not ahead.likely(WORDS, {})
    monkeypatch.setattr(ahead, "has_card", lambda: False)
    monkeypatch.setattr(os, "cpu_count", lambda: 1)
    assert not ahead.likely(WORDS, {})


def test_nor_where_the_output_may_have_everything(ahead, tmp_path):
    (tmp_path / "tracks").mkdir()
    words = ["source.uri=music", f"output.uri={tmp_path}"]
    assert not ahead.likely(words, {})
    assert ahead.likely([*words, "output.overwrite=true"], {})
    assert ahead.likely(["source.uri=music", "output.uri=s3://bucket/out"], {})


def test_what_it_loads_is_there(ahead):
    """A module that was renamed would only be missed in the time that it saves."""
    assert all(importlib.util.find_spec(module) for module in ahead.WARM)
