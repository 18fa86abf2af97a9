from __future__ import annotations

import librosa
import numpy as np
import pytest

from pipeline.audio import synth

# Krumhansl and Kessler (1982).
MAJOR = (6.35, 2.23, 3.48, 2.33, 4.38, 4.09, 2.52, 5.19, 2.39, 3.66, 2.29, 2.88)
MINOR = (6.33, 2.68, 3.52, 5.38, 2.60, 3.53, 2.54, 4.75, 3.98, 2.69, 3.34, 3.17)


def key_scores(x: np.ndarray, rate: int) -> dict[str, float]:
    """Correlation of librosa's mean CQT chroma with the 24 Krumhansl profiles."""
    chroma = librosa.feature.chroma_cqt(y=x, sr=rate, n_octaves=5).mean(axis=1)
    return {
        f"{synth.PITCH_CLASSES[shift]} {mode}": np.corrcoef(np.roll(profile, shift), chroma)[0, 1]
        for shift in range(12)
        for mode, profile in (("major", MAJOR), ("minor", MINOR))
    }


@pytest.mark.parametrize("mode", ["major", "minor"])
@pytest.mark.parametrize("tonic", ["C", "D#", "F#", "A"])
def test_key_is_unambiguous(tonic, mode):
    x = synth.chord_progression(tonic, mode, 8.0, 22050, bpm=120)
    scores = key_scores(x, 22050)
    best, second = sorted(scores, key=scores.get, reverse=True)[:2]
    assert best == f"{tonic} {mode}"
    assert scores[best] - scores[second] > 0.1


@pytest.mark.parametrize("bpm", [90.0, 120.0, 140.0])
@pytest.mark.parametrize("rate", [22050, 44100])
def test_drums_keep_their_tempo(bpm, rate):
    x = synth.drum_pattern(bpm, 15.0, rate)
    found = librosa.feature.tempo(y=x, sr=rate)[0]
    assert min(abs(np.log2(found / bpm) - octave) for octave in (-1, 0, 1)) < np.log2(1.04)
    onsets = librosa.onset.onset_detect(y=x, sr=rate, units="time")
    eighths = np.arange(0, 15.0, 30.0 / bpm)
    assert np.mean([np.abs(onsets - eighth).min() < 0.05 for eighth in eighths[1:]]) > 0.9


def test_kick_and_snare_are_where_the_beats_are():
    rate, bpm = 44100, 120.0
    x = synth.drum_pattern(bpm, 8.0, rate)
    beats = [x[round(beat * 60 / bpm * rate) :][: rate // 20] for beat in range(16)]
    low = [np.abs(np.fft.rfft(beat))[:8].sum() for beat in beats]
    assert min(low[0::2]) > 3 * max(low[1::2])


def test_voice_has_pitch_formants_and_pauses():
    rate = 16000
    x = synth.voice(6.0, rate, [150.0], seed=3)
    f0 = librosa.yin(x, fmin=80, fmax=400, sr=rate)
    loud = librosa.feature.rms(y=x)[0] > 0.05
    assert np.median(f0[loud]) == pytest.approx(150, rel=0.03)
    # The spectrum falls, as speech does, and has its energy where first formants are.
    power = np.abs(np.fft.rfft(x)) ** 2
    hertz = np.fft.rfftfreq(len(x), 1 / rate)
    assert power[hertz < 1000].sum() > 10 * power[hertz > 3000].sum()
    assert (librosa.feature.rms(y=x)[0] < 0.01).any()


def test_vowels_move_the_formants():
    x = synth.voice(6.0, 16000, seed=1)
    centroid = librosa.feature.spectral_centroid(y=x, sr=16000)[0]
    spoken = centroid[librosa.feature.rms(y=x)[0] > 0.05]
    assert np.percentile(spoken, 90) > 1.4 * np.percentile(spoken, 10)


def test_generators_depend_on_their_arguments_only():
    for make in (
        lambda seed: synth.voice(1.0, 8000, seed=seed),
        lambda seed: synth.drum_pattern(100, 1.0, 8000, seed=seed),
        lambda seed: synth.chord_progression("C", "major", 1.0, 8000, seed=seed),
    ):
        np.testing.assert_array_equal(make(1), make(1))
        assert not np.array_equal(make(1), make(2))


@pytest.mark.parametrize("rate", [8000, 44100, 192000])
@pytest.mark.parametrize("seconds", [0.01, 0.5])
def test_length_type_and_peak(rate, seconds):
    for x in (
        synth.chord_progression("G", "minor", seconds, rate),
        synth.drum_pattern(100, seconds, rate),
        synth.voice(seconds, rate),
    ):
        assert x.shape == (round(seconds * rate),)
        assert x.dtype == np.float32
        assert np.abs(x).max() == pytest.approx(1.0)


def test_mixture_pans_with_constant_power():
    x = synth.drum_pattern(120, 1.0, 8000)
    np.testing.assert_allclose(synth.mixture([(x, 1.0, -1.0)])[1], 0, atol=1e-6)
    centre = synth.mixture([(x, 0.3, 0.0)])
    np.testing.assert_allclose(centre[0], centre[1], atol=1e-6)
    assert np.abs(centre).max() == pytest.approx(1.0)
    assert synth.mixture([(x, 1.0, 0.0), (x[:100], 1.0, 0.5)]).shape == (2, 100)


def test_drive_makes_it_denser():
    x = synth.drum_pattern(120, 1.0, 8000)
    plain, driven = synth.mixture([(x, 1.0, 0.0)]), synth.mixture([(x, 1.0, 0.0)], drive=4.0)
    assert np.abs(driven).max() < 1.0
    assert driven.std() > 1.5 * plain.std()


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("target", [-23.0, -9.0])
def test_loudness_is_what_was_asked_for(channels, target):
    x = np.stack([synth.chord_progression("C", "major", 2.0, 44100, seed=c) for c in range(channels)])
    y = synth.normalize_lufs(x, 44100, target)
    assert y.dtype == np.float32
    assert synth.integrated_lufs(y, 44100) == pytest.approx(target, abs=0.01)


def test_loudness_of_the_tone_in_the_standard():
    # ITU-R BS.1770-4: a 997 Hz sine at full scale in one channel reads -3.01 LKFS; meters may be 0.1 off.
    tone = np.sin(2 * np.pi * 997 * np.arange(4 * 48000) / 48000)[None]
    assert synth.integrated_lufs(tone, 48000) == pytest.approx(-3.01, abs=0.1)


def test_silence_has_no_loudness_to_normalise():
    with pytest.raises(ValueError, match="silence"):
        synth.normalize_lufs(np.zeros((1, 44100), np.float32), 44100, -20.0)
