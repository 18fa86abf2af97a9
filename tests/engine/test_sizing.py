"""``hardware=auto``: what fits the cards, in which batches, what leaves them, what is refused."""

import functools
import itertools

import pytest

from pipeline.engine import resources, sizing, vram
from pipeline.engine.resources import DECODE_WEIGHT, WRITE_WEIGHT
from pipeline.engine.vram import CONTEXT_BYTES, GIB, MEASURED, tensor_gib
from pipeline.errors import UserError
from pipeline.stages.clap.spec import clap_stage
from pipeline.stages.features.spec import features_stage
from pipeline.stages.separation.spec import separation_stage

STAGES = ["decode", "features", "clap", "separation", "write"]
DECLARED = {
    stage.name: stage
    for stage in (
        features_stage([], 22050),
        clap_stage("checkpoint", "key", None),
        separation_stage(["auto"], "key"),
    )
}
WEIGHTS = {"decode": DECODE_WEIGHT, "write": WRITE_WEIGHT, **{n: s.weight for n, s in DECLARED.items()}}
NETWORKS = {name: stage.gpu.networks for name, stage in DECLARED.items() if stage.gpu}
plan_resources = functools.partial(resources.plan_resources, weights=WEIGHTS)
ON_THE_CPU = {"clap": 0, "separation": 0}


def size_for_cards(stages, *arguments, **more):
    return sizing.size_for_cards([DECLARED[name] for name in stages if name in DECLARED], *arguments, **more)


def batch_bytes(stage, items):
    return vram.batch_bytes(NETWORKS[stage], items)


def used(sized):
    return sum(sized.actors[s] / n for s, n in sized.gpu_shares.items() if n)


@pytest.mark.parametrize("network", sorted(MEASURED))
def test_the_line_runs_through_what_was_measured(network):
    for items, peak in MEASURED[network].items():
        assert tensor_gib(*network, items) == pytest.approx(peak, rel=0.05, abs=0.18)


@pytest.mark.parametrize("stage", sorted(NETWORKS))
def test_what_is_set_aside_for_a_batch_holds_what_was_measured(stage):
    for network in NETWORKS[stage]:
        for items, peak in MEASURED[network].items():
            assert batch_bytes(stage, items) > 1.1 * peak * GIB
    sizes = [batch_bytes(stage, items) for items in range(1, 257)]
    assert all(a < b for a, b in itertools.pairwise(sizes))


