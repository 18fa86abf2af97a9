"""What the adaptive mode makes of a preset for a song, and what a preset refuses."""

from __future__ import annotations

import pytest

from pipeline.mastering.levels import Levels
from pipeline.mastering.presets import Preset
from pipeline.mastering.rules import adapt, drive_db
from pipeline.workflows.master_presets import folder, presets

CEILING = -1.0
PRESET = Preset(lufs=-14.0, ratio=2.0, max_compression_db=4.0, attack_ms=20.0, release_ms=200.0, width_db=1.0)
# Peaks 7 dB too high for -14 LUFS, dynamics that are neither wide nor gone.
OPEN = Levels(lufs=-20.0, lra_lu=6.0, true_peak_dbtp=0.0, short_term_lufs=-17.0, loud_dbfs=-15.0)


def test_a_song_that_needs_nothing_gets_nothing():
    easy = Levels(lufs=-14.0, lra_lu=6.0, true_peak_dbtp=-2.0)
    adapted = adapt(PRESET, easy, {}, CEILING)
    assert (adapted.preset.ratio, adapted.preset.max_compression_db) == (1.0, 0.0)
    assert "no compression" in adapted.reasons[0]


def test_the_compressor_takes_half_of_what_the_peaks_have_too_much():
    assert drive_db(PRESET, OPEN, CEILING) == pytest.approx(7.0)
    assert adapt(PRESET, OPEN, {}, CEILING).preset.max_compression_db == pytest.approx(3.5)


def test_wide_dynamics_are_left():
    compressed = [
        adapt(PRESET, Levels(lufs=-20.0, lra_lu=lra, true_peak_dbtp=0.0), {}, CEILING).preset
        for lra in (10.0, 15.0, 20.0, 30.0)
    ]
    assert [p.max_compression_db for p in compressed] == pytest.approx([3.5, 1.75, 0.0, 0.0])
    assert [p.ratio for p in compressed] == pytest.approx([2.0, 1.5, 1.0, 1.0])


def test_a_preset_that_does_not_compress_has_no_reasons_about_it():
    still = Preset(lufs=-14.0, ratio=2.0, max_compression_db=0.0)
    known = {"onset_rate_hz": 9.0, "tempo_bpm": 120.0, "rhythm_stability": 0.9}
    assert adapt(still, OPEN, known, CEILING).reasons == ()


def test_a_dense_song_is_not_compressed_again_and_changed_less():
    tone = Preset(lufs=-8.0, ratio=2.0, high_shelf_db=4.0, balance=0.5)
    dense = adapt(tone, Levels(lufs=-9.0, lra_lu=3.0, true_peak_dbtp=-5.0), {}, CEILING)
    assert dense.preset.max_compression_db == 0.0
    assert (dense.preset.high_shelf_db, dense.preset.balance) == (2.0, 0.25)
    assert "dense" in dense.reasons[-1]


@pytest.mark.parametrize(
    ("width", "correlation", "wanted"), [(0.1, 0.8, 1.0), (0.4, 0.8, 0.0), (0.1, 0.0, 0.0), (None, 0.0, 1.0)]
)
def test_what_is_wide_or_out_of_phase_is_not_widened(width, correlation, wanted):
    known = {"stereo_width": width, "phase_correlation": correlation}
    assert adapt(PRESET, OPEN, known, CEILING).preset.width_db == wanted


def test_many_onsets_get_a_longer_attack():
    attacks = [
        adapt(PRESET, OPEN, {"onset_rate_hz": rate}, CEILING).preset.attack_ms for rate in (1.0, 4.5, 9.0)
    ]
    assert attacks == pytest.approx([20.0, 25.0, 30.0])


def test_a_steady_beat_sets_the_release():
    steady = {"tempo_bpm": 120.0, "rhythm_stability": 0.9}
    # Half of the way, in octaves, from 200 ms to an eighth note of 250 ms.
    assert adapt(PRESET, OPEN, steady, CEILING).preset.release_ms == pytest.approx((200.0 * 250.0) ** 0.5)
    assert adapt(PRESET, OPEN, {**steady, "rhythm_stability": 0.2}, CEILING).preset.release_ms == 200.0


def test_nothing_known_changes_nothing_but_what_levels_say():
    assert adapt(PRESET, Levels(), {}, CEILING).preset == PRESET


def test_the_presets_are_those_that_are_promised():
    lufs = {name: preset.lufs for name, preset in presets().items()}
    assert lufs == {
        "adaptive": -14.0,
        "gentle": -16.0,
        "warm": -13.0,
        "bright": -12.0,
        "punchy": -14.0,
        "live": -13.5,
        "club": -9.0,
        "spotify": -14.0,
        "youtube": -14.0,
        "tidal": -14.0,
        "apple": -16.0,
        "broadcast": -23.0,
    }
    assert {path.stem for path in folder().glob("*.yaml")} == {*lufs, "default"}


@pytest.mark.parametrize("name", ["spotify", "youtube", "tidal", "apple", "broadcast"])
def test_delivery_targets_change_loudness_alone(name):
    preset = presets()[name]
    assert (preset.balance, preset.ratio, preset.tilt_db_per_octave, preset.width_db) == (0.0, 1.0, 0.0, 0.0)


@pytest.mark.parametrize(
    "values",
    [
        {"loudness": -14.0},
        {"lufs": 0.0},
        {"ratio": 0.5},
        {"crossovers_hz": [500.0, 100.0]},
        {"attack_ms": float("nan")},
    ],
)
def test_what_no_preset_can_be_is_refused_by_name(values):
    with pytest.raises(ValueError, match=next(iter(values))):
        Preset.of(values)
