"""Fixtures of the tests of signal processing: signals, real recordings, and their spectra."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from math import gcd

import numpy as np
import pytest
import torch
from scipy.signal import resample_poly

from pipeline.audio import synth
from pipeline.features.spectra import SharedSpectra


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """Torch computes in one thread, as in an actor."""
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


@pytest.fixture(scope="session")
def synthetic(chord) -> dict[str, np.ndarray]:
    """Signals of 5 to 8 s that need no recording: float32 ``[samples]`` at 22050 Hz."""
    return synthetic_signals(chord)


def synthetic_signals(chord: np.ndarray) -> dict[str, np.ndarray]:
    """As `SYNTHETIC` names them; noise floors are as soft as those of recordings."""
    rate = 22050
    time = np.arange(6 * rate) / rate
    floor = 1e-4 * np.random.default_rng(1).standard_normal(len(time))
    sweep = 0.3 * np.sin(2 * np.pi * 40.0 * 6 / np.log(200) * (200 ** (time / 6) - 1)) + floor
    clicks = np.zeros(len(time))
    clicks[:: rate // 2] = 0.8
    bursts = np.convolve(clicks, np.exp(-np.arange(400) / 60.0))[: len(time)] + floor
    band = synth.chord_progression("A", "minor", 6, rate) + 0.3 * synth.drum_pattern(120, 6, rate)
    signals = {
        "chord": chord,
        "sweep": sweep,
        "noise": 0.1 * np.random.default_rng(2).standard_normal(5 * rate),
        "clicks": bursts,
        "band": 0.5 * band / np.abs(band).max() + floor,
        "silent edges": np.pad(chord[: 4 * rate], (rate, rate)),
    }
    return {name: samples.astype(np.float32) for name, samples in signals.items()}


SYNTHETIC = ("chord", "sweep", "noise", "clicks", "band", "silent edges")