def test_a_batch_that_fits_in_bfloat16_fits_in_float32_once_it_is_halved():
    for network, dtype in MEASURED:
        if dtype == "float32" and (network, "bfloat16") in MEASURED:
            for items in (4, 8, 16, 32, 64, 128):
                assert tensor_gib(network, dtype, items // 2) <= tensor_gib(network, "bfloat16", items)


@pytest.mark.parametrize("gib", [2, 4, 6, 8, 12, 15.7, 16, 24, 39.4, 40, 48, 79.2, 80, 141])
@pytest.mark.parametrize("count", [1, 2, 8])
@pytest.mark.parametrize("fraction", [0.5, 0.75, 1.0])
def test_every_batch_fits_its_actors_part_and_all_of_them_the_card(gib, count, fraction):
    card = int(gib * GIB)
    sized = size_for_cards(STAGES, [card] * count, fraction)
    assert used(sized) <= count
    assert "features" not in sized.gpu_shares
    on_a_card = 0
    for stage, n in sized.gpu_shares.items():
        items, batch = sized.batch_items[stage], DECLARED[stage].gpu
        if n:
            need = batch_bytes(stage, items)
            assert need <= fraction * card / n
            assert n & (n - 1) == 0
            assert items & (items - 1) == 0
            assert batch.least <= items <= batch.most
            assert 1 <= sized.actors[stage] <= count, "one process per network and card"
            on_a_card += need + CONTEXT_BYTES
        else:
            assert sized.actors[stage] == items == 0
            assert any(r.startswith(f"{stage} runs on the CPU") for r in sized.reasons)
    if sum(1 / n for n in sized.gpu_shares.values() if n) <= 1:
        assert on_a_card <= card
    # And the planner, which has the last word, takes it.
    plan = plan_resources(STAGES, 16, count, sized.gpu_shares, sized.actors, blocks=1000)
    assert {s for s, r in plan.items() if r.num_gpus} == {s for s, n in sized.gpu_shares.items() if n}
    assert plan["decode"].actors <= 16


@pytest.mark.parametrize("cpus", [1, 2, 4, 8, 16, 64])
@pytest.mark.parametrize("stages", [STAGES, ["decode", "separation", "write"], ["decode", "write"]])
def test_no_more_actors_decode_than_there_are_cores(cpus, stages):
    sized = size_for_cards(stages, [24 * GIB], 0.75)
    plan = plan_resources(stages, cpus, 1, sized.gpu_shares, sized.actors, blocks=1000)
    assert 1 <= plan["decode"].actors <= cpus


@pytest.mark.parametrize(
    ("gib", "clips", "windows"), [(8, 64, 4), (16, 64, 8), (24, 64, 16), (40, 64, 32), (80, 64, 32)]
)
def test_the_usual_cards_are_shared_by_clap_and_separation(gib, clips, windows):
    for reported in (gib, 0.97 * gib):
        sized = size_for_cards(STAGES, [int(reported * GIB)], 0.75)
        assert sized.gpu_shares == {"clap": 2, "separation": 2}
        assert sized.actors == {"clap": 1, "separation": 1}
        assert sized.batch_items == {"clap": clips, "separation": windows}
        assert (sized.block_audio_seconds, sized.max_files_per_block) == (300, 64)


def test_on_a_small_card_the_stage_with_most_to_gain_stays():
    small = size_for_cards(STAGES, [6 * GIB], 0.75)
    assert small.gpu_shares == {"clap": 0, "separation": 1}
    assert small.batch_items == {"clap": 0, "separation": 8}
    assert small.reasons[0] == "clap runs on the CPU: the other stages fill the 1 GPU"
    tiny = size_for_cards(STAGES, [3 * GIB], 0.75)
    assert tiny.gpu_shares == {"clap": 1, "separation": 0}
    assert "separation runs on the CPU: it needs 2.3 GiB of a card whose budget is" in tiny.reasons[0]
    none = size_for_cards(STAGES, [1 * GIB], 0.75)
    assert none.gpu_shares == none.actors == none.batch_items == ON_THE_CPU
    assert len(none.reasons) == 2
    assert (none.block_audio_seconds, none.max_files_per_block) == (300, 32)


def test_a_network_that_has_the_card_for_itself_takes_all_of_it():
    alone = size_for_cards(["decode", "separation", "write"], [16 * GIB], 0.75)
    assert (alone.gpu_shares, alone.batch_items) == ({"separation": 1}, {"separation": 32})


def test_cards_too_small_for_both_are_divided_among_them():
    sized = size_for_cards(STAGES, [6 * GIB] * 2, 0.75)
    assert (sized.gpu_shares, sized.actors) == ({"clap": 1, "separation": 1}, {"clap": 1, "separation": 1})


def test_the_smallest_card_decides():
    assert size_for_cards(STAGES, [80 * GIB, 8 * GIB], 0.75).batch_items == {"clap": 64, "separation": 4}


def test_what_the_user_measured_replaces_the_table_and_the_reason_says_which():
    sized = size_for_cards(["separation"], [24 * GIB], 0.75, vram_bytes={"separation": 9 * GIB})
    assert (sized.gpu_shares, sized.batch_items) == ({"separation": 1}, {"separation": 0})
    assert sized.reasons == (
        "separation: 1 actor of 1/1 GPU, 18.0 GiB each; it needs 9.0 GiB (hardware.vram_bytes)",
    )
    sized = size_for_cards(["separation"], [24 * GIB], 0.75, vram_bytes={"separation": 0})
    assert "32 windows at a time take 11.6 GiB" in sized.reasons[0]
    both = size_for_cards(STAGES, [24 * GIB], 0.75, vram_bytes={"separation": 10 * GIB})
    assert both.gpu_shares == {"clap": 0, "separation": 1}


def test_batches_that_the_user_fixes_are_kept_where_they_fit():
    fixed = size_for_cards(STAGES, [80 * GIB], 0.75, fixed_items={"clap": 100, "separation": 3})
    assert fixed.batch_items == {"clap": 100, "separation": 3}
    told = size_for_cards(STAGES, [80 * GIB], 0.75, vram_bytes={"clap": 5 * GIB}, fixed_items={"clap": 100})
    assert told.batch_items["clap"] == 100
    small = size_for_cards(STAGES, [24 * GIB], 0.75, fixed_items={"separation": 64})
    assert small.gpu_shares == {"clap": 1, "separation": 0}
    assert small.batch_items == {"clap": 64, "separation": 0}


def test_actors_that_the_user_fixes_are_kept_or_refused_by_name():
    two = size_for_cards(STAGES, [80 * GIB], 0.75, fixed_actors={"clap": 2})
    assert (two.actors, two.gpu_shares) == ({"clap": 2, "separation": 1}, {"clap": 4, "separation": 2})
    with pytest.raises(UserError, match=r"lower hardware\.actors\.clap, or hardware\.vram_bytes"):
        size_for_cards(STAGES, [24 * GIB], 0.75, fixed_actors={"clap": 9})


def test_no_card_is_the_cpu_profile_with_its_reason():
    sized = sizing.size_for_cpu(list(DECLARED.values()), "no GPU in this cluster")
    assert sized.gpu_shares == sized.actors == sized.batch_items == ON_THE_CPU
    assert (sized.block_audio_seconds, sized.max_files_per_block) == (300, 32)
    assert sized.reasons == ("hardware=auto takes the CPU: no GPU in this cluster",)


def test_too_many_actors_are_refused_with_the_key_to_change():
    with pytest.raises(UserError, match=r"18 fit .*: hardware\.actors\.separation=0, or fewer$"):
        plan_resources(STAGES, 2, 0, {}, {"separation": 40}, blocks=1000)
    with pytest.raises(UserError, match=r": a larger ray\.num_cpus$"):
        plan_resources(STAGES, 0.25, 0, {}, {}, blocks=1000)


def test_actors_of_several_threads_share_the_cores():
    one = plan_resources(STAGES, 16, 0, {}, {}, blocks=1000, threads=1)
    four = plan_resources(STAGES, 16, 0, {}, {}, blocks=1000, threads=4)
    assert sum(r.actors for r in one.values()) <= 1.25 * 16
    assert 4 * sum(r.actors for r in four.values()) <= 2 * 16, "of five stages each has one"
