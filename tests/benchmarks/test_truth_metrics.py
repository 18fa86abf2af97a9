"""The metrics of the benchmark against the truth, and its split, on answers whose worth is known."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.append(str(Path(__file__).resolve().parents[2] / "benchmarks"))

import truth_metrics as metrics
import truth_render as render
import truth_sets as sets
import truth_tables as tables


@pytest.mark.parametrize(
    ("found", "one", "two"),
    [
        (120.0, 1, 1),
        (124.7, 1, 1),
        (125.0, 0, 0),
        (115.3, 1, 1),
        (60.0, 0, 1),
        (62.3, 0, 1),
        (240.0, 0, 1),
        (360.0, 0, 1),
        (40.0, 0, 1),
        (80.0, 0, 0),
        (180.0, 0, 0),
        (None, 0, 0),
        (0.0, 0, 0),
    ],
)
def test_a_tempo_is_right_within_4_percent_of_it_and_of_its_octaves(found, one, two):
    assert metrics.accuracy(found, 120.0) == one
    assert metrics.accuracy(found, 120.0, metrics.OCTAVES) == two


@pytest.mark.parametrize(
    ("found", "true", "what", "worth"),
    [
        ("F# minor", "F# minor", "exact", 1.0),
        ("G major", "C major", "fifth above", 0.5),
        ("E minor", "A minor", "fifth above", 0.5),
        ("F major", "C major", "fifth below", 0.0),
        ("A minor", "C major", "relative", 0.3),
        ("C major", "A minor", "relative", 0.3),
        ("D# minor", "F# major", "relative", 0.3),
        ("C minor", "C major", "parallel", 0.2),
        ("E minor", "C major", "other", 0.0),
        ("D major", "C major", "other", 0.0),
        (None, "C major", "none", 0.0),
    ],
)
def test_a_wrong_key_is_worth_what_mirex_gives(found, true, what, worth):
    assert metrics.relation(found, true) == what
    assert metrics.key_score(found, true) == worth


@pytest.mark.parametrize(
    ("found", "true", "off"), [(12.0, 10.0, 2.0), (-49.0, 49.0, 2.0), (40.0, -40.0, 20.0), (0.0, 50.0, 50.0)]
)
def test_a_tuning_is_off_by_half_a_semitone_at_most(found, true, off):
    assert metrics.cents_off(found, true) == pytest.approx(off)
    assert metrics.cents_off(None, true) is None


def test_the_more_confident_half():
    confidence, right = [0.9, None, 0.1, 0.8, 0.5], [1.0, 0.0, 0.0, 1.0, 0.0]
    assert metrics.upper_half(confidence, right) == pytest.approx(2 / 3)
    assert metrics.upper_half([None, None], [1.0, 0.0]) == 1.0


def test_a_confidence_that_is_the_share_of_right_answers_has_no_error():
    confidence = np.repeat([0.1, 0.3, 0.5, 0.7, 0.9], 10)
    right = np.concatenate([[1.0] * round(10 * c) + [0.0] * (10 - round(10 * c)) for c in confidence[::10]])
    assert metrics.calibration_error(confidence, right) == pytest.approx(0.0, abs=1e-12)
    assert metrics.calibration_error(1.0 - confidence, right) == pytest.approx(0.48)
    parts = metrics.bins(confidence, right)
    np.testing.assert_allclose(parts, [(c, c, 10) for c in (0.1, 0.3, 0.5, 0.7, 0.9)])
    assert metrics.calibration_error([None], [1.0]) is None


def test_notes_of_a_chord_begin_once():
    assert metrics.together([0.0, 0.01, 0.02, 0.03, 1.0, 1.029, 1.04]) == [0.0, 0.03, 1.0, 1.04]


def test_the_split_is_by_name_and_in_two_parts_of_about_the_same_size():
    names = [f"piece {number}" for number in range(400)]
    parts = [sets.part_of(name) for name in names]
    assert 150 < parts.count("develop") < 250
    assert set(parts) == set(sets.PARTS)
    assert parts == [sets.part_of(name) for name in names]
    # A piece that would change sides would make the held-out part known.
    assert [sets.part_of(name) for name in ("bach-bwv25.6", "moo_redfarn")] == ["held_out", "held_out"]
    assert [sets.part_of(name) for name in ("bach-bwv279", "feelings")] == ["develop", "develop"]


def test_renderings_of_a_piece_are_in_one_part():
    renderings = [
        sets.Piece("openttd", "moo", f"moo@{font}", "x.flac", 75.0) for font in ("TimGM6mb", "FluidR3_GM")
    ]
    assert len({piece.part for piece in renderings}) == 1


def test_the_tempo_of_a_midi_file(tmp_path):
    midi = tmp_path / "notes.mid"
    tempo = b"\xff\x51\x03" + round(60e6 / 170).to_bytes(3, "big")
    midi.write_bytes(b"MThd" + tempo + b"..." + tempo)
    assert sets.only_tempo(midi) == pytest.approx(170.0, abs=0.001)
    midi.write_bytes(b"MThd" + tempo + b"\xff\x51\x03" + (500_000).to_bytes(3, "big"))
    with pytest.raises(ValueError, match="2 tempi"):
        sets.only_tempo(midi)


def clicks(times: np.ndarray, seconds: float) -> np.ndarray:
    """A burst of noise of 20 ms at each time."""
    audio = 1e-4 * np.random.default_rng(0).standard_normal(round(seconds * render.RATE))
    for time in times:
        first = round(time * render.RATE)
        burst = np.random.default_rng(1).standard_normal(882)
        audio[first : first + 882] += burst[: len(audio) - first]
    return audio


def test_a_tempo_map_fits_audio_that_plays_it():
    beats = np.arange(0.0, 38.0, 0.5)
    found = render.fit(clicks(beats + 0.02, 40.0), beats)
    assert found["fits"] is True
    assert found["shift"] == pytest.approx(0.02, abs=0.012)


def test_a_tempo_map_does_not_fit_audio_of_another_tempo():
    beats = np.arange(0.0, 60.0, 0.5)
    assert render.fit(clicks(np.arange(0.0, 60.0, 60 / 126.5), 61.0), beats)["fits"] is False


def row(contender: str, true: dict, answer: dict, times: dict | None = None) -> dict:
    true = {"drums": False, "meter": None, **true}
    return {
        "contender": contender,
        "set": "folk",
        "piece": "x",
        "true": true,
        "answer": answer,
        "times": times or {},
    }


def test_tables_name_sets_and_count_what_has_no_answer_as_wrong(capsys):
    rows = [
        row("ours", {"key": "C major"}, {"key": "C major", "key_confidence": 0.9}),
        row("ours", {"key": "C major"}, {"key": None, "key_confidence": None}),
        row("peer", {"key": "C major"}, {"error": "it broke"}),
    ]
    tables.show("key", rows)
    printed = capsys.readouterr().out
    assert "### Key: folk, alone, 1 files" in printed
    assert "| ours | 0.500 | 0.500 | 0.000 |" in printed
    assert "| peer | 0.000 | 0.000 |" in printed
    assert "| ours | 0.900 | 1.000 | 1 |" in printed


def test_what_a_contender_does_not_know_is_a_dash(capsys):
    true = {"tempo": 120.0, "meter": 4}
    rows = [
        row(
            "ours",
            true,
            {"tempo": 60.0, "beats": [], "meter": 4},
            {"beats": {"F": 0.5, "CMLt": 0.25, "AMLt": 1.0}},
        ),
        row("peer", true, {"tempo": 121.0}),
    ]
    tables.show("beats", rows)
    printed = capsys.readouterr().out
    assert "| ours | 0.000 | 1.000 | 0.500 | 0.250 | 1.000 | – | 1.000 |" in printed
    assert "| peer | 1.000 | 1.000 | – | – | – | – | – |" in printed
