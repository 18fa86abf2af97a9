"""A manifest's columns in `tracks`: names, types, and rows that are brought up to date."""

from pathlib import Path

import pandas as pd
import pyarrow as pa
import pytest
from helpers.standard_schemas import KNOWN, tracks_of

from pipeline.dataset.output import Output
from pipeline.dataset.sources.known_names import known_names
from pipeline.dataset.sources.listing import Listing, SourceItem, list_source
from pipeline.dataset.sources.manifest_columns import (
    add_columns,
    bring_up_to_date,
    column_names,
    manifest_columns,
    with_columns,
)
from pipeline.dataset.tables.merge import Update, merge_tracks
from pipeline.dataset.tables.row_index import merged_schema, read_state
from pipeline.dataset.tables.schemas import IDENTITY
from pipeline.dataset.tables.user_columns import is_of_the_user, wider
from pipeline.engine.packing import block_of, planned
from pipeline.errors import UserError

PLAIN = tracks_of([], False, False)


def columns_of(folder: Path, rows: list[dict], old: pa.Schema | None = None) -> tuple[pa.Table, list[str]]:
    pd.DataFrame(rows).to_parquet(folder / "list.parquet")
    listing = Listing()
    items = list(list_source(None, manifest=str(folder / "list.parquet"), listing=listing))
    return manifest_columns(listing, items, old)


def write(output: Output, part: str, rows: list[dict], schema: pa.Schema = PLAIN) -> None:
    output.write_table(
        f"tracks/{part}", pa.Table.from_pylist([{"asset_id": "x", **row} for row in rows], schema)
    )


def tracks(output: Output) -> dict[str, dict]:
    found = {}
    for batch in output.batches("tracks"):
        for row in batch.to_pylist():
            found[row["uri"].rsplit("/", 1)[-1]] = {n: v for n, v in row.items() if is_of_the_user(n)}
    return found


def test_the_columns_have_our_prefix_and_a_definition(tmp_path):
    columns, notes = columns_of(tmp_path, [{"uri": "./a.wav", "label": "dog", "id": 7}])
    assert columns.column_names == ["uri", "source_uri", "source_label", "source_id"]
    assert columns.to_pylist() == [
        {"uri": f"{tmp_path}/a.wav", "source_uri": "./a.wav", "source_label": "dog", "source_id": 7}
    ]
    assert b"column label" in columns.schema.field("source_label").metadata[b"description"]
    assert notes == []


def test_a_name_that_is_ours_gets_another_and_it_is_said():
    found, [note] = column_names(["version", "label"])
    assert found == {"version": "source_version_given", "label": "source_label"}
    assert "source_version_given" in note
    assert column_names(["Version"])[0] == {"Version": "source_Version_given"}
    ours = {f.name for f in IDENTITY if f.name.startswith("source_")}
    assert not any(is_of_the_user(name) for name in ours), "whatever is added to our own"
    assert not set(column_names([n.removeprefix("source_") for n in ours])[0].values()) & ours


@pytest.mark.parametrize("names", [["label", "Label"], ["version", "version_given"]])
def test_two_columns_that_readers_would_take_for_one_are_refused(names):
    with pytest.raises(UserError, match="would both be"):
        column_names(names)


@pytest.mark.parametrize(
    ("there", "new", "kind"),
    [
        (pa.int64(), [1, 2], "int64"),
        (pa.int64(), [1.5, 2.0], "double"),
        (pa.int64(), ["a", "b"], "string"),
        (pa.string(), [1, 2], "string"),
        (pa.float64(), [1, 2], "double"),
        (pa.bool_(), ["a", "b"], "string"),
        (pa.int64(), [None, None], "int64"),
    ],
)
def test_of_two_types_the_wider_one_is_taken(tmp_path, there, new, kind):
    old = PLAIN.append(pa.field("source_c", there))
    columns, notes = columns_of(tmp_path, [{"uri": f"{v}.wav", "c": v} for v in new], old)
    assert str(columns.schema.field("source_c").type) == kind
    assert (
        with_columns(PLAIN, old, columns, KNOWN).field("source_c").type
        == columns.schema.field("source_c").type
    )
    assert bool(notes) == (kind != str(there)), "said where the tables change"
    assert wider(there, columns.schema.field("source_c").type) == columns.schema.field("source_c").type


