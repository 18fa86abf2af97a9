"""Packing, resources, clocks, reconciliation: what needs no Ray."""

import functools
import json
import time
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from helpers.standard_schemas import KNOWN

from pipeline.dataset.contents import Product
from pipeline.dataset.sources.listing import SourceItem
from pipeline.engine import resources
from pipeline.engine.batch import Track, add_stage, collect, pcm_array, tracks_of
from pipeline.engine.packing import PlannedFile, pack, part_name, planned
from pipeline.engine.progress import FALLBACK_KINDS, OTHERS, Progress
from pipeline.engine.reconcile import lost_rows, missing_files, one_by_one
from pipeline.engine.resources import DECODE_WEIGHT, WRITE_WEIGHT, Workload
from pipeline.engine.timing import Cost, StageClock
from pipeline.engine.worker import fields_of
from pipeline.errors import Fallback, UserError
from pipeline.stages.clap.spec import WEIGHT as CLAP_WEIGHT
from pipeline.stages.features.spec import WEIGHT as FEATURES_WEIGHT
from pipeline.stages.features.spec import known_extractors
from pipeline.stages.separation.spec import WEIGHTS


def test_packing_keeps_order_and_loses_nothing():
    items = [SourceItem(f"/a/{i}.mp3", size_bytes=20_000 * (1 + i % 7)) for i in range(100)]
    blocks = list(pack(planned(items), block_seconds=10, max_files=8))
    assert [i for b in blocks for i in b["index"].to_pylist()] == list(range(100))
    assert [u for b in blocks for u in b["uri"].to_pylist()] == [i.uri for i in items]
    assert max(b.num_rows for b in blocks) <= 8


def test_long_files_stay_alone_and_tiny_ones_share():
    long = [SourceItem(f"{i}.wav", size_bytes=176_400 * 600) for i in range(3)]
    tiny = [SourceItem(f"{i}.wav", size_bytes=1000) for i in range(64)]
    assert [b.num_rows for b in pack(planned(long), 300, 32)] == [1, 1, 1]
    assert [b.num_rows for b in pack(planned(tiny), 300, 32)] == [32, 32]


STAGES = ["decode", "features", "clap", "separation", "write"]
WEIGHTS = {
    "decode": DECODE_WEIGHT,
    "features": FEATURES_WEIGHT,
    "clap": CLAP_WEIGHT,
    "separation": WEIGHTS["demucs"],
    "write": WRITE_WEIGHT,
}
plan_resources = functools.partial(resources.plan_resources, weights=WEIGHTS)


@pytest.mark.parametrize("cpus", [1, 2, 4, 16, 64])
def test_all_pools_at_full_size_fit_with_room_to_spare(cpus):
    plan = plan_resources(STAGES, cpus, 0, {}, {}, blocks=1000)
    assert sum(r.actors * r.num_cpus for r in plan.values()) < cpus
    assert all(r.actors >= 1 and r.num_cpus > 0 and r.num_gpus == 0 for r in plan.values())
    assert sum(r.actors for r in plan.values()) >= cpus


@pytest.mark.parametrize("nodes", [[2, 2, 2], [16, 16, 16, 1], [1] * 7, [64, 0.5], [3]])
def test_every_actor_fits_on_a_node_whole(nodes):
    """Seven actors of 0.77 CPU are less than three nodes of 2 CPUs, and the seventh would never start."""
    plan = plan_resources(
        ["decode", "features", "write"],
        sum(nodes),
        0,
        {},
        {"decode": 3, "features": 3},
        blocks=1000,
        node_cpus=nodes,
    )
    free = [float(cpus) for cpus in nodes]
    for stage in plan.values():
        for _ in range(stage.actors):
            place = max(range(len(free)), key=free.__getitem__)
            free[place] -= stage.num_cpus
            assert free[place] > 0, plan


def test_what_runs_on_a_card_takes_no_cpu_that_others_could_hold():
    plan = plan_resources(
        STAGES, 48, 2, {"clap": 2, "separation": 2}, {}, blocks=1000, node_cpus=[16, 16, 16]
    )
    assert {s: plan[s].num_cpus > 0 for s in STAGES} == {
        "decode": True,
        "features": True,
        "clap": False,
        "separation": False,
        "write": True,
    }


