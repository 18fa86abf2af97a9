from __future__ import annotations

import numpy as np
import pytest
import scipy.signal

from pipeline.audio.metrics import si_sdr
from pipeline.models.separation.midside import MidSide
from pipeline.models.separation.separation_stream import separate_track, stream_track

RATE = 44100


def voice(seconds: float) -> np.ndarray:
    """A centred harmonic voice with vibrato and syllables, ``[2, samples]``."""
    time = np.arange(int(seconds * RATE)) / RATE
    phase = 2 * np.pi * (220 * time - 4 * np.cos(2 * np.pi * 5 * time) / 5)
    tone = sum(np.sin(k * phase) / k for k in range(1, 20)) * (np.sin(2 * np.pi * 1.5 * time) > -0.3)
    return np.stack([tone, tone]).astype(np.float32) * 0.1


def wide_music(seconds: float) -> np.ndarray:
    """Pink-ish noise and chords that differ between the channels, over a centred 60 Hz bass."""
    rng = np.random.default_rng(3)
    time = np.arange(int(seconds * RATE)) / RATE
    noise = scipy.signal.lfilter([0.05], [1, -0.95], rng.standard_normal((2, len(time))))
    left = sum(np.sin(2 * np.pi * f * time) for f in (261.6, 329.6, 392.0))
    right = sum(np.sin(2 * np.pi * f * time) for f in (277.2, 349.2, 415.3))
    bass = np.sin(2 * np.pi * 60 * time)
    return (0.3 * noise + 0.03 * np.stack([left, right]) + 0.1 * bass).astype(np.float32)


def band_energy(audio: np.ndarray, high: float) -> float:
    spectrum = np.abs(np.fft.rfft(audio * np.hanning(audio.shape[-1]))) ** 2
    return float(spectrum[:, np.fft.rfftfreq(audio.shape[-1], 1 / RATE) < high].sum())


@pytest.fixture(scope="module")
def separated():
    speech, music = voice(6.0), wide_music(6.0)
    return speech, music, speech + music, separate_track(MidSide(), speech + music)


def test_both_stems_come_closer_to_their_sources(separated):
    speech, music, mix, (vocals, accompaniment) = separated
    assert si_sdr(vocals, speech) > si_sdr(mix, speech) + 6
    assert si_sdr(accompaniment, music) > si_sdr(mix, music) + 6


def test_stems_sum_to_the_mix(separated):
    _, _, mix, stems = separated
    np.testing.assert_allclose(stems.sum(axis=0), mix, atol=1e-6)


def test_bass_stays_in_the_accompaniment(separated):
    _, _, mix, (_, accompaniment) = separated
    change = 10 * np.log10(band_energy(accompaniment, 100) / band_energy(mix, 100))
    assert abs(change) < 0.5


def test_side_signal_stays_in_the_accompaniment(separated):
    _, _, mix, (vocals, accompaniment) = separated
    np.testing.assert_array_equal(vocals[0], vocals[1])
    np.testing.assert_allclose(accompaniment[0] - accompaniment[1], mix[0] - mix[1], atol=1e-6)


@pytest.mark.parametrize("frames", [1, 7, 100])
def test_groups_do_not_change_the_result(separated, frames):
    _, _, mix, stems = separated
    np.testing.assert_allclose(separate_track(MidSide("cpu", frames), mix), stems, atol=1e-6)


@pytest.mark.parametrize("samples", [0, 1, 1023, 4096, 4097, 600_000])
def test_length_is_kept(samples):
    audio = np.random.default_rng(0).standard_normal((2, samples)).astype(np.float32)
    blocks = list(stream_track(MidSide(frames=64), audio))
    assert all(block.shape[:2] == (2, 2) and 0 < block.shape[2] <= 65536 for block in blocks)
    assert sum(block.shape[2] for block in blocks) == samples


def test_silence_and_hard_panned_sound_hold_no_vocals():
    silence = np.zeros((2, 20_000), np.float32)
    np.testing.assert_array_equal(separate_track(MidSide(), silence), np.zeros((2, *silence.shape)))
    panned = voice(1.0) * np.array([[1.0], [0.0]], np.float32)
    vocals, _ = separate_track(MidSide(), panned)
    assert np.abs(vocals).max() < 1e-6


def test_what_is_refused():
    assert "mono" in MidSide().refuses(1, 44100)
    assert MidSide().refuses(2, 0) is None
    assert MidSide().refuses(8, 1) is None
    for audio in (np.zeros((1, 9), np.float32), np.zeros(9, np.float32), np.zeros((2, 9), np.int16)):
        with pytest.raises(ValueError, match="needs stereo|float"):
            list(stream_track(MidSide(), audio))
    for bad in (np.nan, np.inf):
        with pytest.raises(ValueError, match="NaN or infinity"):
            list(stream_track(MidSide(), np.full((2, 9), bad, np.float32)))
    with pytest.raises(ValueError, match="too large"):
        separate_track(MidSide(), np.full((2, 9), 1e38, np.float32))