def test_a_run_that_was_stopped_while_a_type_changed_leaves_a_schema():
    one, other = (pa.schema([pa.field("source_c", kind)]) for kind in (pa.int64(), pa.string()))
    assert merged_schema([one, other]).field("source_c").type == pa.string()


def test_planned_files_carry_their_columns_whatever_order_they_come_in(tmp_path):
    rows = [{"uri": f"{n}.wav", "n": n} for n in range(5)]
    columns, _ = columns_of(tmp_path, rows)
    files = planned(SourceItem(uri) for uri in columns["uri"].to_pylist())
    [block] = add_columns([block_of([files[3], files[1]])], columns)
    assert block["source_n"].to_pylist() == [3, 1]
    assert block["source_uri"].to_pylist() == ["3.wav", "1.wav"]


def test_sound_tracks_of_a_file_have_the_columns_of_the_file(tmp_path):
    listing = Listing()
    (tmp_path / "list.csv").write_text("uri,n\na.mkv,1\n")
    [item] = list_source(None, manifest=str(tmp_path / "list.csv"), listing=listing)
    columns, _ = manifest_columns(listing, [item, SourceItem(f"{item.uri}#audio=1")], None)
    assert columns["source_n"].to_pylist() == [1, 1]


def test_a_file_under_the_name_of_its_row_has_its_columns(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    (tmp_path / "real" / "a.wav").write_bytes(b"1")
    (tmp_path / "list.csv").write_text("uri,n\nreal/a.wav,1\n")
    listing = Listing()
    items = list(list_source(None, manifest=str(tmp_path / "list.csv"), listing=listing))
    items = known_names(items, pa.chunked_array([[f"{tmp_path}/link/a.wav"]]), listing)
    columns, _ = manifest_columns(listing, items, None)
    assert columns.to_pylist() == [
        {"uri": f"{tmp_path}/link/a.wav", "source_uri": "real/a.wav", "source_n": 1}
    ]


def test_rows_are_brought_up_to_date_and_only_those_that_differ_are_written(tmp_path):
    output = Output(str(tmp_path / "out"))
    rows = [{"uri": f"{n}.wav", "n": n, "label": "old"} for n in range(4)]
    columns, _ = columns_of(tmp_path, rows)
    write(output, "part-0.parquet", [{"uri": f"{tmp_path}/{n}.wav", "status": "ok"} for n in (0, 1)])
    write(
        output, "part-1.parquet", [{"uri": f"{tmp_path}/{n}.wav"} for n in (2, 3)] + [{"uri": "/other.wav"}]
    )
    schema = with_columns(PLAIN, PLAIN, columns, KNOWN)
    assert bring_up_to_date(output, columns, schema) == 4
    assert tracks(output)["2.wav"] == {"source_uri": "2.wav", "source_n": 2, "source_label": "old"}
    assert tracks(output)["other.wav"] == {"source_uri": None, "source_n": None, "source_label": None}
    assert read_state(output).uneven == []
    before = {p.name: p.stat().st_mtime_ns for p in (tmp_path / "out" / "tracks").iterdir()}
    assert bring_up_to_date(output, columns, schema) == 0
    assert {p.name: p.stat().st_mtime_ns for p in (tmp_path / "out" / "tracks").iterdir()} == before

    rows[3]["label"], rows[2]["label"] = "new", None
    columns, _ = columns_of(tmp_path, rows[1:], schema)
    assert bring_up_to_date(output, columns, schema) == 2
    after = {p.name: p.stat().st_mtime_ns for p in (tmp_path / "out" / "tracks").iterdir()}
    assert [name for name in before if before[name] != after[name]] == ["part-1.parquet"]
    assert [tracks(output)[f"{n}.wav"]["source_label"] for n in range(4)] == ["old", "old", None, "new"]


def test_a_column_of_another_type_is_changed_in_every_part(tmp_path):
    output = Output(str(tmp_path / "out"))
    columns, _ = columns_of(tmp_path, [{"uri": f"{n}.wav", "c": n} for n in range(2)])
    before = with_columns(PLAIN, None, columns, KNOWN)
    for n in range(2):
        row = {"uri": f"{tmp_path}/{n}.wav", "source_uri": f"{n}.wav", "source_c": n}
        write(output, f"part-{n}.parquet", [row], before)
    columns, [note] = columns_of(tmp_path, [{"uri": "0.wav", "c": "zero"}], before)
    assert "int64 in the tables and string in the manifest" in note
    assert bring_up_to_date(output, columns, with_columns(before, before, columns, KNOWN)) == 1
    assert [tracks(output)[f"{n}.wav"]["source_c"] for n in range(2)] == ["zero", "1"]
    assert read_state(output).uneven == []


def test_a_column_that_is_in_the_manifest_no_longer_stays_and_is_said(tmp_path):
    old = PLAIN.append(pa.field("source_split", pa.string())).append(pa.field("source_uri", pa.string()))
    columns, [note] = columns_of(tmp_path, [{"uri": "a.wav", "n": 1}], old)
    assert note.startswith("source_split: not in this manifest")
    assert "source_split" not in columns.column_names


def test_what_an_earlier_manifest_said_outlives_a_new_content():
    """A label belongs to a uri: a run over the folder, without the manifest, must not lose it."""
    schema = PLAIN.append(pa.field("source_label", pa.string()))
    old = pa.Table.from_pylist(
        [{"uri": u, "asset_id": "A", "source_label": u.upper(), "source_version": "1"} for u in "ab"], schema
    )
    new = pa.Table.from_pylist(
        [
            {"uri": "a", "asset_id": "B", "source_label": None, "source_version": "2"},
            {"uri": "b", "asset_id": "A", "source_label": "new", "source_version": "2"},
            {"uri": "c", "asset_id": "C", "source_label": "c", "source_version": "2"},
        ],
        schema,
    )
    updates = [Update("a", 0, "B"), Update("b", 1, "A", ("mel",)), Update("c", 2, "C")]
    found = merge_tracks(old, new, updates, KNOWN).table
    assert found["source_label"].to_pylist() == ["A", "new", "c"]
    assert found["source_version"].to_pylist() == ["2", "2", "2"]


def test_a_hundred_thousand_rows_are_brought_up_to_date_in_little_memory(tmp_path):
    output = Output(str(tmp_path / "out"))
    rows = 100_000
    uris = pa.array([f"/data/{n:06d}.wav" for n in range(rows)])
    columns = pa.table({"uri": uris, "source_uri": uris, "source_n": pa.array(range(rows))})
    schema = with_columns(PLAIN, PLAIN, columns, KNOWN)
    for part in range(10):
        own = uris.slice(part * rows // 10, rows // 10)
        table = pa.table({"uri": own, "asset_id": own}).cast(
            pa.schema([("uri", pa.string()), ("asset_id", pa.string())])
        )
        for name in schema.names:
            if name not in table.column_names:
                table = table.append_column(schema.field(name), pa.nulls(len(own), schema.field(name).type))
        output.write_table(f"tracks/part-{part}.parquet", table.select(schema.names).cast(schema))
    before = pa.total_allocated_bytes()
    assert bring_up_to_date(output, columns, schema) == rows
    assert bring_up_to_date(output, columns, schema) == 0
    assert pa.total_allocated_bytes() - before < 1_000_000, "nothing of it stays"
