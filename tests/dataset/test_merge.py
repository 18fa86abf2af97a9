"""Table parts written anew: what stays, what is replaced, and what readers see of it."""

import pyarrow as pa
import pytest
from helpers.standard_schemas import KNOWN, tracks_of

from pipeline.dataset.tables.merge import OldPart, Update, conform, kept_rows, merge_tracks, ordered_schema
from pipeline.dataset.tables.schemas import FAILURES, IDENTITY, TIMINGS
from pipeline.errors import UserError
from pipeline.features import REGISTRY

MEL, LOUD = REGISTRY["mel"](), REGISTRY["loudness"]()
SCHEMA = tracks_of([LOUD, MEL], clap=False, separation=False)


def row(uri: str, asset: str, **values) -> dict:
    return {"uri": uri, "asset_id": asset, "status": "ok", "run_id": "1", **values}


def tracks(*rows: dict, schema: pa.Schema = SCHEMA) -> pa.Table:
    return pa.Table.from_pylist(list(rows), schema=schema)


def merged(old, new, updates) -> list[dict]:
    return merge_tracks(old, new, updates, KNOWN).table.to_pylist()


def test_only_what_was_computed_is_replaced():
    old = tracks(
        row(
            "a",
            "A",
            mel_mean=[1.0],
            loudness_rms_dbfs=-10.0,
            extractor_keys=[("mel", "m1"), ("loudness", "l1")],
        ),
        row("b", "B", mel_mean=[2.0], loudness_rms_dbfs=-20.0),
    )
    new = tracks(row("a", "A", mel_mean=[9.0], extractor_keys=[("mel", "m2")], run_id="2"))
    first, second = merged(old, new, [Update("a", 0, "A", ("mel",))])
    assert first["mel_mean"] == [9.0]
    assert first["loudness_rms_dbfs"] == -10.0
    assert dict(first["extractor_keys"]) == {"mel": "m2", "loudness": "l1"}
    assert first["run_id"] == "2"
    assert second == old.to_pylist()[1]


def test_an_extractor_that_fails_now_takes_its_old_values_with_it():
    old = tracks(row("a", "A", mel_mean=[1.0], extractor_keys=[("mel", "m1")]))
    new = tracks(row("a", "A", failed_keys=[("mel", "m2")]))
    [found] = merged(old, new, [Update("a", 0, "A", ("mel",))])
    assert (found["mel_mean"], found["extractor_keys"], found["failed_keys"]) == (None, [], [("mel", "m2")])


def test_other_content_replaces_the_whole_row():
    old = tracks(row("a", "A", mel_mean=[1.0], loudness_rms_dbfs=-10.0))
    new = tracks(row("a", "B", mel_mean=[2.0]))
    [found] = merged(old, new, [Update("a", 0, "B", None)])
    assert (found["asset_id"], found["mel_mean"], found["loudness_rms_dbfs"]) == ("B", [2.0], None)


def test_a_file_that_could_not_be_read_keeps_its_row():
    old = tracks(row("a", "A", mel_mean=[1.0], source_version="1"))
    new = tracks(row("a", "hash of the uri", status="failed", source_version="2"))
    [found] = merged(old, new, [Update("a", 0, "A", ("loudness",), kept=True)])
    assert (found["asset_id"], found["mel_mean"], found["source_version"]) == ("A", [1.0], "2")


def test_new_files_come_after_the_old_ones():
    old = tracks(row("b", "B"))
    new = tracks(row("a", "A"), row("b", "B"))
    found = merge_tracks(old, new, [Update("a", 0, "A"), Update("b", 1, "B", ())], KNOWN)
    assert found.table["uri"].to_pylist() == ["b", "a"]
    assert found.updated == [1, 0]


def test_timings_of_stages_that_were_not_run_again_stay():
    old = pa.Table.from_pylist(
        [{"asset_id": a, "stage": s} for a in "AB" for s in ("decode", "features.mel", "clap")],
        schema=TIMINGS,
    )
    kept = kept_rows(OldPart({"timings": old}), "timings", [Update("a", 0, "A", ("mel",))], KNOWN, {"A", "B"})
    assert [(r["asset_id"], r["stage"]) for r in kept.to_pylist()] == [
        ("A", "clap"), ("B", "decode"), ("B", "features.mel"), ("B", "clap"),
    ]  # fmt: skip


def test_rows_of_a_content_that_no_file_has_any_more_go():
    old = pa.Table.from_pylist([{"asset_id": a, "stage": "decode"} for a in "AB"], schema=TIMINGS)
    kept = kept_rows(OldPart({"timings": old}), "timings", [Update("a", 0, "C", None)], KNOWN, {"B", "C"})
    assert kept["asset_id"].to_pylist() == ["B"]


def test_failures_that_were_not_tried_again_stay():
    old = pa.Table.from_pylist(
        [
            {"asset_id": "A", "uri": "a", "stage": "features.mel", "extractor_key": "m"},
            {"asset_id": "A", "uri": "a", "stage": "clap", "extractor_key": "c"},
            {"asset_id": "B", "uri": "b", "stage": "decode", "extractor_key": None},
            {"asset_id": "C", "uri": "c", "stage": "decode", "extractor_key": "d"},
        ],
        schema=FAILURES,
    )
    updates = [Update("a", 0, "A", ("mel",)), Update("b", 1, "B", (), True), Update("c", 2, "C", (), True)]
    assert [
        (r["uri"], r["stage"])
        for r in kept_rows(OldPart({"failures": old}), "failures", updates, KNOWN).to_pylist()
    ] == [
        ("a", "clap"),
        ("c", "decode"),
    ]


@pytest.mark.parametrize("first", [[MEL], [LOUD], [MEL, LOUD]])
def test_the_columns_have_one_order_whatever_was_added_when(first):
    old = tracks_of(first, clap=False, separation=True)
    both = ordered_schema(tracks_of([LOUD], True, False), old, KNOWN)
    again = ordered_schema(tracks_of(first, False, True), both, KNOWN)
    assert both.names == again.names
    assert both.names[: len(IDENTITY)] == [f.name for f in IDENTITY]
    assert set(old.names) <= set(both.names)


def test_a_fresh_schema_is_in_that_order_already():
    schema = tracks_of([REGISTRY[name]() for name in sorted(REGISTRY)], True, True)
    assert ordered_schema(schema, schema, KNOWN).names == schema.names


def test_every_column_of_an_extractor_has_its_owner():
    owners = KNOWN.owners
    for name, cls in REGISTRY.items():
        assert {owners[f.name] for f in cls.widest().columns()} == {name}


def test_a_column_of_another_type_is_refused_rather_than_lost():
    old = SCHEMA.set(SCHEMA.get_field_index("duration_s"), pa.field("duration_s", pa.string()))
    with pytest.raises(UserError, match=r"hold duration_s as string .* output\.overwrite=true"):
        ordered_schema(SCHEMA, old, KNOWN)
    with pytest.raises(pa.ArrowInvalid):
        conform(pa.table({"uri": ["a"], "duration_s": ["long"]}), SCHEMA)
