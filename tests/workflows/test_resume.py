"""What is left to do, from a listing and the rows that are there."""

import dataclasses

import pyarrow as pa
import pytest
from helpers.standard_schemas import tracks_of

from pipeline.dataset.output import Output
from pipeline.dataset.sources.listing import SourceItem
from pipeline.dataset.tables.row_index import read_state
from pipeline.engine.decode_key import decode_key
from pipeline.errors import UserError
from pipeline.features import REGISTRY
from pipeline.workflows.resume import plan_work

KEYS = {"decode": "d", "mel": "m", "chroma": "c"}
SCHEMA = tracks_of([REGISTRY["mel"]()], clap=False, separation=False)


def done(name: str, keys=("mel", "chroma"), asset=None, version="1", size=None, failed=()) -> dict:
    return {
        "uri": name,
        "asset_id": asset or f"asset of {name}",
        "size_bytes": size or 100 + ord(name[0]),
        "source_version": version,
        "extractor_keys": [(k, KEYS[k]) for k in keys],
        "failed_keys": list(failed),
    }


def listed(name: str, version="1", size=None, **fields) -> SourceItem:
    return SourceItem(name, size or 100 + ord(name[0]), version=version, **fields)


@pytest.fixture
def plan(tmp_path):
    """Plan ``items`` over an output with ``rows``, two to a part."""

    def make(rows, items, keys=KEYS, **options):
        output = Output(str(tmp_path))
        for number in range(0, len(rows), 2):
            table = pa.Table.from_pylist(rows[number : number + 2], schema=SCHEMA)
            output.write_table(f"tracks/part-{number}.parquet", table)
        return plan_work(items, read_state(output), keys, **options)

    return make


def test_without_rows_everything_is_to_be_done(plan):
    work = plan([], [listed("a"), listed("b")])
    assert [(f.item.uri, f.part, f.todo, f.shared) for f in work.files] == [
        ("a", None, None, False),
        ("b", None, None, False),
    ]


def test_what_is_there_is_not_done_again(plan):
    rows = [done("a"), done("b"), done("c")]
    work = plan(rows, [listed("a"), listed("c"), listed("d")])
    assert [f.item.uri for f in work.files] == ["d"]
    assert work.done == 2


def test_only_the_extractors_that_are_missing_or_changed_are_planned(plan):
    rows = [done("a", ["mel"]), done("b", ["mel", "chroma"]), done("c")]
    work = plan(rows, [listed("a"), listed("b"), listed("c")], {**KEYS, "mel": "other parameters"})
    assert {f.item.uri: set(f.todo) for f in work.files} == {
        "a": {"mel", "chroma"},
        "b": {"mel"},
        "c": {"mel"},
    }
    assert {f.item.uri: f.part for f in work.files} == {
        "a": "part-0.parquet", "b": "part-0.parquet", "c": "part-2.parquet",
    }  # fmt: skip
    assert work.files[0].known_asset == "asset of a"


def test_extractors_that_are_not_wanted_now_are_no_reason_to_work(plan):
    assert plan([done("a")], [listed("a")], {"decode": "d", "mel": "m"}).files == []


@pytest.mark.parametrize("changed", [{"version": "2"}, {"version": None}, {"size": 7}])
def test_a_file_that_may_have_changed_is_compared_by_content(plan, changed):
    [file] = plan([done("a")], [listed("a", **changed)]).files
    assert (file.todo, file.known_asset, file.part) == ((), "asset of a", "part-0.parquet")


def test_on_request_every_file_is_compared_by_content(plan):
    [file] = plan([done("a")], [listed("a")], trust_listing=False).files
    assert file.todo == ()


