"""Chroma of spectral peaks: tones, their partials, their tuning, and drums."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pipeline.audio import synth
from pipeline.dsp.harmonics import frame_lengths, harmonic_chroma
from pipeline.dsp.stft import power_spectrogram

RATE = 22050
TIME = np.arange(2 * RATE) / RATE


def chroma(samples: np.ndarray, tuning: float = 0.0) -> np.ndarray:
    """Mean chroma of all frames but those at the ends, largest 1."""
    n_fft, hop = frame_lengths(RATE)
    power = power_spectrogram(torch.from_numpy(samples.astype(np.float32)), n_fft, hop)
    found = harmonic_chroma(power, RATE, n_fft, tuning).numpy()[:, 2:-2].mean(axis=1)
    return found / found.max()


def tone(midi: float, partials: int = 1) -> np.ndarray:
    hz = 440.0 * 2 ** ((midi - 69) / 12)
    return sum(np.sin(2 * np.pi * n * hz * TIME) / n for n in range(1, partials + 1))


@pytest.mark.parametrize(("rate", "n_fft"), [(8000, 2048), (22050, 4096), (44100, 8192), (192000, 32768)])
def test_a_frame_lasts_about_as_long_at_any_rate(rate, n_fft):
    assert frame_lengths(rate) == (n_fft, n_fft // 2)


@pytest.mark.parametrize("midi", [48, 61, 69, 83])
def test_a_sine_is_its_pitch_class_alone(midi):
    found = chroma(tone(midi))
    assert np.argmax(found) == midi % 12
    assert np.delete(found, midi % 12).max() < 0.01


def test_a_detuned_sine_counts_where_the_tuning_puts_it():
    assert chroma(tone(60.4), 0.4)[0] == 1.0
    assert np.delete(chroma(tone(60.4), 0.4), 0).max() < 0.01
    # Halfway between two it counts for neither.
    n_fft, hop = frame_lengths(RATE)
    power = power_spectrogram(torch.from_numpy(tone(60.5).astype(np.float32)), n_fft, hop)
    assert float(harmonic_chroma(power, RATE, n_fft, 0.0)[:, 5].sum()) < 0.01 * float(
        power[:, 5].max().sqrt()
    )


def test_partials_count_for_their_note():
    # Of six partials one is a fifth and one a third above; as partials of the first they count for its note.
    found = chroma(tone(60, 6))
    assert np.argmax(found) == 0
    assert found[7] < 0.25
    assert found[4] < 0.15


def test_a_fifth_that_is_played_is_not_taken_for_a_partial_alone():
    found = chroma(tone(60) + tone(67))
    assert set(np.argsort(-found)[:2]) == {0, 7}
    assert np.sort(found)[-3] < 0.01


def test_drums_hardly_change_it():
    chord = sum(tone(midi, 6) for midi in (60, 64, 67))
    drums = synth.drum_pattern(120, 2, RATE)
    alone, with_drums = chroma(chord), chroma(chord / np.abs(chord).max() + drums / np.abs(drums).max())
    assert np.abs(alone - with_drums).max() < 0.1


@pytest.mark.parametrize("frames", [0, 3])
def test_silence_has_none(frames):
    n_fft, _ = frame_lengths(RATE)
    found = harmonic_chroma(torch.zeros(n_fft // 2 + 1, frames), RATE, n_fft, 0.0)
    assert found.shape == (12, frames)
    assert not found.any()


def test_long_and_short_pieces_of_a_track_are_the_same():
    n_fft, hop = frame_lengths(RATE)
    power = power_spectrogram(torch.from_numpy(tone(60, 6).astype(np.float32)), n_fft, hop)
    whole = harmonic_chroma(power, RATE, n_fft, 0.0)
    parts = [
        harmonic_chroma(power[:, start : start + 7], RATE, n_fft, 0.0)
        for start in range(0, power.shape[1], 7)
    ]
    assert torch.equal(whole, torch.cat(parts, dim=1))
