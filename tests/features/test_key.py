"""Key: known keys, Essentia's Key on the same chroma, and a confidence that means something."""

from __future__ import annotations

import dataclasses
import sys

import numpy as np
import pytest

from pipeline.audio import synth
from pipeline.features.chroma import Chroma
from pipeline.features.key import (
    KEYS,
    PITCH_CLASSES,
    PROFILES,
    Key,
    beat_medians,
    key_confidence,
    key_scores,
)
from pipeline.features.tempo import Tempo
from pipeline.workflows import demo_data

RATE = 22050


def noise(seconds: float) -> np.ndarray:
    return 0.1 * np.random.default_rng(0).standard_normal(int(seconds * RATE))


@pytest.mark.parametrize("method", ["cqt", "stft"])
@pytest.mark.parametrize("mode", ["major", "minor"])
def test_all_keys_are_found(mode, method, spectra_of):
    for tonic in PITCH_CLASSES:
        song = synth.chord_progression(tonic, mode, 8, RATE)
        values = Key(method=method).extract(spectra_of(song, RATE)).values
        assert (values["key_name"], values["key_mode"]) == (tonic, mode)
        assert 0.2 < values["key_confidence"] <= 1.0, tonic


@pytest.mark.parametrize("name", ["band_d_minor_140.ogg", "song_a_major_96.flac"])
def test_a_demo_track_is_found_in_all_24_keys(name, spectra_of):
    # With drums, and with drums and a voice; all eight tracks are in benchmarks/agreement.py.
    [(seed, track)] = [(i, t) for i, t in enumerate(demo_data.TRACKS) if t.name == name]
    wrong = {}
    for tonic, mode in KEYS:
        changes = {
            "key": f"{tonic} {mode}",
            "seconds": 8.0,
            "sample_rate": RATE,
            "channels": 1,
            "lufs": -23.0,
        }
        transposed = dataclasses.replace(track, **changes)
        top = Key().extract(spectra_of(demo_data.render(transposed, seed), RATE)).values["key_top"]
        if top[0] != transposed.key:
            wrong[transposed.key] = top
    assert wrong == {}


@pytest.mark.parametrize("profile", PROFILES)
def test_all_keys_of_the_demo_are_found(profile, spectra_of):
    found, known = {}, {}
    for seed, track in enumerate(demo_data.TRACKS):
        if track.key:
            song = demo_data.render(track, seed)[:, : 10 * track.sample_rate]
            top = Key(profile=profile).extract(spectra_of(song, track.sample_rate, RATE)).values["key_top"]
            found[track.name], known[track.name] = top[0], track.key
    assert len(known) == 8
    assert found == known


@pytest.mark.parametrize("profile", PROFILES)
def test_the_best_score_equals_essentia(profile):
    standard = pytest.importorskip("essentia.standard")
    key = standard.Key(profileType=profile, usePolyphony=False, pcpSize=12)
    rng = np.random.default_rng(3)
    for _ in range(50):
        chroma = rng.uniform(0, 1, 12).astype(np.float32)
        scores = key_scores(chroma.astype(np.float64), profile)
        # Its pitch classes start at A.
        tonic, mode, strength, _ = key(np.roll(chroma, -9))
        assert scores.max() == pytest.approx(strength, abs=1e-5)
        flats = {"Eb": "D#", "Ab": "G#", "Bb": "A#"}
        assert KEYS[int(np.argmax(scores))] == (flats.get(tonic, tonic), mode)


