"""Key: known keys, Essentia's Key on the same chroma, and a confidence that means something."""

from __future__ import annotations

import dataclasses
import sys

import numpy as np
import pytest

from pipeline.audio import synth
from pipeline.features.chroma import Chroma
from pipeline.features.key import KEYS, PROFILES, Key, beat_medians
from pipeline.features.key_profiles import PITCH_CLASSES, key_clearness, key_confidence, key_scores
from pipeline.features.tempo import Tempo
from pipeline.workflows import demo_data

RATE = 22050


def noise(seconds: float) -> np.ndarray:
    return 0.1 * np.random.default_rng(0).standard_normal(int(seconds * RATE))


@pytest.mark.parametrize("method", ["peaks", "cqt", "stft"])
@pytest.mark.parametrize("mode", ["major", "minor"])
def test_all_keys_are_found(mode, method, spectra_of):
    for tonic in PITCH_CLASSES:
        song = synth.chord_progression(tonic, mode, 8, RATE)
        values = Key(method=method).extract(spectra_of(song, RATE)).values
        assert (values["key_name"], values["key_mode"]) == (tonic, mode)
        assert 0.5 < values["key_confidence"] < 1.0, tonic


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


@pytest.fixture(scope="module")
def demo(spectra_of):
    """(track, spectra of its first ten seconds) of each that has a key; what profiles share is computed once."""
    songs = [
        (track, demo_data.render(track, seed)) for seed, track in enumerate(demo_data.TRACKS) if track.key
    ]
    return [(t, spectra_of(song[:, : 10 * t.sample_rate], t.sample_rate, RATE)) for t, song in songs]


@pytest.mark.parametrize("profile", PROFILES)
def test_all_keys_of_the_demo_are_found(profile, demo):
    found = {t.name: Key(profile=profile).extract(spectra).values["key_top"][0] for t, spectra in demo}
    assert len(demo) == 8
    assert found == {track.name: track.key for track, _ in demo}


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
    values = Key(method="stft", profile="krumhansl").extract(spectra).values
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
    assert key_clearness(chroma, scores, profile) == pytest.approx(1.0)


def test_an_ambiguous_or_flat_chroma_is_uncertain():
    diminished = np.tile([1.0, 0.0, 0.0], 4)
    assert key_clearness(diminished, key_scores(diminished, "krumhansl"), "krumhansl") < 1e-9
    profile = np.array(PROFILES["krumhansl"][0])
    nearly_flat = 1.0 + 0.01 * profile / profile.mean()
    scores = key_scores(nearly_flat, "krumhansl")
    assert scores.max() == pytest.approx(1.0)
    assert key_clearness(nearly_flat, scores, "krumhansl") < 0.02
    assert key_scores(np.ones(12), "krumhansl") is None


def test_the_confidence_grows_with_the_clearness():
    confidence = [key_confidence(clearness) for clearness in (0.0, 0.1, 0.5, 1.0)]
    assert confidence == sorted(confidence)
    assert 0.3 < confidence[0] < 0.5
    assert 0.98 < confidence[-1] < 1.0


@pytest.mark.parametrize("method", ["peaks", "cqt", "stft"])
def test_noise_takes_the_evidence_and_then_the_key(method, spectra_of):
    song = synth.chord_progression("D", "minor", 8, RATE)
    found = [
        Key(method=method).extract(spectra_of(gain * song + noise(8), RATE)).values
        for gain in (1.0, 0.3, 0.05)
    ]
    evidence = [values["key_evidence"] for values in found]
    assert evidence[0] > 0.9 > 0.5 > evidence[1] > 0.2 > 0.1 > evidence[2]
    assert [values["key_name"] for values in found] == ["D", "D", None]
    assert found[0]["key_confidence"] > 0.5


def coloured(exponent: float, seconds: float, seed: int) -> np.ndarray:
    """Noise whose power falls with that power of the frequency."""
    spectrum = np.fft.rfft(np.random.default_rng(seed).standard_normal(int(seconds * RATE)))
    spectrum /= np.maximum(np.arange(len(spectrum)), 1) ** (exponent / 2)
    samples = np.fft.irfft(spectrum)
    return 0.1 * samples / samples.std()


