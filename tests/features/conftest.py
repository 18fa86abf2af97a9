"""Signals and real recordings for the tests of the extractors."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from math import gcd

import numpy as np
import pytest
import torch
from scipy.signal import resample_poly

from pipeline.features.spectra import SharedSpectra


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def spectra_of() -> Callable[..., SharedSpectra]:
    """``spectra_of(samples, rate, dsp_rate=rate)``: spectra of ``[samples]`` or ``[channels, samples]``."""

    def build(samples: np.ndarray, rate: int, dsp_rate: int | None = None) -> SharedSpectra:
        native = np.atleast_2d(np.asarray(samples, dtype=np.float32))
        mono = native.mean(axis=0)
        if dsp_rate not in (None, rate):
            mono = resampled(mono, rate, dsp_rate)
        return SharedSpectra(mono, dsp_rate or rate, native, rate)

    return build


def resampled(samples: np.ndarray, rate: int, wanted: int) -> np.ndarray:
    """``samples`` at another rate, float32."""
    if rate == wanted:
        return samples
    common = gcd(rate, wanted)
    return resample_poly(samples, wanted // common, rate // common, axis=-1).astype(np.float32)


@pytest.fixture(scope="session")
def music(shared_audio) -> dict[str, np.ndarray]:
    """40 s of two rock songs, each the sum of its two stems: float32 ``[2, samples]`` at 44.1 kHz."""
    import soundfile

    songs = {}
    for folder in sorted((shared_audio / "music").iterdir()):
        stems = []
        for stem in ("song.ogg", "guitar.ogg"):
            with soundfile.SoundFile(folder / stem) as file:
                file.seek(30 * file.samplerate)
                stems.append(file.read(40 * file.samplerate, dtype="float32", always_2d=True).T)
        songs[folder.name] = np.ascontiguousarray(sum(stems))
    return songs


@pytest.fixture(scope="session")
def speech(shared_audio) -> dict[str, np.ndarray]:
    """One spoken prompt of each speaker: float32 ``[1, samples]`` at 8 kHz."""
    import soundfile

    prompts = {}
    for folder in sorted((shared_audio / "speech").iterdir()):
        samples, rate = soundfile.read(sorted(folder.glob("*.wav"))[3], dtype="float32", always_2d=True)
        assert rate == 8000
        prompts[folder.name] = np.ascontiguousarray(samples.T)
    return prompts


@pytest.fixture(scope="session")
def at_rate() -> Callable[[np.ndarray, int, int], np.ndarray]:
    """``at_rate(samples, rate, wanted)``: the samples at another rate."""
    return resampled


@pytest.fixture(scope="session")
def chord() -> np.ndarray:
    """8 s of C major with five harmonics and a soft noise floor, mono, 22050 Hz."""
    time = np.arange(8 * 22050) / 22050
    pitches = [440 * 2 ** (semitone / 12) for semitone in (-9, -5, -2)]
    tones = sum(np.sin(2 * np.pi * h * f * time) / h for f in pitches for h in range(1, 6))
    noise = np.random.default_rng(0).standard_normal(len(time))
    return (0.1 * tones + 0.001 * noise).astype(np.float32)