def test_scores_are_correlations_with_the_shared_chroma(chord, spectra_of):
    spectra = spectra_of(chord, RATE)
    frames = spectra.chroma_stft(2048, 512).numpy().astype(np.float64)
    mean = (frames / np.linalg.norm(frames, axis=0)).mean(axis=1)
    expected = [np.corrcoef(mean, np.roll(w, k))[0, 1] for w in PROFILES["krumhansl"] for k in range(12)]
    values = Key(method="stft").extract(spectra).values
    np.testing.assert_allclose(values["key_scores"], expected, atol=1e-6)
    order = np.argsort(expected)[::-1][:3]
    assert values["key_top"] == [" ".join(KEYS[i]) for i in order]
    assert values["key_top"][0] == f"{values['key_name']} {values['key_mode']}"


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("key", [0, 5, 12, 23])
def test_a_chroma_that_is_the_profile_is_certain(profile, key):
    chroma = np.roll(PROFILES[profile][key // 12], key % 12)
    scores = key_scores(chroma, profile)
    assert np.argmax(scores) == key
    assert scores[key] == pytest.approx(1.0)
    assert key_confidence(chroma, scores, profile) == pytest.approx(1.0)


def test_an_ambiguous_or_flat_chroma_is_uncertain():
    diminished = np.tile([1.0, 0.0, 0.0], 4)
    assert key_confidence(diminished, key_scores(diminished, "krumhansl"), "krumhansl") < 1e-9
    profile = np.array(PROFILES["krumhansl"][0])
    nearly_flat = 1.0 + 0.01 * profile / profile.mean()
    scores = key_scores(nearly_flat, "krumhansl")
    assert scores.max() == pytest.approx(1.0)
    assert key_confidence(nearly_flat, scores, "krumhansl") < 0.02
    assert key_scores(np.ones(12), "krumhansl") is None


@pytest.mark.parametrize("method", ["cqt", "stft"])
def test_noise_is_uncertain_and_chords_are_not(method, spectra_of):
    song = synth.chord_progression("D", "minor", 8, RATE)
    clear, mixed, none = (
        Key(method=method).extract(spectra_of(x, RATE)).values["key_confidence"]
        for x in (song, 0.3 * song + noise(8), noise(8))
    )
    assert none < 0.05 < 0.3 < clear
    assert none < mixed


def test_speech_is_less_certain_than_music(speech, music, spectra_of):
    talk = [Key().extract(spectra_of(x, 8000, RATE)).values["key_confidence"] for x in speech.values()]
    songs = [
        Key().extract(spectra_of(x[:, : 20 * 44100], 44100, RATE)).values["key_confidence"]
        for name, x in music.items()
        if name == "feelings"
    ]
    assert max(talk) < 0.1 < min(songs)


def test_neither_level_nor_silence_changes_the_key(chord, spectra_of):
    extractor = Key(method="stft")
    plain = extractor.extract(spectra_of(chord, RATE)).values
    quiet = extractor.extract(spectra_of(0.01 * chord, RATE)).values
    padded = extractor.extract(spectra_of(np.pad(chord, 4 * RATE), RATE)).values
    np.testing.assert_allclose(quiet["key_scores"], plain["key_scores"], atol=1e-4)
    np.testing.assert_allclose(padded["key_scores"], plain["key_scores"], atol=0.01)


def test_chroma_and_beats_are_shared_with_other_extractors(spectra_of):
    band = synth.chord_progression("G", "major", 8, RATE, 100) + synth.drum_pattern(100, 8, RATE)
    spectra = spectra_of(band, RATE)
    Chroma().extract(spectra)
    Tempo().extract(spectra)
    extraction = Key(beat_sync=True).extract(spectra)
    assert (extraction.values["key_name"], extraction.values["key_mode"]) == ("G", "major")
    assert extraction.fallbacks == []
    assert set(spectra.counts.values()) == {1}
    assert [(key[0], count) for key, count in spectra.track.counts.items()] == [("rhythm", 1)]


def test_frames_stand_in_for_beats(chord, spectra_of):
    by_beats = Key(method="stft", beat_sync=True).extract(spectra_of(chord, RATE))
    by_frames = Key(method="stft").extract(spectra_of(chord, RATE))
    assert [f.wanted for f in by_beats.fallbacks] == ["key.beat_sync=true"]
    np.testing.assert_array_equal(by_beats.values["key_scores"], by_frames.values["key_scores"])


def test_beat_medians():
    chroma = np.zeros((12, 8))
    chroma[0, :3], chroma[4, 3:6], chroma[7, 2] = 1.0, 2.0, 5.0
    sounding = chroma.any(axis=0)
    medians = beat_medians(chroma, sounding, np.array([0, 3, 6]))
    np.testing.assert_allclose(medians, np.eye(12)[:, [0, 4]])
    assert beat_medians(chroma, np.zeros(8, dtype=bool), np.array([3])).shape == (12, 0)


def test_a_short_clip_falls_back_to_the_stft(chord, spectra_of):
    extraction = Key().extract(spectra_of(chord[:RATE], RATE))
    assert [(f.wanted, f.used) for f in extraction.fallbacks] == [("key.method=cqt", "stft")]
    assert extraction.values["key_name"] in PITCH_CLASSES


@pytest.mark.parametrize("backend", ["own", "essentia"])
def test_silence_has_no_key(backend, spectra_of):
    for samples in (0, 1, 3 * RATE):
        values = Key(backend=backend).extract(spectra_of(np.zeros(samples), RATE)).values
        assert set(values.values()) == {None}


@pytest.mark.parametrize("mode", ["major", "minor"])
def test_essentia_finds_all_keys_under_the_same_columns(mode, spectra_of):
    pytest.importorskip("essentia")
    for tonic in PITCH_CLASSES:
        song = synth.chord_progression(tonic, mode, 8, RATE)
        extraction = Key(backend="essentia").extract(spectra_of(song, RATE))
        assert extraction.backend == "essentia"
        assert extraction.values == {
            "key_name": tonic,
            "key_mode": mode,
            "key_confidence": None,
            "key_scores": None,
            "key_top": [f"{tonic} {mode}"],
        }


def test_essentia_takes_a_clip_of_any_length(spectra_of):
    pytest.importorskip("essentia")
    for samples in (1, 2, 500, 5000):
        values = Key(backend="essentia").extract(spectra_of(noise(1)[:samples], RATE)).values
        assert values["key_name"] in PITCH_CLASSES


def test_without_essentia_the_own_backend_is_used(monkeypatch, chord, spectra_of):
    monkeypatch.setitem(sys.modules, "essentia", None)
    extraction = Key(backend="essentia", method="stft").extract(spectra_of(chord, RATE))
    [fallback] = extraction.fallbacks
    assert (fallback.wanted, fallback.used) == ("key.backend=essentia", "own")
    assert fallback.reason == "essentia is not installed; type `pip install 'soundmill[essentia]'`"
    assert extraction.values["key_scores"] is not None


@pytest.mark.parametrize(
    "parameters",
    [{"backend": "x"}, {"profile": "shaath"}, {"method": "vqt"}, {"n_fft": 128}, {"hop_length": 0}],
)
def test_impossible_parameters_are_refused(parameters):
    with pytest.raises(ValueError, match=next(iter(parameters))):
        Key(**parameters).check()