def lone_clicks(seconds: float, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    samples = np.zeros(int(seconds * RATE))
    samples[rng.integers(0, len(samples), 1 + seed)] = rng.uniform(0.2, 1, 1 + seed)
    return samples


def sweep(seconds: float, seed: int) -> np.ndarray:
    """Three octaves up, at a constant number of semitones per second."""
    rate = 3 * np.log(2) / seconds
    time = np.arange(int(seconds * RATE)) / RATE
    return np.sin(2 * np.pi * (200 + 30 * seed) * np.expm1(rate * time) / rate)


ATONAL = {
    "white": lambda seconds, seed: coloured(0, seconds, seed),
    "pink": lambda seconds, seed: coloured(1, seconds, seed),
    "brown": lambda seconds, seed: coloured(2, seconds, seed),
    "DC": lambda seconds, seed: np.full(int(seconds * RATE), 0.1 + 0.1 * seed),
    "clicks": lone_clicks,
    "drums": lambda seconds, seed: synth.drum_pattern(80 + 17 * seed, seconds, RATE, seed=seed),
    "sweep": sweep,
}
METHODS_AND_BACKENDS = [
    {},
    {"method": "cqt"},
    {"method": "stft"},
    {"profile": "edma"},
    {"backend": "essentia"},
]


@pytest.mark.parametrize("parameters", METHODS_AND_BACKENDS, ids=["peaks", "cqt", "stft", "edma", "essentia"])
@pytest.mark.parametrize("kind", ATONAL)
@pytest.mark.parametrize("seconds", [1, 2, 8])
def test_what_has_no_notes_has_no_key(seconds, kind, parameters, spectra_of):
    if "backend" in parameters:
        pytest.importorskip("essentia")
    for seed in range(4):
        values = Key(**parameters).extract(spectra_of(ATONAL[kind](seconds, seed), RATE)).values
        assert values.pop("key_evidence") < 0.17, seed
        values.pop("key_scores")
        assert set(values.values()) == {None}, seed


def test_speech_has_no_key_and_music_has_one(speech, music, spectra_of):
    for name, prompt in speech.items():
        values = Key().extract(spectra_of(prompt, 8000, RATE)).values
        assert (values["key_name"], values["key_confidence"], values["key_top"]) == (None,) * 3, name
        assert values["key_evidence"] < 0.1, name
    for name, song in music.items():
        values = Key().extract(spectra_of(song[:, : 20 * 44100], 44100, RATE)).values
        assert values["key_name"] in PITCH_CLASSES, name
        assert values["key_evidence"] > 0.4, name


def test_evidence_is_that_of_one_scale_of_semitones_wherever_it_lies(spectra_of):
    time = np.arange(4 * RATE) / RATE
    for detuned in (0.0, 0.3, 0.5):
        notes = 220.0 * 2 ** ((np.array([0, 4, 7, 12]) + detuned) / 12)
        values = Key().extract(spectra_of(sum(np.sin(2 * np.pi * f * time) for f in notes), RATE)).values
        assert values["key_evidence"] > 0.95
    quarters = 220.0 * 2 ** (np.arange(0, 24, 0.5) / 12)
    values = Key().extract(spectra_of(sum(np.sin(2 * np.pi * f * time) for f in quarters), RATE)).values
    assert values["key_evidence"] < 0.2
    assert values["key_name"] is None


def test_the_parts_around_a_short_song_do_not_take_its_key(spectra_of):
    # Silence is no evidence against it.
    song = np.pad(synth.chord_progression("G", "major", 6, RATE), (20 * RATE, 40 * RATE))
    alone = Key().extract(spectra_of(synth.chord_progression("G", "major", 6, RATE), RATE)).values
    values = Key().extract(spectra_of(song, RATE)).values
    assert (values["key_name"], values["key_mode"]) == ("G", "major")
    assert values["key_evidence"] == pytest.approx(alone["key_evidence"], abs=0.1)


def test_neither_level_nor_silence_changes_the_key(chord, spectra_of):
    extractor = Key(method="stft")
    plain = extractor.extract(spectra_of(chord, RATE)).values
    quiet = extractor.extract(spectra_of(0.01 * chord, RATE)).values
    padded = extractor.extract(spectra_of(np.pad(chord, 4 * RATE), RATE)).values
    np.testing.assert_allclose(quiet["key_scores"], plain["key_scores"], atol=1e-4)
    np.testing.assert_allclose(padded["key_scores"], plain["key_scores"], atol=0.01)


def test_chroma_and_beats_are_shared_with_other_extractors(spectra_of):
    band = synth.chord_progression("G", "major", 8, RATE, bpm=100) + synth.drum_pattern(100, 8, RATE)
    spectra = spectra_of(band, RATE)
    Chroma().extract(spectra)
    Tempo().extract(spectra)
    extraction = Key(beat_sync=True, method="cqt").extract(spectra)
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
    extraction = Key(method="cqt").extract(spectra_of(chord[:RATE], RATE))
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
        assert extraction.values.pop("key_evidence") > 0.5
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
        assert values.pop("key_evidence") < 0.2
        assert set(values.values()) == {None}
    time = np.arange(RATE) / RATE
    chord = sum(np.sin(2 * np.pi * f * time) for f in (261.63, 329.63, 392.0))
    for samples in (5000, RATE):
        values = Key(backend="essentia").extract(spectra_of(chord[:samples], RATE)).values
        assert values["key_top"] == ["C major"]


def test_without_essentia_the_own_backend_is_used(monkeypatch, chord, spectra_of):
    monkeypatch.setitem(sys.modules, "essentia", None)
    extraction = Key(backend="essentia", method="stft").extract(spectra_of(chord, RATE))
    [fallback] = extraction.fallbacks
    assert (fallback.wanted, fallback.used) == ("key.backend=essentia", "own")
    assert fallback.reason == "essentia is not installed; type `pip install 'essentia>=2.1b6.dev1389'`"
    assert extraction.values["key_scores"] is not None


@pytest.mark.parametrize(
    "parameters",
    [{"backend": "x"}, {"profile": "x"}, {"method": "vqt"}, {"n_fft": 128}, {"hop_length": 0}],
)
def test_impossible_parameters_are_refused(parameters):
    with pytest.raises(ValueError, match=next(iter(parameters))):
        Key(**parameters).check()
