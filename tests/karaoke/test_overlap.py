"""Signs from how what was left lies against what was removed, on signals whose answer is known."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pipeline.karaoke.overlap import JudgedSums, OverlapSums
from pipeline.karaoke.spectra import GROUP, HOP_LENGTH, Pair, power, spectrum

FRAMES = 8 * GROUP


@pytest.fixture(scope="module")
def stems() -> tuple[torch.Tensor, torch.Tensor]:
    """A backing and a voice, independent noise of changing level: spectra, complex ``[2, frames, bins]``."""
    samples = torch.from_numpy(
        np.random.default_rng(5).standard_normal((2, 2, (FRAMES + 1) * HOP_LENGTH)).astype(np.float32)
    )
    swell = 1.0 + 0.9 * torch.sin(torch.arange(samples.shape[-1]) / 9000.0)
    return spectrum(0.1 * samples[0]), spectrum(0.1 * swell * samples[1])


def signs(mix: torch.Tensor, left: torch.Tensor) -> dict[str, float]:
    sums = OverlapSums()
    sums.add(Pair(mix, left))
    return sums.evidence()


def judged(
    mix: torch.Tensor, left: torch.Tensor, voice: torch.Tensor, refound: torch.Tensor
) -> dict[str, float]:
    sums = JudgedSums()
    sums.add(Pair(mix, left), voice, refound)
    return sums.evidence()


def test_the_truth_is_neither_in_phase_nor_out_of_it(stems):
    backing, voice = stems
    found = signs(backing + voice, backing)
    assert abs(found["in_phase"]) < 0.05
    assert abs(found["overlap"]) < 0.05
    # Two channels of independent noise: cosines of single cells are anything between -1 and 1.
    assert found["phase"] == pytest.approx(0.5, abs=0.1)


def test_a_mask_is_in_phase_everywhere(stems):
    backing, voice = stems
    mix = backing + voice
    found = signs(mix, mix * (power(backing) / (power(backing) + power(voice))))
    assert found["in_phase"] == pytest.approx(1.0, abs=1e-3)
    assert found["phase"] == pytest.approx(1.0, abs=1e-3)
    assert found["over"] < -30


def test_too_little_removed_is_under_and_too_much_is_over(stems):
    backing, voice = stems
    mix = backing + voice
    little, much = (signs(mix, mix - share * voice) for share in (0.5, 1.5))
    assert little["under"] > little["over"] + 10
    assert much["over"] > much["under"] + 10
    assert little["in_phase"] > 0.1 > -0.1 > much["in_phase"]


def test_half_left_is_all_ambiguous_and_a_gate_is_all_apart(stems):
    backing, voice = stems
    mix = backing + voice
    half = signs(mix, 0.5 * mix)
    assert half["ambiguous"] == pytest.approx(0.0, abs=0.01)
    assert half["apart_left"] < -30
    gated = signs(mix, mix * (power(backing) > power(voice)))
    assert gated["apart_left"] == pytest.approx(0.0, abs=0.01)
    assert gated["apart_removed"] == pytest.approx(0.0, abs=0.01)
    assert gated["ambiguous"] < -30


def test_nothing_removed_and_nothing_left_are_finite(stems):
    mix = sum(stems)
    for left in (mix, torch.zeros_like(mix)):
        for found in (signs(mix, left), judged(mix, left, stems[1], torch.zeros_like(mix))):
            assert all(np.isfinite(value) for value in found.values())
            assert all(-41 < value < 41 for value in found.values())


def test_a_judge_that_knows_the_voice_marks_what_was_removed(stems):
    backing, voice = stems
    mix, nothing = backing + voice, torch.zeros_like(backing)
    right, wrong = judged(mix, backing, voice, nothing), judged(mix, mix, voice, voice)
    assert right["wrong"] < -30
    assert wrong["wrong"] > -6
    assert right["posterior"] > wrong["posterior"]
    assert wrong["refound_moves"] == pytest.approx(1.0, abs=0.05)
    assert right["voice_apart"] < -30
    assert wrong["voice_apart"] == pytest.approx(0.0, abs=0.01)


def test_sums_of_two_halves_are_those_of_the_whole(stems):
    backing, voice = stems
    mix, left = backing + voice, backing + 0.3 * voice
    whole, halves = OverlapSums(), OverlapSums()
    whole.add(Pair(mix, left))
    for part in (slice(0, FRAMES // 2), slice(FRAMES // 2, FRAMES)):
        halves.add(Pair(mix[:, part], left[:, part]))
    assert halves.evidence() == pytest.approx(whole.evidence(), abs=1e-4)
