"""Golden vectors: the same on every machine with the same libraries, another with another algorithm."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import torch

from pipeline.features import REGISTRY, golden
from pipeline.features.golden import (
    Golden,
    OtherNumbersError,
    compare,
    golden_signal,
    golden_values,
    told_versions,
)

RATE = 22050


@pytest.fixture(scope="module")
def extractors():
    return [REGISTRY[name]() for name in sorted(REGISTRY)]


@pytest.fixture(scope="module")
def values(extractors):
    return golden_values(extractors, RATE)


def test_every_extractor_has_a_small_vector_that_json_can_hold(values):
    assert set(values) == set(REGISTRY)
    assert all(1 <= len(vector) <= 200 for vector in values.values())
    assert json.loads(json.dumps(values, allow_nan=False)) == values
    assert {n for n, vector in values.items() if golden._UNDEFINED in vector} == set(), "it is heard by all"


def test_the_signal_is_always_the_same():
    signal = golden_signal()
    assert signal.shape == (2, 132300)
    assert 0.5 < np.abs(signal).max() < 1
    np.testing.assert_array_equal(signal, golden_signal())
    # From the frozen stream of RandomState: these were written down once.
    np.testing.assert_allclose(signal[:, 77], [-0.3314690589904785, -0.27782779932022095], rtol=1e-5)


def test_the_vector_does_not_depend_on_the_company(extractors, values):
    assert golden_values(extractors, RATE) == values
    alone = golden_values([REGISTRY["key"]()], RATE)
    assert compare(values, alone) == []
    assert set(alone) == {"key"}


@pytest.mark.parametrize("seed", range(3))
def test_rounding_errors_of_another_cpu_stay_within_the_tolerance(extractors, values, seed, monkeypatch):
    """A change of each sample by half a unit in its last place is more than another order of summing makes."""
    signal, random = golden_signal(), np.random.RandomState(seed)
    moved = (signal * (1 + 6e-8 * random.uniform(-1, 1, signal.shape))).astype(np.float32)
    assert (moved != signal).any()
    monkeypatch.setattr(golden, "golden_signal", lambda: moved)
    assert compare(values, golden_values(extractors, RATE)) == []


def test_another_window_is_another_algorithm(values, monkeypatch):
    """Symmetric instead of periodic: a change of one part in 2048."""
    from pipeline.dsp import stft
    from pipeline.features import band_energy, mel, quality, spectral

    for module in (band_energy, mel, quality, spectral, stft):
        monkeypatch.setattr(module, "hann_window", lambda n: torch.hann_window(n, periodic=False))
    names = ("band_energy", "mel", "mfcc", "spectral")
    lines = compare(values, golden_values([REGISTRY[name]() for name in names], RATE))
    assert [line.split(":")[0] for line in lines] == list(names)


def test_another_resampler_is_another_algorithm(extractors, values, monkeypatch):
    def linear(samples, rate, target_rate, channels):
        mono = samples.mean(axis=0, dtype=np.float32)
        time = np.arange(round(len(mono) * target_rate / rate)) * rate / target_rate
        return np.interp(time, np.arange(len(mono)), mono)[None].astype(np.float32)

    monkeypatch.setattr(golden, "make_view", linear)
    named = {line.split(":")[0] for line in compare(values, golden_values(extractors, RATE))}
    assert named >= {"mel", "mfcc", "chroma", "spectral", "band_energy"}
    assert "loudness" not in named, "it reads the file's own rate"


def test_a_louder_signal_is_told_by_its_levels(values, monkeypatch):
    louder = (1.001 * golden_signal()).astype(np.float32)  # 0.009 dB
    monkeypatch.setattr(golden, "golden_signal", lambda: louder)
    lines = compare(values, golden_values([REGISTRY["loudness"]()], RATE))
    assert [line.split(":")[0] for line in lines] == ["loudness"]


def test_each_channel_is_measured_where_an_extractor_reads_them():
    one = dataclasses.replace(REGISTRY["mel"](), channels="each")
    [vector] = golden_values([one], RATE).values()
    [mix] = golden_values([REGISTRY["mel"]()], RATE).values()
    assert vector != mix


def test_an_extractor_that_fails_on_everything_has_a_vector_that_says_so():
    impossible = REGISTRY["mel"](fmin=20_000.0)
    vector = golden_values([impossible], RATE)
    assert [len(v) for v in vector.values()] == [1]
    assert compare(vector, golden_values([impossible], RATE)) == []


def test_comparing_names_the_largest_difference():
    expected = {"a": [100.0, 1.0, 0.0], "b": [1.0], "c": [5.0], "only here": [1.0]}
    assert compare(expected, {"a": [100.005, 1.00005, 0.00005], "b": [1.0]}) == []
    found = {"a": [100.5, 1.5, 0.0], "b": [golden._UNDEFINED], "c": [5.0, 6.0], "only there": [1.0]}
    assert compare(expected, found) == [
        "a: 1.5 instead of 1",
        "b: undefined instead of 1",
        "c: 2 numbers instead of 1",
    ]
    assert compare({"a": [float("inf")]}, {"a": [1.0]})
    assert compare({"a": [float("nan")]}, {"a": [1.0]})


def test_versions_that_differ_are_told():
    here = golden.versions()
    assert here["torch"]
    assert here["numpy"] == np.__version__
    assert told_versions({**here, "torch": "1.0"}, here) == f"torch {here['torch']} here, 1.0 there"
    assert "the CPU" in told_versions(here, here)


def test_a_node_with_other_numbers_is_refused_in_one_line(extractors, values):
    assert Golden(values, golden.versions()).refusal(extractors, RATE) is None
    moved = {**values, "key": [values["key"][0] + 0.01, *values["key"][1:]]}
    mine = golden.golden_of(extractors, RATE)
    assert mine.refusal(extractors, RATE) is None, "known already"
    refusal = Golden(moved, {**golden.versions(), "numpy": "1.0"}).refusal(extractors, RATE)
    assert isinstance(refusal, OtherNumbersError)
    message = str(refusal)
    assert "key: " in message
    assert "1.0 there" in message
    assert "\n" not in message
