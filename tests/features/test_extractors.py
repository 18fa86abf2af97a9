"""What every registered extractor must hold to, whatever it is given."""

from __future__ import annotations

import dataclasses
import math
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pytest

from pipeline.features import REGISTRY

BLOB_SUFFIXES = ("_blob", "_inline", "_shape")


def noise(channels: int, seconds: float, rate: int) -> np.ndarray:
    return 0.1 * np.random.default_rng(0).standard_normal((channels, max(1, int(seconds * rate))))


SIGNALS = {
    "empty": (np.zeros((1, 0)), 44100),
    "empty stereo": (np.zeros((2, 0)), 44100),
    "one sample": (np.full((1, 1), 0.5), 44100),
    "silence": (np.zeros((2, 44100)), 44100),
    "full-scale dc": (np.ones((1, 22050)), 22050),
    "an impulse": (np.eye(1, 22050, 5000), 22050),
    "denormals": (1e-42 * np.ones((2, 22050)), 22050),
    "int16 scale": (32768 * noise(2, 2, 22050), 22050),
    "50 ms": (noise(2, 0.05, 44100), 44100),
    "mono": (noise(1, 3.2, 22050), 22050),
    "8 channels": (noise(8, 3.2, 22050), 22050),
    "8 kHz": (noise(1, 3.2, 8000), 8000),
    "192 kHz": (noise(2, 1, 192000), 192000),
}


def pulsed_noise() -> np.ndarray:
    """Noise with a beat: 3.2 s of stereo, four times as loud for 50 ms every half second."""
    time = np.arange(int(3.2 * 22050)) / 22050
    return noise(2, 3.2, 22050) * np.where(time % 0.5 < 0.05, 4.0, 1.0)


def pulsed_chord() -> np.ndarray:
    """The beat over C major: notes at 3.2 s of stereo."""
    time = np.arange(int(3.2 * 22050)) / 22050
    notes = sum(
        np.sin(2 * np.pi * f * k * time) / k for f in (261.63, 329.63, 392.0, 523.25) for k in (1, 2, 3)
    )
    return 0.1 * pulsed_noise() + 0.2 * notes


def blob_names(extractor) -> set[str]:
    return {f.name.removesuffix("_blob") for f in extractor.columns() if f.name.endswith("_blob")}


def is_text(value) -> bool:
    return isinstance(value, str) or (isinstance(value, list) and all(isinstance(v, str) for v in value))


def scalar_names(extractor) -> set[str]:
    triples = {name + suffix for name in blob_names(extractor) for suffix in BLOB_SUFFIXES}
    return {f.name for f in extractor.columns()} - triples


@pytest.mark.parametrize("signal", SIGNALS)
@pytest.mark.parametrize("name", REGISTRY)
def test_values_are_the_declared_columns_and_finite(name, signal, spectra_of):
    extractor = REGISTRY[name]()
    extraction = extractor.extract(spectra_of(*SIGNALS[signal]))
    assert set(extraction.values) == scalar_names(extractor)
    assert set(extraction.arrays) <= blob_names(extractor)
    types = {f.name: f.type for f in extractor.columns()}
    for column, value in extraction.values.items():
        if value is None:
            continue
        pa.array([value], type=types[column])
        assert is_text(value) or np.isfinite(value).all(), column
    for array in extraction.arrays.values():
        assert array.size
        assert np.isfinite(array.astype(np.float16)).all()


@pytest.mark.parametrize("name", REGISTRY)
def test_every_value_is_defined_for_ordinary_audio(name, spectra_of):
    extractor = REGISTRY[name]()
    ordinary = pulsed_chord() if name == "key" else pulsed_noise()  # noise has no key
    extraction = extractor.extract(spectra_of(ordinary, 22050))
    assert [c for c, value in extraction.values.items() if value is None] == []
    assert set(extraction.arrays) == blob_names(extractor)


@pytest.mark.parametrize("name", REGISTRY)
def test_the_same_audio_gives_the_same_bits(name, spectra_of):
    first, second = (REGISTRY[name]().extract(spectra_of(noise(2, 3.2, 22050), 22050)) for _ in range(2))
    for column, value in first.values.items():
        np.testing.assert_array_equal(second.values[column], value)
    for key, array in first.arrays.items():
        np.testing.assert_array_equal(second.arrays[key], array)


@pytest.mark.parametrize("name", REGISTRY)
def test_columns_are_documented(name):
    extractor = REGISTRY[name]()
    assert extractor.name == name
    assert extractor.version
    assert extractor.description
    assert set(extractor.views) <= {"mono", "native"}
    columns = extractor.columns()
    assert len({f.name for f in columns}) == len(columns)
    for field in columns:
        # The edges of the bands are not an energy, and onsets are not the tempo.
        assert field.name.startswith(f"{name}_") or field.name in ("band_edges_hz", "onset_rate_hz")
        assert field.metadata[b"unit"]
        assert field.metadata[b"description"]


@pytest.mark.parametrize("name", REGISTRY)
def test_defaults_pass_their_own_check_and_are_plain(name):
    extractor = REGISTRY[name]()
    extractor.check()
    assert dataclasses.is_dataclass(extractor)
    assert type(extractor).__dataclass_params__.frozen
    for field in dataclasses.fields(extractor):
        value = getattr(extractor, field.name)
        for item in value if isinstance(value, list) else [value]:
            assert isinstance(item, (bool, int, float, str)), field.name
            assert not isinstance(item, float) or math.isfinite(item)


@pytest.mark.parametrize("name", REGISTRY)
def test_only_the_views_an_extractor_declares_are_read(name, spectra_of):
    extractor = REGISTRY[name]()
    spectra = spectra_of(noise(2, 2, 22050), 22050)
    for view in {"mono", "native"} - set(extractor.views):
        setattr(spectra, view, None)
    assert extractor.extract(spectra).values


def test_importing_the_floor_loads_neither_librosa_nor_soundfile():
    heavy = ("librosa", "soundfile", "scipy.signal", "ray", "hydra", "omegaconf", "fsspec")
    code = f"import pipeline.features, sys; print([m for m in {heavy!r} if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