def test_never_more_actors_than_blocks():
    assert all(r.actors == 1 for r in plan_resources(STAGES, 64, 0, {}, {}, blocks=1).values())


@pytest.mark.parametrize("cpus", [1, 2, 4, 16, 64])
@pytest.mark.parametrize(
    "stages", [STAGES, ["decode", "features", "write"], ["decode", "write"], ["decode", "clap", "write"]]
)
def test_no_pool_is_larger_than_the_cores_and_all_together_hardly(cpus, stages):
    plan = plan_resources(stages, cpus, 0, {}, {}, blocks=10_000)
    assert all(stage.actors <= cpus for stage in plan.values())
    assert sum(stage.actors for stage in plan.values()) <= 1.25 * cpus + len(stages)


def test_an_actor_on_a_card_has_a_core_of_its_own():
    shares = {"clap": 2, "separation": 2}
    plan = plan_resources(STAGES, 16, 1, shares, {}, blocks=1000)
    assert sum(plan[s].actors for s in ("decode", "features", "write")) <= 16
    alone = plan_resources(["decode", "features", "write"], 16, 0, {}, {}, blocks=1000)
    assert sum(r.actors for r in plan.values()) <= sum(r.actors for r in alone.values())


def test_a_handful_of_files_feeds_a_handful_of_actors():
    """120 files of 30 s are eight seconds of decoding: sixteen processes for it would only be in each other's way."""
    few = plan_resources(["decode", "write"], 16, 0, {}, {}, blocks=120, work=Workload(600))
    assert (few["decode"].actors, few["write"].actors) == (2, 1)
    many = plan_resources(["decode", "write"], 16, 0, {}, {}, blocks=1200, work=Workload(36_000))
    assert many == plan_resources(["decode", "write"], 16, 0, {}, {}, blocks=1200)
    fixed = plan_resources(["decode", "write"], 16, 0, {}, {"decode": 7}, blocks=120, work=Workload(600))
    assert fixed["decode"].actors == 7, "what the config fixes stays"


def test_very_many_tiny_files_have_every_core():
    """10,000 files of a tenth of a second are little audio, and hundreds of seconds of work."""
    tiny = plan_resources(["decode+features+write"], 2, 0, {}, {}, blocks=40, work=Workload(93.0, 10_000))
    assert tiny["decode+features+write"].actors == 2
    as_many_as_ever = plan_resources(STAGES, 16, 0, {}, {}, blocks=400)
    assert plan_resources(STAGES, 16, 0, {}, {}, blocks=400, work=Workload(93.0, 10_000)) == as_many_as_ever


def test_a_stage_that_costs_little_takes_few_cores():
    stages = ["decode", "features", "separation", "write"]
    network = plan_resources(stages, 16, 0, {}, {}, blocks=1000)
    plain = plan_resources(stages, 16, 0, {}, {}, blocks=1000, weights=WEIGHTS | {"separation": 1.0})
    assert network["separation"].actors > network["features"].actors
    assert plain["separation"].actors < plain["features"].actors


def test_gpu_shares_are_one_over_n_and_fit_the_card():
    plan = plan_resources(STAGES, 16, 1, {"clap": 4, "separation": 2}, {}, blocks=100)
    assert [plan[s].num_gpus for s in STAGES] == [0, 0, 0.25, 0.5, 0]
    with pytest.raises(UserError, match="need 1.5 GPUs"):
        plan_resources(STAGES, 16, 1, {"clap": 1, "separation": 2}, {}, blocks=100)
    with pytest.raises(UserError, match="hardware=cpu"):
        plan_resources(STAGES, 16, 0, {"clap": 4}, {}, blocks=100)


def test_the_clock_hands_out_exactly_what_was_spent():
    clock = StageClock()
    costs = [[Cost("a", compute_s=0.01)], [Cost("b"), Cost("c")], []]
    time.sleep(0.05)
    clock.share_rest(costs, [3.0, 1.0, 99.0])
    total = time.perf_counter() - clock.started
    shared = sum(c.compute_s for asset in costs for c in asset)
    assert shared == pytest.approx(total, rel=0.02)
    assert costs[0][0].compute_s - 0.01 == pytest.approx(3 * (costs[1][0].compute_s * 2), rel=1e-6)


