"""``hardware=auto``: what fits the cards, what leaves them, what is refused."""

import pytest

from pipeline.engine.resources import plan_resources
from pipeline.engine.sizing import GIB, VRAM_ESTIMATES, size_for_cards, size_for_cpu
from pipeline.errors import UserError

STAGES = ["decode", "features", "clap", "separation", "write"]
NEEDS = {"features": 2 * GIB, "clap": 2 * GIB, "separation": 6 * GIB}


def used(sizing):
    return sum(sizing.actors[s] / n for s, n in sizing.gpu_shares.items() if n)


@pytest.mark.parametrize("gib", [4, 8, 12, 16, 24, 40, 48, 80, 141])
@pytest.mark.parametrize("count", [1, 2, 8])
@pytest.mark.parametrize("fraction", [0.5, 0.75, 1.0])
def test_every_actor_gets_what_it_needs_within_the_budget(gib, count, fraction):
    sizing = size_for_cards(STAGES, [gib * GIB] * count, fraction, NEEDS)
    assert used(sizing) <= count
    for stage, n in sizing.gpu_shares.items():
        if n:
            assert fraction * gib * GIB / n >= NEEDS[stage]
            assert n & (n - 1) == 0
            assert 1 <= sizing.actors[stage] <= 2 * count
        else:
            assert sizing.actors[stage] == 0
            assert any(r.startswith(f"{stage} runs on the CPU") for r in sizing.reasons)
    # And the planner, which has the last word, takes it.
    plan_resources(STAGES, 16, count, sizing.gpu_shares, sizing.actors, blocks=1000)


def test_a_large_card_holds_all_three_and_a_small_one_what_fits():
    large = size_for_cards(STAGES, [80 * GIB], 0.75, NEEDS)
    assert all(large.gpu_shares.values())
    assert used(large) == 1  # nothing of the card is left idle
    assert large.block_audio_seconds == 1800
    medium = size_for_cards(STAGES, [24 * GIB], 0.75, NEEDS)
    assert all(medium.gpu_shares.values())
    assert (medium.gpu_shares["separation"], medium.block_audio_seconds) == (2, 600)
    # 9 GiB: one of 6 and no half is left for it, so it takes the card alone and the others leave.
    small = size_for_cards(STAGES, [12 * GIB], 0.75, NEEDS)
    assert small.gpu_shares == {"features": 0, "clap": 0, "separation": 1}
    # 3 GiB: separation does not fit at all.
    tiny = size_for_cards(STAGES, [4 * GIB], 0.75, NEEDS)
    assert tiny.gpu_shares == {"features": 0, "clap": 1, "separation": 0}
    assert "separation runs on the CPU: it needs 6.0 GiB of a card whose budget is 3.0 GiB" in tiny.reasons[0]
    none = size_for_cards(STAGES, [1 * GIB], 0.75, NEEDS)
    assert none.gpu_shares == {"features": 0, "clap": 0, "separation": 0}
    assert len(none.reasons) == 3


def test_the_smallest_card_decides():
    assert size_for_cards(STAGES, [80 * GIB, 4 * GIB], 0.75, NEEDS).gpu_shares["separation"] == 0


def test_what_the_user_measured_replaces_the_estimate_and_the_reason_says_which():
    sizing = size_for_cards(["separation"], [24 * GIB], 0.75, {"separation": 9 * GIB})
    assert sizing.gpu_shares == {"separation": 2}
    assert sizing.reasons == (
        "separation: 2 actor(s) of 1/2 GPU, 9.0 GiB each; it needs 9.0 GiB (hardware.vram_bytes)",
    )
    sizing = size_for_cards(["separation"], [24 * GIB], 0.75, {"separation": 0})
    assert "(an estimate)" in sizing.reasons[0]
    assert f"needs {VRAM_ESTIMATES['separation'] / GIB:.1f} GiB" in sizing.reasons[0]


def test_actors_that_the_user_fixes_are_kept_or_refused_by_name():
    assert size_for_cards(STAGES, [80 * GIB], 0.75, NEEDS, {"separation": 1}).actors["separation"] == 1
    with pytest.raises(UserError, match=r"lower hardware\.actors\.separation, or hardware\.vram_bytes"):
        size_for_cards(STAGES, [24 * GIB], 0.75, NEEDS, {"separation": 9})


def test_no_card_is_the_cpu_profile_with_its_reason():
    sizing = size_for_cpu(STAGES, "no GPU in this cluster")
    assert sizing.gpu_shares == sizing.actors == {"features": 0, "clap": 0, "separation": 0}
    assert (sizing.block_audio_seconds, sizing.max_files_per_block) == (300, 32)
    assert sizing.reasons == ("hardware=auto takes the CPU: no GPU in this cluster",)


def test_too_many_actors_are_refused_with_the_key_to_change():
    with pytest.raises(UserError, match=r"18 fit .*: hardware\.actors\.separation=0, or fewer$"):
        plan_resources(STAGES, 2, 0, {}, {"separation": 40}, blocks=1000)
    with pytest.raises(UserError, match=r": a larger ray\.num_cpus$"):
        plan_resources(STAGES, 0.25, 0, {}, {}, blocks=1000)


def test_actors_of_several_threads_share_the_cores():
    one = plan_resources(STAGES, 16, 0, {}, {}, blocks=1000, threads=1)
    four = plan_resources(STAGES, 16, 0, {}, {}, blocks=1000, threads=4)
    assert 4 * sum(r.actors for r in four.values()) <= 1.5 * sum(r.actors for r in one.values())
