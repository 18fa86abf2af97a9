"""Tempo, beats and onsets: against librosa, and on patterns whose beats are known."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.audio import synth
from pipeline.dsp.beat_period import TempoSearch, estimate_tempo
from pipeline.dsp.onsets import OnsetCurve, note_onsets, pick_onsets, track_beats
from pipeline.features.mel import Mel
from pipeline.features.spectra import SharedSpectra
from pipeline.features.tempo import Tempo

librosa = pytest.importorskip("librosa")


def strength_of(
    spectra: SharedSpectra, n_fft: int = 2048, hop_length: int = 512, n_mels: int = 128
) -> np.ndarray:
    curve = OnsetCurve(n_fft, hop_length)
    curve.add(spectra.rises(n_fft, hop_length, n_mels))
    return curve.strength()


RATE, FRAME_RATE = 22050, 22050 / 512


def noise(seconds: float, rate: int = RATE, seed: int = 0) -> np.ndarray:
    return 0.1 * np.random.default_rng(seed).standard_normal(int(seconds * rate))


def f_measure(found: np.ndarray, known: np.ndarray, tolerance: float = 0.07) -> float:
    """Twice the number of matches, each beat used once, over the number of beats on both sides."""
    matched, free = 0, list(known)
    for beat in found:
        near = [k for k in free if abs(k - beat) <= tolerance]
        if near:
            free.remove(min(near, key=lambda k: abs(k - beat)))
            matched += 1
    return 2 * matched / (len(found) + len(known))


@pytest.fixture(scope="module")
def envelopes(music, spectra_of) -> dict[str, np.ndarray]:
    return {n: strength_of(spectra_of(x, 44100, RATE)) for n, x in music.items()}


@pytest.mark.parametrize(("n_fft", "hop_length", "n_mels"), [(2048, 512, 128), (1024, 256, 40)])
def test_onset_strength_equals_librosa_on_real_music(n_fft, hop_length, n_mels, music, spectra_of):
    for name, song in music.items():
        spectra = spectra_of(song, 44100, RATE)
        expected = librosa.onset.onset_strength(
            y=spectra.mono, sr=RATE, n_fft=n_fft, hop_length=hop_length, n_mels=n_mels
        )
        found = strength_of(spectra, n_fft, hop_length, n_mels)
        assert len(found) > 1024
        np.testing.assert_allclose(found, expected, atol=1e-3, err_msg=name)


@pytest.mark.parametrize("samples", [1, 511, 1535, 1536, 30000])
def test_onset_strength_equals_librosa_on_clips(samples, spectra_of):
    clip = noise(2)[:samples].astype(np.float32)
    expected = librosa.onset.onset_strength(y=clip, sr=RATE) if samples >= 1536 else 0.0
    np.testing.assert_allclose(strength_of(spectra_of(clip, RATE)), expected, atol=1e-3)


def test_onsets_equal_librosa(envelopes):
    rng = np.random.default_rng(0)
    series = [*envelopes.values(), *(rng.uniform(0, 1, n) for n in (1, 2, 5, 300)), np.ones(9), np.zeros(0)]
    for x in series:
        for rate in (RATE, 44100, 8000):
            expected = librosa.onset.onset_detect(onset_envelope=x, sr=rate) if len(x) else []
            np.testing.assert_array_equal(pick_onsets(x, rate / 512), expected)


@pytest.mark.parametrize("bpm", [41.0, 60.0, 97.3, 128.0, 190.0, 299.0])
def test_beats_equal_librosa_at_the_same_tempo(bpm, envelopes):
    rng = np.random.default_rng(1)
    for x in (*envelopes.values(), rng.uniform(0, 1, 800) ** 4, rng.uniform(0, 1, 130)):
        _, expected = librosa.beat.beat_track(onset_envelope=x, sr=RATE, bpm=bpm)
        np.testing.assert_array_equal(track_beats(x, bpm, FRAME_RATE), expected)


def test_tempo_of_real_music_is_that_of_librosa_or_its_double(music, spectra_of):
    for name, song in music.items():
        spectra = spectra_of(song, 44100, RATE)
        values = Tempo().extract(spectra).values
        expected = float(librosa.beat.beat_track(y=spectra.mono, sr=RATE)[0][0])
        # Its tempo is one of a whole number of frames per beat.
        octave = round(np.log2(values["tempo_bpm"] / expected))
        assert abs(octave) <= 1, name
        period = 60 * FRAME_RATE / values["tempo_bpm"] * 2.0**octave
        assert period == pytest.approx(60 * FRAME_RATE / expected, abs=0.51), name
        _, beats = librosa.beat.beat_track(y=spectra.mono, sr=RATE, bpm=values["tempo_bpm"], units="time")
        assert f_measure(values["tempo_beats_s"], beats) >= 0.9, name
        onsets = librosa.onset.onset_detect(y=spectra.mono, sr=RATE)
        # Not by the largest rise, as librosa has it, which hides softer notes.
        rate = len(onsets) / (len(spectra.mono) / RATE)
        assert rate < values["onset_rate_hz"] < 1.5 * rate, name


@pytest.mark.parametrize("bpm", [48, 60, 75, 90, 110, 128, 150, 174])
@pytest.mark.parametrize("kind", ["drums", "noisy drums", "band", "clicks", "8 s of drums"])
def test_known_tempo_and_beats(kind, bpm, spectra_of):
    seconds = 8 if kind.startswith("8") else 20
    signal = synth.drum_pattern(bpm, seconds, RATE, seed=bpm)
    if kind == "noisy drums":
        signal = signal + 0.5 * noise(seconds)
    elif kind == "band":
        signal = signal + 0.6 * synth.chord_progression("C", "major", seconds, RATE, bpm=bpm)
    elif kind == "clicks":
        signal = np.zeros(seconds * RATE)
        signal[(np.arange(0, seconds, 60 / bpm) * RATE).astype(int)] = 1.0
    values = Tempo().extract(spectra_of(signal, RATE)).values
    assert values["tempo_bpm"] == pytest.approx(bpm, rel=0.002)
    assert 0.0 < values["tempo_confidence"] < 1.0
    # Nothing rises at 0 s, where the clip begins.
    assert f_measure(values["tempo_beats_s"], np.arange(60 / bpm, seconds, 60 / bpm)) >= 0.9


@pytest.mark.parametrize("rate", [8000, 16000, 44100, 96000])
def test_known_tempo_at_other_rates(rate, spectra_of):
    for bpm in (90, 128):
        spectra = spectra_of(synth.drum_pattern(bpm, 12, rate), rate)
        assert Tempo().extract(spectra).values["tempo_bpm"] == pytest.approx(bpm, rel=0.01)


@pytest.mark.parametrize("bpm", [60, 128, 174])
def test_the_range_holds(bpm, spectra_of):
    spectra = spectra_of(synth.drum_pattern(bpm, 12, RATE), RATE)
    for low, high in ((40, 80), (70, 140), (110, 220), (150, 300)):
        found = Tempo(min_bpm=low, max_bpm=high).extract(spectra).values["tempo_bpm"]
        assert found is None or low <= found <= high
        assert found is not None or not low <= bpm <= high


def test_confidence_falls_with_noise_and_with_rivals(spectra_of):
    def confidence(signal: np.ndarray) -> float:
        return Tempo().extract(spectra_of(signal, RATE)).values["tempo_confidence"]

    clear, fast = (synth.drum_pattern(bpm, 20, RATE) for bpm in (100, 200))
    assert confidence(clear) > 0.8
    assert confidence(clear) > confidence(clear + 5 * noise(20)) + 0.05
    # At 200 BPM, 100 is as good a tempo.
    assert confidence(fast) < 0.7


@pytest.mark.parametrize("seconds", [2.0, 3.2, 10.0, 60.0])
def test_noise_has_no_tempo(seconds, spectra_of):
    for seed in range(5):
        values = Tempo().extract(spectra_of(noise(seconds, seed=seed), RATE)).values
        assert values.pop("onset_rate_hz") > 0
        assert set(values.values()) == {None}


def steady_sounds(seconds: float) -> dict[str, np.ndarray]:
    """Nothing begins in any of them."""
    time = np.arange(int(seconds * RATE)) / RATE
    rate = np.log(200) / seconds
    sounds = {f"sine of {f:g} Hz": np.sin(2 * np.pi * f * time) for f in (55, 440, 1000, 5000.3)}
    return sounds | {
        "three sines": sum(np.sin(2 * np.pi * f * time) for f in (261.63, 329.63, 392.0)) / 3,
        "organ": sum(np.sin(2 * np.pi * f * h * time) / h for f in (65.41, 130.81, 196.0) for h in range(1, 9)) / 6,
        "square": np.sign(np.sin(2 * np.pi * 100 * time)),
        "sweep": np.sin(2 * np.pi * 50 * np.expm1(rate * time) / rate),
        "tremolo": (0.6 + 0.1 * np.sin(2 * np.pi * 5 * time)) * np.sin(2 * np.pi * 330 * time),
        "DC": np.ones(len(time)),
    }  # fmt: skip


@pytest.mark.parametrize("seconds", [3.0, 10.0, 30.0])
@pytest.mark.parametrize("name", steady_sounds(0.1))
def test_a_steady_sound_has_neither_onsets_nor_a_tempo(name, seconds, spectra_of):
    sound = 0.3 * steady_sounds(seconds)[name]
    # What begins in the middle of many loud partials begins with an onset.
    onsets = 1 if name in ("organ", "square") else 0
    for samples in (sound, np.round(32767 * sound) / 32768):
        values = Tempo().extract(spectra_of(samples, RATE)).values
        assert values.pop("onset_rate_hz") * seconds == pytest.approx(onsets, abs=0.001)
        assert set(values.values()) == {None}


def test_what_is_steady_between_onsets_has_no_say_in_the_tempo(spectra_of):
    drone = 0.3 * steady_sounds(40)["three sines"]
    drone[15 * RATE : 27 * RATE] += 0.3 * synth.drum_pattern(100, 12, RATE)
    values = Tempo().extract(spectra_of(drone, RATE)).values
    assert values["tempo_bpm"] == pytest.approx(100, rel=0.002)
    lone = 0.3 * steady_sounds(40)["three sines"]
    lone[15 * RATE : 27 * RATE : 9 * RATE] += 1.0  # two clicks
    values = Tempo().extract(spectra_of(lone, RATE)).values
    assert values["onset_rate_hz"] == pytest.approx(2 / 40)
    assert values["tempo_bpm"] is None


def test_soft_notes_are_onsets_beside_a_loud_one_and_lie_where_they_begin(spectra_of):
    begin = 0.5 + 0.4 * np.arange(24)
    time = np.arange(11 * RATE) / RATE
    audio = sum(0.05 * np.sin(2 * np.pi * 500 * time) * np.exp(-8 * (time - t)) * (time >= t) for t in begin)
    audio = audio + 1e-4 * np.random.default_rng(0).standard_normal(len(time))
    audio[5 * RATE] = 1.0  # a click in all bands
    spectra = spectra_of(audio, RATE)
    curve = OnsetCurve(2048, 512)
    curve.add(spectra.rises(2048, 512, 128))
    strength, rate = curve.strength(), RATE / 512
    found = note_onsets(strength, rate)
    near = np.abs(found[:, None] - begin[None]).min(axis=0)
    assert near.max() < 0.025
    assert len(found) <= len(begin) + 2
    peaks = pick_onsets(strength, rate) / rate
    assert len(peaks) < len(found), "by the largest rise the click hides them"
    values = Tempo().extract(spectra).values
    assert values["onset_rate_hz"] == pytest.approx(len(found) / 11, rel=0.01)
    assert len(note_onsets(np.zeros(50), rate)) == 0


@pytest.mark.parametrize("decibels", [-40, -60])
def test_quiet_music_keeps_its_tempo(decibels, music, spectra_of):
    for name, song in music.items():
        loud = Tempo().extract(spectra_of(song, 44100, RATE)).values
        quiet = 10 ** (decibels / 20) * song
        stored = np.round(32767 * quiet) / 32768 if decibels > -50 else quiet
        values = Tempo().extract(spectra_of(stored, 44100, RATE)).values
        assert values["tempo_bpm"] == pytest.approx(loud["tempo_bpm"], rel=0.002), name
        assert values["onset_rate_hz"] == pytest.approx(loud["onset_rate_hz"], rel=0.15), name


@pytest.mark.parametrize("bpm", [60, 100, 144])
@pytest.mark.parametrize("under", [0.0, 1.0])
def test_a_metronome_is_found_alone_and_over_a_chord(under, bpm, spectra_of):
    time = np.arange(20 * RATE) / RATE
    since = time % (60 / bpm)
    beep = 0.3 * np.sin(2 * np.pi * 1000 * time) * np.exp(-since / 0.02)
    values = Tempo().extract(spectra_of(beep + 0.3 * under * steady_sounds(20)["three sines"], RATE)).values
    assert values["tempo_bpm"] == pytest.approx(bpm, rel=0.002)
    assert values["onset_rate_hz"] == pytest.approx(bpm / 60, rel=0.06)


def test_what_has_no_beat_has_no_tempo(chord, spectra_of):
    steady = np.sin(2 * np.pi * 440 * np.arange(5 * RATE) / RATE)
    for signal in (chord, steady, np.ones(5 * RATE), np.eye(1, 5 * RATE, 40000)[0]):
        values = Tempo().extract(spectra_of(signal, RATE)).values
        assert (values["tempo_bpm"], values["tempo_confidence"], values["tempo_beats_s"]) == (None,) * 3


def test_most_speech_has_no_tempo(speech, spectra_of):
    found = [Tempo().extract(spectra_of(x, 8000, RATE)).values for x in speech.values()]
    assert all((v["tempo_confidence"] or 0.0) < 0.5 for v in found)
    assert all(1.0 < v["onset_rate_hz"] < 10.0 for v in found)


@pytest.mark.parametrize("samples", [0, 1, 1000, 2 * RATE - 1])
def test_a_clip_under_two_seconds_has_no_values(samples, spectra_of):
    values = Tempo().extract(spectra_of(synth.drum_pattern(174, 2, RATE)[:samples], RATE)).values
    assert set(values.values()) == {None}


def test_silence_has_no_values(spectra_of):
    assert set(Tempo().extract(spectra_of(np.zeros(5 * RATE), RATE)).values.values()) == {None}


@pytest.mark.parametrize("gain", [1e-6, 0.01, 30.0])
def test_the_level_does_not_matter(gain, spectra_of):
    drums = synth.drum_pattern(100, 8, RATE)
    plain, scaled = (Tempo().extract(spectra_of(g * drums, RATE)).values for g in (1.0, gain))
    assert scaled["tempo_bpm"] == pytest.approx(plain["tempo_bpm"], rel=1e-4)
    assert scaled["tempo_confidence"] == pytest.approx(plain["tempo_confidence"], abs=1e-3)
    np.testing.assert_allclose(scaled["tempo_beats_s"], plain["tempo_beats_s"], atol=0.03)


def test_mel_is_shared_with_the_mel_extractor(spectra_of):
    spectra = spectra_of(synth.drum_pattern(100, 8, RATE), RATE)
    Mel().extract(spectra)
    Tempo().extract(spectra)
    assert set(spectra.counts.values()) == {1}
    assert sum(key[0] == "mel" for key in spectra.counts) == 1


def test_constant_envelopes_have_neither_tempo_nor_beats():
    for x in (np.zeros(200), np.ones(200), np.zeros(1)):
        assert estimate_tempo(x, x, np.arange(0, len(x), 20), FRAME_RATE, TempoSearch()) is None
        assert len(track_beats(x, 120.0, FRAME_RATE)) == 0


@pytest.mark.parametrize(
    ("parameter", "value"),
    [
        ("n_fft", 8),
        ("hop_length", 0),
        ("n_mels", 0),
        ("min_bpm", 0),
        ("max_bpm", 30),
        ("prior_bpm", -1),
        ("prior_octaves", 0),
        ("tightness", 0),
    ],
)
def test_impossible_parameters_are_refused(parameter, value):
    with pytest.raises(ValueError, match=parameter):
        Tempo(**{parameter: value}).check()