def test_the_clock_shares_equally_where_there_is_no_audio():
    clock = StageClock()
    costs = [[Cost("a")], [Cost("a")]]
    clock.share_rest(costs, [0.0, 0.0])
    assert costs[0][0].compute_s == costs[1][0].compute_s > 0


def test_audio_columns_come_back_bit_for_bit_and_without_a_copy():
    rng = np.random.default_rng(0)
    arrays = [rng.standard_normal((2, 5)).astype(np.float32), None, np.zeros((1, 0), np.float32)]
    views = [{"native": ("native", 8000, 2)}, {}, {"native": ("native", 8000, 1)}]
    table = pa.table(
        {
            "index": [0, 1, 2],
            "uri": ["a", "b", "c"],
            "views": [json.dumps(v) for v in views],
            "pcm@native": pcm_array(arrays),
        }
    )
    first, missing, empty = tracks_of(table)
    np.testing.assert_array_equal(first.audio("native"), arrays[0])
    assert not first.audio("native").flags.owndata
    assert first.view_rate("native") == 8000
    assert not missing.decoded
    assert empty.audio("native").shape == (1, 0)


def test_add_stage_records_everything_and_drops_what_nobody_needs():
    table = pa.table(
        {"index": [0], "uri": ["a"], "duration_s": [2.0], "done_at": [time.time() - 5], "pcm@x": [b""]}
    )
    [track] = tracks_of(table)
    track.values["n"] = 3
    track.costs.append(Cost("s"))
    track.fail("s", RuntimeError("a\nb  c"))
    track.fallbacks.append(Fallback("s", "w", "u", "r"))
    out = add_stage(
        table, [track], "s", [pa.field("n", pa.int32())], StageClock(), drop={"pcm@x"}.__contains__
    )
    assert out["n"].to_pylist() == [3]
    assert "pcm@x" not in out.column_names
    [[failure]] = collect(out, "failures")
    assert (failure["error_class"], failure["message"], failure["attempts"]) == ("RuntimeError", "a b c", 1)
    assert failure["first_seen"].tzinfo is not None
    assert collect(out, "fallbacks") == [[{"stage": "s", "wanted": "w", "used": "u", "reason": "r"}]]
    [[timing]] = collect(out, "timings")
    assert timing["wait_s"] == pytest.approx(5, abs=1)
    assert timing["compute_s"] > 0


@pytest.mark.parametrize(
    "name", ["onset_rate_hz", "band_edges_hz", "band_energy_share", "loudness_integrated_lufs"]
)
def test_a_value_of_the_wrong_type_costs_its_own_track_and_product_only(name):
    """Whose column it is says the declaration: of some the name begins with another word than its extractor's."""
    product = next(p for p in known_extractors() if name in p.names)
    product = replace(product, key="abc")
    other = Product("x", (pa.field("x_value", pa.float32()),), key="def")
    kind = next(f.type for f in product.columns if f.name == name)
    right = [1.5] if pa.types.is_list(kind) else 1.5
    table = pa.table({"index": [0, 1], "uri": ["a", "b"], "duration_s": [1.0, 1.0], "done_at": [0.0, 0.0]})
    good, bad = tracks_of(table)
    for track, value in ((good, right), (bad, "oops")):
        track.costs.append(Cost("features"))
        keys = {f"key@{product.name}": product.key, "key@x": other.key}
        track.values.update({name: value, "x_value": 0.5, **keys})
    products = (product, other)
    out = add_stage(table, [good, bad], "features", fields_of(products), StageClock(), products=products)
    assert out[name].to_pylist() == [right, None]
    assert out[f"key@{product.name}"].to_pylist() == ["abc", None]
    assert out["x_value"].to_pylist() == [0.5, 0.5]
    assert out["key@x"].to_pylist() == ["def", "def"]
    [[], [failure]] = collect(out, "failures")
    assert (failure["stage"], failure["extractor_key"]) == (f"features.{product.name}", "abc")


def test_waiting_is_split_over_the_extractors_of_a_stage():
    table = pa.table({"index": [0], "uri": ["a"], "duration_s": [1.0], "done_at": [time.time() - 4]})
    [track] = tracks_of(table)
    track.costs += [Cost("f.a"), Cost("f.b")]
    [row] = collect(add_stage(table, [track], "f", [], StageClock()), "timings")
    assert sum(t["wait_s"] for t in row) == pytest.approx(4, abs=0.5)


