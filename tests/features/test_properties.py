"""What every column must do when a track gets louder, is played twice, or has its channels swapped or inverted.

Through `Extractor.extract` of every registered extractor. A new column fails the first test until its line is in
`COLUMNS`. That chunks equal the whole is tested elsewhere.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.audio import synth
from pipeline.features import REGISTRY
from pipeline.features.spectra import SharedSpectra

RATE = 22050

# Floors far below anything in the signal: at a floor a level cannot follow the gain.
PARAMETERS = {name: {"floor_db": -250.0} for name in ("mel", "hpss", "band_energy")}


class Law(NamedTuple):
    """How a column behaves.

    Args:
        gain: under a gain of g: ``level`` is shifted by 20 log10 g, ``sample`` is multiplied by g and turns with
            the polarity, ``cepstrum`` is shifted in coefficient 0 only, ``alone`` stays.
        twice: how much it may change when the track is played twice in a row, by the frames at the joint that
            hold both ends instead of silence; None where it may be anything.
    """

    gain: str
    twice: float | None


# Minima and maxima are those of single frames, and the one at the joint, or at the ends, may hold them.
LEVEL, LEVEL_OF_A_FRAME = Law("level", 0.5), Law("level", None)
COLUMNS = {
    "mel_mean": LEVEL,
    "mel_std": Law("alone", 0.5),
    "mel_min": LEVEL_OF_A_FRAME,
    "mel_max": LEVEL_OF_A_FRAME,
    "mel": LEVEL_OF_A_FRAME,
    # The sum over 128 bands in an orthonormal transform: half a dB per band would be 5.7.
    "mfcc_mean": Law("cepstrum", 1.0),
    "mfcc_std": Law("alone", 1.0),
    "chroma_mean": Law("alone", 0.03),
    "chroma_std": Law("alone", 0.03),
    "chroma_min": Law("alone", None),
    "chroma_max": Law("alone", None),
    "chroma_median": Law("alone", 0.15),
    "chroma_p25": Law("alone", 0.15),
    "chroma_p75": Law("alone", 0.15),
    "chroma_tuning": Law("alone", 0.02),
    "chroma_method": Law("alone", 0.0),
    "chroma": Law("alone", None),
    "key_name": Law("alone", 0.0),
    "key_mode": Law("alone", 0.0),
    "key_confidence": Law("alone", 0.1),
    "key_evidence": Law("alone", 0.1),
    "key_scores": Law("alone", 0.05),
    "key_top": Law("alone", None),  # the third best key may be as good as the fourth
    "hpss_harmonic_share": Law("alone", 0.02),
    "hpss_percussive_share": Law("alone", 0.02),
    "hpss_harmonic": LEVEL_OF_A_FRAME,
    "hpss_percussive": LEVEL_OF_A_FRAME,
    "loudness_integrated_lufs": Law("level", 0.15),
    "loudness_range_lu": Law("alone", None),  # of 3 s windows, a third of which lie across the joint
    "loudness_true_peak_dbtp": Law("level", 0.2),
    "loudness_sample_peak_dbfs": Law("level", 1e-9),
    "loudness_rms_dbfs": Law("level", 1e-9),
    "loudness_frame_rms_mean_dbfs": Law("level", 0.1),
    "loudness_frame_rms_std_dbfs": Law("alone", 0.1),
    "loudness_frame_rms_median_dbfs": Law("level", 0.5),
    "loudness_frame_rms_p10_dbfs": Law("level", 0.5),
    "loudness_frame_rms_p90_dbfs": Law("level", 0.5),
    "band_edges_hz": Law("alone", 0.0),
    "band_energy_mean_db": Law("level", 0.1),
    "band_energy_std_db": Law("alone", 0.1),
    "band_energy_median_db": Law("level", 0.5),
    "band_energy_share": Law("alone", 1e-3),
    "band_energy": LEVEL_OF_A_FRAME,
    "tempo_bpm": Law("alone", 0.5),
    "tempo_confidence": Law("alone", 0.15),
    "tempo_beats_s": Law("alone", None),
    "onset_rate_hz": Law("alone", 0.5),
    "spectral_centroid_mean_hz": Law("alone", 10.0),
    "spectral_centroid_std_hz": Law("alone", 10.0),
    "spectral_bandwidth_mean_hz": Law("alone", 10.0),
    "spectral_bandwidth_std_hz": Law("alone", 10.0),
    "spectral_rolloff_mean_hz": Law("alone", 20.0),
    "spectral_rolloff_std_hz": Law("alone", 20.0),
    "spectral_flatness_mean": Law("alone", 1e-3),
    "spectral_contrast_mean": Law("alone", 0.5),
    "quality_dc_offset": Law("sample", 1e-9),
    "quality_clipping_ratio": Law("alone", 1e-9),
    "quality_crest_factor_db": Law("alone", 1e-9),
    "quality_silence_ratio": Law("alone", 0.01),
    "quality_bandwidth_hz": Law("alone", 100.0),
    "quality_stereo_width": Law("alone", 1e-9),
    "quality_phase_correlation": Law("alone", 1e-9),
    "fingerprint_share_20_60": Law("alone", 1e-3),
    "fingerprint_share_60_250": Law("alone", 1e-3),
    "fingerprint_share_250_500": Law("alone", 1e-3),
    "fingerprint_share_500_2000": Law("alone", 1e-3),
    "fingerprint_share_2000_4000": Law("alone", 1e-3),
    "fingerprint_share_4000_8000": Law("alone", 1e-3),
    "fingerprint_share_8000_20000": Law("alone", 1e-3),
    "fingerprint_loudness_lufs": Law("level", 0.15),
    "fingerprint_crest_db": Law("alone", 1e-9),
    "fingerprint_bass_to_mid_db": Law("alone", 0.02),
    "fingerprint_tempo_bpm": Law("alone", 0.5),
    "fingerprint_rhythm_stability": Law("alone", 0.05),
    "fingerprint_onset_rate_hz": Law("alone", 0.5),
    "fingerprint_silence_ratio": Law("alone", 0.01),
    "fingerprint_centroid_hz": Law("alone", 10.0),
    "fingerprint_rolloff_hz": Law("alone", 20.0),
    "fingerprint_flatness": Law("alone", 1e-3),
    "fingerprint_harmonic_share": Law("alone", 0.02),
    "fingerprint_pitch_stability": Law("alone", 0.05),
    "fingerprint_chroma_peakiness": Law("alone", 0.02),
    "fingerprint_level_spread_db": Law("alone", None),  # a piece that lies across the joint may be any
    "fingerprint_loudness_range_lu": Law("alone", None),
    "fingerprint_peak_consistency": Law("alone", 0.1),
    "fingerprint_stereo_width": Law("alone", 1e-9),
    "fingerprint_phase_correlation": Law("alone", 1e-9),
}

Song = tuple[str, str, float, int]

SONGS = st.tuples(
    st.sampled_from(synth.PITCH_CLASSES),
    st.sampled_from(("major", "minor")),
    st.sampled_from((90.0, 120.0, 128.0, 174.0)),
    st.integers(0, 99),
)


def few_examples(test):
    """Few, and the same ones every time: each costs some tenths of a second."""
    return settings(max_examples=6, deadline=None, derandomize=True)(test)


@lru_cache(maxsize=4)
def render(song: Song, channels: int = 2) -> np.ndarray:
    """Two phrases of chords and drums, no louder than -10 dBFS, on noise and an offset, no channel like another."""
    tonic, mode, bpm, seed = song
    seconds = 8 * 240 / bpm
    parts = [(synth.drum_pattern(bpm, seconds, RATE, seed), 0.7, 0.2)]
    for offset, position in ((0, -0.5), (100, 0.5)):
        parts.append(
            (synth.chord_progression(tonic, mode, seconds, RATE, bpm=bpm, seed=seed + offset), 0.5, position)
        )
    stereo = synth.mixture(parts)
    own = np.arange(1, channels + 1)[:, None]
    samples = 0.3 * np.tile(stereo, (channels // 2, 1)) / own**0.2
    noise = np.random.default_rng(seed).standard_normal(samples.shape)
    return (samples + 0.01 * noise + 0.004 / own).astype(np.float32)


def measure(samples: np.ndarray) -> dict[str, object]:
    """All columns; a matrix under the name of its blob."""
    samples = np.ascontiguousarray(samples)
    spectra = SharedSpectra(samples.mean(axis=0), RATE, samples, RATE)
    found: dict[str, object] = {}
    for name, extractor in REGISTRY.items():
        extraction = extractor(**PARAMETERS.get(name, {})).extract(spectra)
        found |= extraction.values | extraction.arrays
    return found


def is_text(value: object) -> bool:
    return isinstance(value, str) or (isinstance(value, list) and isinstance(value[0], str))


def differences(
    found: dict[str, object], expected: dict[str, object], atol: dict[str, float]
) -> dict[str, str]:
    """Column → what is wrong, for the columns of ``atol`` that differ by more than that."""
    wrong = {}
    for column, tolerance in atol.items():
        here, there = found[column], expected[column]
        if is_text(there):
            if here != there:
                wrong[column] = f"{here}, not {there}"
            continue
        if np.shape(here) != np.shape(there):
            wrong[column] = f"shape {np.shape(here)}, not {np.shape(there)}"
            continue
        error = float(np.abs(np.asarray(here, np.float64) - np.asarray(there, np.float64)).max())
        if not error <= tolerance:
            wrong[column] = f"off by {error:.3g}, more than {tolerance:g}"
    return wrong


def under_gain(value: object, law: Law, gain: float) -> object:
    """The value that a column must have after a gain, linear and maybe negative."""
    decibels = 20 * np.log10(abs(gain))
    if law.gain == "level":
        return np.asarray(value, np.float64) + decibels
    if law.gain == "sample":
        return value * gain
    if law.gain == "cepstrum":
        # The first basis vector of the orthonormal transform is 1 / sqrt(bands) throughout.
        first = np.arange(len(value)) == 0
        return np.asarray(value, np.float64) + first * decibels * np.sqrt(128)
    return value


def test_every_column_of_every_extractor_has_its_law():
    known = set()
    for extractor in REGISTRY.values():
        names = [f.name for f in extractor().columns()]
        blobs = [name.removesuffix("_blob") for name in names if name.endswith("_blob")]
        parts = {f"{blob}_{part}" for blob in blobs for part in ("blob", "inline", "shape")}
        known |= {*blobs, *names} - parts
    assert set(COLUMNS) == known


@few_examples
@given(SONGS, st.floats(-9, 9).filter(lambda g: abs(g) > 0.1))
def test_a_gain_shifts_levels_and_leaves_all_else_alone(song, decibels):
    samples = render(song)
    gain = 10 ** (decibels / 20)
    before, after = measure(samples), measure(samples * np.float32(gain))
    expected = {column: under_gain(before[column], law, gain) for column, law in COLUMNS.items()}
    assert differences(after, expected, dict.fromkeys(COLUMNS, 1e-3)) == {}


@few_examples
@given(SONGS)
def test_the_other_polarity_turns_the_offset_and_leaves_all_else_alone(song):
    samples = render(song)
    before, after = measure(samples), measure(-samples)
    expected = {column: under_gain(before[column], law, -1.0) for column, law in COLUMNS.items()}
    assert differences(after, expected, dict.fromkeys(COLUMNS, 1e-6)) == {}
    assert before["quality_dc_offset"] > 0.003


@few_examples
@given(SONGS, st.sampled_from((2, 6)))
def test_left_and_right_may_be_swapped(song, channels):
    # No column is signed by the order of a pair: width and correlation are the same from either side, and the
    # offset is that of the channel where it is largest. In 5.1 (L R C LFE Ls Rs) both pairs are swapped.
    order = [1, 0, 2, 3, 5, 4][:channels]
    samples = render(song, channels)
    before, after = measure(samples), measure(samples[order])
    assert differences(after, before, dict.fromkeys(COLUMNS, 1e-4)) == {}


@few_examples
@given(SONGS)
def test_playing_a_track_twice_leaves_its_means_alone(song):
    samples = render(song)
    once, twice = measure(samples), measure(np.concatenate([samples, samples], axis=1))
    tolerances = {column: law.twice for column, law in COLUMNS.items() if law.twice is not None}
    assert differences(twice, once, tolerances) == {}
    for matrix in ("mel", "chroma", "hpss_harmonic", "hpss_percussive", "band_energy"):
        assert twice[matrix].shape[1] == pytest.approx(2 * once[matrix].shape[1], abs=1)
    assert len(twice["tempo_beats_s"]) == pytest.approx(2 * len(once["tempo_beats_s"]), abs=2)


def test_the_songs_have_something_to_tell():
    found = measure(render(("D", "minor", 120.0, 1)))
    assert (found["key_name"], found["key_mode"]) == ("D", "minor")
    assert found["tempo_bpm"] == pytest.approx(120, abs=1)
    assert found["quality_clipping_ratio"] == found["quality_silence_ratio"] == 0.0
    assert 0.01 < found["quality_stereo_width"] < 0.99
    assert [column for column, value in found.items() if value is None] == []
