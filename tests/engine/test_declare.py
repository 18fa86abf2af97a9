"""What follows from declarations: keys, lifetimes of views, and which stages share a process."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pipeline.engine.declare import Pipeline, Product, Stage, View
from pipeline.engine.groups import by_group, group_stages, grouped, largest_of_group
from pipeline.engine.node import Node
from pipeline.errors import UserError

MONO = View("mono", 22050, 1)
CLEAN = View("clean", 16000, 1, maker="denoise")
NOWHERE = "nowhere:Worker"


def stage(name, product_key="k", reads=(MONO,), makes=()):
    return Stage(name, NOWHERE, (Product(f"{name}_p", key=product_key),), reads, makes)


def denoise(key="k"):
    return stage("denoise", key, makes=(CLEAN,))


def test_a_view_is_read_after_it_is_made_and_has_one_form():
    Pipeline((denoise(), stage("words", reads=(CLEAN,))))
    with pytest.raises(ValueError, match="words reads view clean, which denoise has not made yet"):
        Pipeline((stage("words", reads=(CLEAN,)), denoise()))
    with pytest.raises(ValueError, match="view mono is"):
        Pipeline((stage("a"), stage("b", reads=(View("mono", 48000, 1),))))
    with pytest.raises(ValueError, match="stage other makes view clean, whose maker is denoise"):
        stage("other", makes=(CLEAN,))


def test_a_product_is_stale_with_the_maker_of_what_it_reads():
    def keys(maker_key):
        stages = (denoise(maker_key), stage("words", reads=(CLEAN,)), stage("plain"))
        return Pipeline(stages).linked().keys()

    before, after = keys("1"), keys("2")
    assert before["plain_p"] == after["plain_p"] == "k", "what reads decoded audio only keeps its own key"
    assert before["words_p"] != after["words_p"]
    assert "k" not in (before["words_p"], after["words_p"])


def test_staleness_goes_through_makers_that_read_what_others_make():
    louder = View("louder", 16000, 1, maker="louden")

    def key(maker_key):
        louden = stage("louden", reads=(CLEAN,), makes=(louder,))
        return (
            Pipeline((denoise(maker_key), louden, stage("words", reads=(louder,)))).linked().keys()["words_p"]
        )

    assert key("1") != key("2")
    assert key("1") == key("1")


def test_what_is_computed_of_rows_is_stale_with_them():
    def pipeline(key):
        last = replace(stage("clips"), needs=("words", "absent"))
        return Pipeline((stage("turns", key), replace(stage("words"), needs=("turns",)), last)).linked()

    before, after = pipeline("1"), pipeline("2")
    assert before.keys()["clips_p"] != after.keys()["clips_p"]
    clips = before.stages[-1]
    assert {name: [p.name for p in ps] for name, ps in before.needed_by(clips).items()} == {
        "words": ["words_p"]
    }
    with pytest.raises(ValueError, match="stage a needs b, which comes later"):
        Pipeline((replace(stage("a"), needs=("b",)), stage("b")))


def test_a_view_lives_until_its_last_reader_and_a_maker_knows_whom_it_feeds():
    first, second = stage("words", reads=(CLEAN,)), stage("clips", reads=(CLEAN, MONO))
    pipeline = Pipeline((denoise(), first, second))
    maker = pipeline.stages[0]
    assert pipeline.dropped_after(maker) == frozenset()
    assert pipeline.dropped_after(first) == frozenset()
    assert pipeline.dropped_after(second) == {"clean", "mono"}
    assert pipeline.feeds(maker) == {"words_p", "clips_p"}
    assert pipeline.feeds(first) == frozenset()
    assert pipeline.decoded_views() == (MONO,)
    off = Pipeline((maker, replace(first, products=(Product("words_p"),))))
    assert off.feeds(maker) == frozenset(), "nothing of it is computed in this run"


def test_a_maker_and_its_readers_share_a_process_with_all_in_between():
    pipeline = Pipeline((stage("a"), denoise(), stage("b"), stage("words", reads=(CLEAN,)), stage("c")))
    assert [[s.name for s in group] for group in pipeline.groups()] == [
        ["a"],
        ["denoise", "b", "words"],
        ["c"],
    ]


STAGES = ["decode", "features", "clap", "separation", "write"]


def test_stages_share_processes_where_there_are_fewer_cores_than_stages():
    groups, why = group_stages(STAGES, [], [], cores=2)
    assert groups == [STAGES]
    assert why == "5 stages on 2 cores"
    assert group_stages(STAGES, [], [], cores=8) == ([[name] for name in STAGES], "")
    assert group_stages(STAGES, [], [], cores=2, wanted=["off"])[0] == [[name] for name in STAGES]


def test_a_stage_on_a_card_has_its_own_processes():
    groups, _ = group_stages(STAGES, [], ["clap"], cores=2)
    assert groups == [["decode", "features"], ["clap"], ["separation", "write"]]


def test_groups_can_be_set():
    groups, why = group_stages(STAGES, [], [], cores=64, wanted=["decode+features", "separation+write"])
    assert groups == [["decode", "features"], ["clap"], ["separation", "write"]]
    assert why == "ray.groups"
    with pytest.raises(
        UserError, match=r"ray\.groups: decode\+clap are stages that do not follow each other"
    ):
        group_stages(STAGES, [], [], cores=64, wanted=["decode+clap"])
    without = ["decode", "separation", "write"]
    assert group_stages(without, [], [], 64, ["clap+separation"])[0] == [[n] for n in without]


def test_a_maker_and_its_readers_stay_together_whatever_is_wanted():
    for wanted in (["off"], ["auto"], ["decode+features"]):
        groups, _ = group_stages(STAGES, [["clap", "separation"]], [], cores=64, wanted=wanted)
        assert ["clap", "separation"] in groups


def test_a_group_is_a_node_of_its_parts():
    nodes = [Node(name, f"m:{name.title()}") for name in STAGES]
    joined = grouped(nodes, [["decode", "features"], ["clap"], ["separation", "write"]])
    assert [node.name for node in joined] == ["decode+features", "clap", "separation+write"]
    assert joined[0].class_name == "DecodeAndFeatures"
    assert [part.name for part in joined[0].parts] == ["decode", "features"]
    assert grouped(nodes, []) == nodes
    weights = {"decode": 1.0, "features": 2.5, "clap": 15.0}
    assert by_group(weights, [["decode", "features"], ["clap"]]) == {"decode+features": 3.5, "clap": 15.0}
    assert largest_of_group({"decode": 0, "features": 3, "clap": 0}, [["decode", "features"], ["clap"]]) == {
        "decode+features": 3
    }


def test_who_reads_a_view_is_stale_with_what_the_view_depends_on_alone():
    def keys(product_key, view_key):
        maker = replace(denoise(product_key), view_key=view_key)
        return Pipeline((maker, stage("words", reads=(CLEAN,)))).linked().keys()

    before = keys("1", "v")
    assert keys("2", "v")["words_p"] == before["words_p"], "the file that is written is nothing to it"
    assert keys("1", "w")["words_p"] != before["words_p"]
    assert keys("1", "w")["denoise_p"] == before["denoise_p"]