def receipt(indexes: list[int], **fields: object) -> dict:
    empty = {
        "indexes": indexes, "status": {}, "audio_s": 0.0, "bytes": 0, "write_s": 0.0, "failures": [],
        "fallbacks": [], "stages": {}, "processes": [],
    }  # fmt: skip
    return {"copies": [], **empty, **fields}


def test_a_file_committed_twice_is_not_swallowed():
    progress = Progress(files=2)
    progress.add(receipt([0]))
    with pytest.raises(RuntimeError, match="committed twice"):
        progress.add(receipt([0]))


def test_reconciliation_finds_exactly_what_is_missing():
    files = planned(SourceItem(f"{i}.wav", 10) for i in range(5))
    assert missing_files(files, range(5)) == []
    missing = missing_files(files, {0, 2, 3})
    assert [f.index for f in missing] == [1, 4]
    assert [b["index"].to_pylist() for b in one_by_one(missing)] == [[1], [4]]


def test_a_file_that_is_given_up_is_a_row_that_says_where_the_worker_died():
    files = planned(SourceItem(f"{i}.wav", 10) for i in range(2))
    keys = {"decode": "d", "mel": "m", "clap": "c"}
    keys["mfcc"] = "c"
    in_features, unseen = lost_rows(files, {0: ("features", "a" * 64)}, keys, KNOWN, attempts=3)
    [[failure]] = in_features["failures@features"].to_pylist()
    assert (failure["worker_died"], failure["attempts"]) == (True, 3)
    assert in_features["asset_id"].to_pylist() == ["a" * 64]
    assert in_features["failkey@mel"].to_pylist() == ["m"], "the next run does not try it again"
    assert "failkey@clap" not in in_features.column_names, "of what came later nothing is known"
    [[failure]] = unseen["failures@decode"].to_pylist()
    assert failure["extractor_key"] == "d"


def test_files_of_one_part_stay_in_one_block_under_its_name():
    old = [PlannedFile(i, SourceItem(f"{i}.wav", 10), "part-x.parquet", "a", ()) for i in (0, 3)]
    new = planned([SourceItem("new.wav", 10)])
    blocks = list(pack([old[0], *new, old[1]], 1e9, 1))
    assert [(b["part"][0].as_py(), b["index"].to_pylist()) for b in blocks] == [
        (part_name(0, ["new.wav"]), [0]),
        ("part-x.parquet", [0, 3]),
    ]


def test_progress_adds_up_and_estimates_the_rest():
    said = []
    progress = Progress(files=4, bytes=400, report=said.append, interval_s=0)
    first = {
        "indexes": [0, 1], "status": {"ok": 1, "failed": 1}, "audio_s": 7200.0, "bytes": 100, "write_s": 0.1,
        "failures": [["decode", "EmptyAudio", 1]], "fallbacks": [["clap", "x", "none", "why", 2]],
        "stages": {"decode": {"compute_s": 1.0, "wait_s": 0.5, "rows": 2, "padding_weighted": 0.0, "device": "cpu"}},
        "processes": [{"stage": "decode", "node": "n", "pid": 1, "peak_rss_bytes": 5}], "copies": [],
    }  # fmt: skip
    progress.add(first)
    progress.add({**first, "indexes": [2], "status": {"ok": 1}})
    assert said[0]["audio_hours"] == 2.0
    assert said[0]["eta_s"] == pytest.approx(3 * said[0]["elapsed_s"], abs=0.2)
    assert progress.failed() == 1
    assert progress.failures["decode", "EmptyAudio"] == 2
    assert progress.fallbacks["clap", "x", "none", "why"] == 4
    assert progress.stages["decode"]["compute_s"] == 2.0
    assert len(progress.committed) == 3


def test_fallbacks_with_endless_reasons_are_counted_in_bounded_memory():
    progress = Progress(files=3000)
    for index in range(3000):
        fallback = ["decode", "finite samples", "0 in their place", f"{index} NaN samples in the file", 2]
        progress.add(receipt([index], fallbacks=[fallback]))
    assert len(progress.fallbacks) == FALLBACK_KINDS + 1
    assert progress.fallbacks[("decode", *OTHERS)] == 2 * (3000 - FALLBACK_KINDS)
    assert sum(progress.fallbacks.values()) == 6000


def test_a_track_without_audio_is_not_decoded():
    assert not Track(0, "a").decoded