def test_what_failed_is_not_tried_again_unless_asked_or_changed(plan):
    rows = [done("a", [], failed=[("decode", "d")]), done("b", ["mel"], failed=[("chroma", "c")])]
    items = [listed("a"), listed("b")]
    assert plan(rows, items).files == []
    again = {f.item.uri: f.todo for f in plan(rows, items, retry=["a", "b"]).files}
    assert again == {"a": None, "b": ("chroma",)}
    newer = {f.item.uri: f.todo for f in plan(rows, items, {**KEYS, "chroma": "c2"}).files}
    assert newer == {"b": ("chroma",)}
    newer = {f.item.uri: f.todo for f in plan(rows, items, {**KEYS, "decode": "d2"}).files}
    assert newer == {"a": None}


def test_what_the_listing_knows_cannot_be_read_is_a_row_once(plan):
    folder = dataclasses.replace(listed("a", version=None), size_bytes=None, problem="is a directory")
    assert plan([done("a", [], failed=[("decode", "d")])], [folder]).files == []


def test_files_that_may_be_equal_are_marked_and_the_known_contents_go_along(plan):
    rows = [done("a", size=5), done("b", size=6)]
    work = plan(rows, [listed("a", size=5), listed("new", size=5), listed("x", size=9), listed("y", size=9)])
    assert {f.item.uri: f.shared for f in work.files} == {"new": True, "x": True, "y": True}
    assert work.owners == {"asset of a": "a"}


def test_of_several_files_with_a_content_the_one_that_is_worked_on_owns_it(plan):
    rows = [done("a", ["mel"], "same", size=5), done("b", ["mel"], "same", size=5)]
    work = plan(rows, [listed("b", size=5)])
    assert work.owners == {"same": "b"}
    assert [f.shared for f in work.files] == [True]


def test_a_table_that_is_none_of_ours_is_refused(tmp_path):
    output = Output(str(tmp_path))
    output.write_table("tracks/other.parquet", pa.table({"a": [1]}))
    with pytest.raises(
        UserError, match=r"tracks/other\.parquet is no table of ours .*output\.overwrite=true"
    ):
        read_state(output)


def test_rows_of_an_older_version_are_compared_by_content(tmp_path):
    output = Output(str(tmp_path))
    old = pa.Table.from_pylist([done("a")], schema=SCHEMA).drop_columns(["failed_keys", "source_version"])
    output.write_table("tracks/part-0.parquet", old)
    state = read_state(output)
    [file] = plan_work([listed("a")], state, KEYS).files
    assert file.todo == ()


def test_another_sound_track_computes_anew_what_was_of_another(plan):
    """The first track is what rows hold that say nothing; a version of decoding is no choice of a track."""
    german, version = {**KEYS, "decode": decode_key("de")}, {**KEYS, "decode": decode_key()}
    first = done("a")
    second = {**done("b"), "extractor_keys": [*done("b")["extractor_keys"], ("decode", decode_key("de"))]}
    broken = {**done("c", keys=()), "failed_keys": [("decode", decode_key("de"))]}
    items = [listed("a"), listed("b"), listed("c")]

    def todo(keys):
        return {f.item.uri: f.todo for f in plan([first, second, broken], items, keys).files}

    assert todo(german) == {"a": None}
    assert todo(version) == todo(KEYS) == {"b": None, "c": None}
    assert todo({**KEYS, "decode": decode_key(1)}) == {"a": None, "b": None, "c": None}


def test_what_belongs_to_a_content_that_another_file_may_have_now_is_to_outlive_its_row(plan):
    rows = [done(name, size=9) for name in "abcd"] + [done("e", size=8)]
    same = [listed(name, size=9) for name in "ab"]
    changed = [listed("c", version="2", size=7), listed("e", version="2", size=8)]
    alone = plan(rows, [*same, *changed], keys={**KEYS, "mel": "another"})
    assert {f.item.uri for f in alone.files if f.elsewhere} == set(), "what is as it was takes nothing over"
    work = plan(rows, [*same, *changed, listed("f", size=9)], keys={**KEYS, "mel": "another"})
    assert {f.item.uri for f in work.files if f.elsewhere} == {"c"}
    work = plan(rows, [*changed, SourceItem("f", None)])
    assert {f.item.uri for f in work.files if f.elsewhere} == {"c", "e"}, "its size is not known"
