"""A user's list of files: its kinds, its types, and the many ways to spell one file."""

import datetime
import json
import math
import os
from decimal import Decimal
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.dataset.sources.file_list import read_listed
from pipeline.dataset.sources.known_names import known_names
from pipeline.dataset.sources.listing import Listing, list_source
from pipeline.errors import UserError

ROWS = [
    {"uri": "a.wav", "id": "007", "n": 1, "x": 0.5, "ok": True, "label": "dog, small"},
    {"uri": "b.wav", "id": "12", "n": 20, "x": 2, "ok": False, "label": None},
]


def write(path: Path, rows: list[dict]) -> Path:
    frame = pd.DataFrame(rows)
    if path.suffix in (".csv", ".tsv"):
        frame.to_csv(path, index=False, sep="\t" if path.suffix == ".tsv" else ",")
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows))
    elif path.suffix in (".jsonl", ".ndjson"):
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        frame.to_parquet(path)
    return path


@pytest.mark.parametrize("kind", ["csv", "tsv", "json", "jsonl", "ndjson", "parquet"])
def test_every_kind_of_manifest_says_the_same(tmp_path, kind):
    found = read_listed(str(write(tmp_path / f"list.{kind}", ROWS)), None)
    assert found.uris.to_pylist() == ["a.wav", "b.wav"]
    assert found.columns.to_pylist() == [{k: v for k, v in row.items() if k != "uri"} for row in ROWS]
    assert {f.name: str(f.type) for f in found.columns.schema} == {
        "id": "string", "n": "int64", "x": "double", "ok": "bool", "label": "string",
    }  # fmt: skip
    assert found.notes == []


@pytest.mark.parametrize(
    ("fields", "kind", "values"),
    [
        (["1", "-20", ""], "int64", [1, -20, None]),
        (["1", "2.5", "nan"], "double", [1.0, 2.5, None]),
        (["1e3", "-0.5"], "double", [1000.0, -0.5]),
        (["007", "12"], "string", ["007", "12"]),
        (["+1", "2"], "string", ["+1", "2"]),
        (["1.", "2"], "string", ["1.", "2"]),
        (["12345678901234567890", "1"], "string", ["12345678901234567890", "1"]),
        (["1234567890123456789", "1.5"], "string", ["1234567890123456789", "1.5"]),
        (["true", "FALSE", ""], "bool", [True, False, None]),
        (["true", "1"], "string", ["true", "1"]),
        (["", ""], "string", [None, None]),
        (["NA", "x"], "string", ["NA", "x"]),
        (["2024-01-02", "2024-01-03"], "string", ["2024-01-02", "2024-01-03"]),
        ([" 1", "2"], "string", [" 1", "2"]),
    ],
)
def test_what_a_column_of_text_is(tmp_path, fields, kind, values):
    path = tmp_path / "list.csv"
    path.write_text("uri,c\n" + "".join(f"{i}.wav,{field}\n" for i, field in enumerate(fields)))
    column = read_listed(str(path), None).columns["c"]
    assert (str(column.type), column.to_pylist()) == (kind, values)


def test_parquet_keeps_its_types_and_nested_ones_become_json(tmp_path):
    moment = datetime.datetime(2024, 1, 2, 3, 4, 5, tzinfo=datetime.timezone.utc)
    table = pa.table(
        {
            "uri": pa.array(["a.wav", "b.wav"]).dictionary_encode(),
            "u8": pa.array([1, None], pa.uint8()),
            "f32": pa.array([math.nan, math.inf], pa.float32()),
            "day": pa.array([moment.date(), None], pa.date32()),
            "at": pa.array([moment, None], pa.timestamp("us", "UTC")),
            "money": pa.array([Decimal("1.50"), None], pa.decimal128(5, 2)),
            "split": pa.array(["train", "test"]).dictionary_encode(),
            "tags": pa.array([["a", "b"], None], pa.list_(pa.string())),
            "span": pa.array([datetime.timedelta(seconds=1), None], pa.duration("s")),
        }
    )
    pq.write_table(table, tmp_path / "list.parquet")
    found = read_listed(str(tmp_path / "list.parquet"), None)
    assert [str(t) for t in found.columns.schema.types] == [
        "uint8", "float", "date32[day]", "timestamp[us, tz=UTC]", "decimal128(5, 2)", "string", "string", "string",
    ]  # fmt: skip
    assert found.columns["f32"].to_pylist() == [None, None], "no NaN or infinity reaches a table"
    assert found.columns["tags"].to_pylist() == ['["a", "b"]', None]
    assert found.columns["span"].to_pylist() == ["0:00:01", None]
    assert [note.split()[1] for note in found.notes] == ["tags", "span"], "said, each"


def test_json_that_is_mixed_or_nested_becomes_text_and_is_said(tmp_path):
    rows = [
        {"uri": "a", "m": 1, "o": {"k": [1]}, "s": "\ud800"},
        {"uri": "b", "m": "x"},
        {"uri": "c", "m": True},
    ]
    found = read_listed(str(write(tmp_path / "list.jsonl", rows)), None)
    assert found.columns["m"].to_pylist() == ["1", "x", "true"]
    assert found.columns["o"].to_pylist() == ['{"k": [1]}', None, None]
    assert found.columns["s"].to_pylist() == ["?", None, None]
    assert len(found.notes) == 2


def test_lines_of_json_under_the_name_of_an_array(tmp_path):
    (tmp_path / "list.json").write_text('{"uri": "a.wav"}\n{"uri": "b.wav"}\n')
    assert read_listed(str(tmp_path / "list.json"), None).uris.to_pylist() == ["a.wav", "b.wav"]


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("list.json", "[{]", "is not JSON"),
        ("list.json", '[{"uri": "a"}, 3]', "entry 2 is not a JSON object"),
        ("list.json", "[]", "has no rows"),
        ("list.tsv", "title\tx\na\tb\n", "no uri column"),
        ("list.csv", "uri,a,a\nx.wav,1,2\n", "two columns are called a"),
        ("list.csv", "uri,a\nx.wav,1\ny.wav,2,3\n", "cannot be read as csv"),
        ("list.csv", "uri,a\nx.wav,1\n,2\n", "row 2 has no uri"),
        ("list.json", '[{"uri": 3}]', "row 1 has no uri"),
    ],
)
def test_an_unusable_manifest_is_one_line(tmp_path, name, text, says):
    (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=says) as caught:
        list(list_source(None, manifest=str(tmp_path / name)))
    assert "\n" not in str(caught.value)


def test_the_index_that_pandas_writes_is_no_column(tmp_path):
    pd.DataFrame({"uri": ["a.wav"], "n": [1]}).to_csv(tmp_path / "list.csv")
    found = read_listed(str(tmp_path / "list.csv"), None)
    assert found.columns.column_names == ["n"]
    assert "left out" in found.notes[0]


@pytest.fixture
def folder(tmp_path) -> Path:
    for name in (
        "d.wav",
        "sub/e.wav",
        "a b.wav",
        "c%20d.wav",
        "~x.wav",
        " f.wav",
        "g.wav ",
        "~/h.wav",
        "n\u00e4h.wav",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(name.encode())
    (tmp_path / "link").symlink_to(tmp_path / "sub")
    return tmp_path


def listed(folder: Path, uris: list[str], kind: str = "json", **options) -> tuple[list[str], Listing]:
    write(folder / f"list.{kind}", [{"uri": uri} for uri in uris])
    listing = Listing()
    items = list(
        list_source(manifest=str(folder / f"list.{kind}"), listing=listing, **{"uri": None, **options})
    )
    return [item.uri for item in items], listing


def test_one_file_in_many_spellings_is_one_input(folder, monkeypatch):
    monkeypatch.chdir(folder)
    spellings = [
        "d.wav", f"{folder}/d.wav", "./d.wav", ".//d.wav", "sub/../d.wav", "link/../d.wav", f"/{folder}//d.wav",
        f"file://{folder}/d.wav", f"FILE://{folder}/./d.wav", f"file://localhost{folder}/d.wav", "d.wav ", " d.wav",
    ]  # fmt: skip
    for first in spellings:
        found, listing = listed(folder, [first, *spellings])
        assert found == [f"{folder}/d.wav"]
        assert listing.again == len(spellings)
    assert f"{len(spellings)} rows name a file that a row before names" in listing.notes()[0]


def test_a_file_behind_a_link_to_its_folder_is_the_same_file(folder):
    found, listing = listed(folder, ["link/e.wav", "sub/e.wav"])
    assert (found, listing.again) == ([f"{folder}/link/e.wav"], 1)


@pytest.mark.parametrize(
    ("uri", "name"),
    [
        ("~x.wav", "~x.wav"),
        (" f.wav", " f.wav"),
        ("g.wav ", "g.wav "),
        ("~/h.wav", "~/h.wav"),
        ("c%20d.wav", "c%20d.wav"),
        ("a%20b.wav", "a%20b.wav"),
        (" d.wav  ", "d.wav"),
    ],
)
@pytest.mark.parametrize("kind", ["csv", "json", "parquet"])
def test_a_name_is_the_file_that_has_it(folder, uri, name, kind):
    assert listed(folder, [uri], kind)[0] == [f"{folder}/{name}"]


def test_percent_signs_of_a_file_url(folder):
    uris = [(folder / name).as_uri() for name in ("a b.wav", "c%20d.wav", "n\u00e4h.wav")]
    assert listed(folder, uris)[0] == [f"{folder}/a b.wav", f"{folder}/c%20d.wav", f"{folder}/n\u00e4h.wav"]


def test_relative_entries_of_a_place_that_is_no_folder_here(folder):
    uris = ["./a.wav", "x/../b.wav", "c//d.wav", "S3://bucket/x/a.wav", "s3a://bucket/x/b.wav", "~e.wav"]
    found, listing = listed(folder, uris, uri="s3://bucket/x/")
    assert found == [f"s3://bucket/x/{name}" for name in ("a.wav", "b.wav", "c//d.wav", "~e.wav")]
    assert listing.again == 2


def test_a_key_that_ends_in_a_space_is_that_key(folder):
    assert listed(folder, ["s3://bucket/a.wav "])[0] == ["s3://bucket/a.wav "]
    assert listed(folder, [" https://host/a.wav "])[0] == ["https://host/a.wav"]


def test_web_addresses_that_are_one(folder):
    uris = ["http://Host:80/a b.wav", "HTTP://host/x/../a%20b.wav", "http://host/a%20b.wav#t=1"]
    assert listed(folder, uris)[0] == ["http://host/a%20b.wav"]


def test_web_addresses_that_differ_in_what_is_not_written_down_are_refused(folder):
    with pytest.raises(UserError, match="rows 1 and 3 have one name, https://host/a.wav"):
        listed(folder, ["https://host/a.wav?u=1", "https://host/b.wav", "https://host/a.wav?u=2"])
    found, listing = listed(folder, ["https://host/a.wav?id=1&sig=x", "https://host/a.wav?id=2&sig=x"])
    assert found == ["https://host/a.wav?id=1", "https://host/a.wav?id=2"]
    assert listing.again == 0


def test_what_is_not_there_is_counted(folder):
    found, listing = listed(folder, ["d.wav", "nowhere.wav", "s3://bucket/far.wav"])
    assert len(found) == 3
    assert "1 row names a file that is not there" in listing.notes()[0]


def test_a_folder_first_and_its_files_by_another_way_later_have_the_same_names(folder, tmp_path_factory):
    here = tmp_path_factory.mktemp("here") / "data"
    here.symlink_to(folder)
    rows = pa.chunked_array([[item.uri for item in list_source(str(here))]])
    found = [i for i in list_source(None, manifest=str(write(folder / "list.csv", [
        {"uri": "d.wav", "n": 1}, {"uri": f"{folder}/sub/e.wav", "n": 2}, {"uri": f"{here}/~x.wav", "n": 3},
        {"uri": "new.wav", "n": 4},
    ])))]  # fmt: skip
    listing = Listing()
    known = known_names(found, rows, listing)
    assert [os.path.realpath(i.uri) for i in known] == [os.path.realpath(i.uri) for i in found]
    assert [i.uri in rows.to_pylist() for i in known] == [True, True, True, False]
    assert listing.named[f"{here}/d.wav"] == f"{folder}/d.wav"
    assert known_names(known, rows) == known, "and stay so"


def test_two_names_of_one_file_do_not_take_the_same_row(folder):
    items = list(list_source(str(folder)))
    both = [i for i in items if i.uri.endswith("e.wav")]
    assert len(both) == 2
    rows = pa.chunked_array([[f"{folder}/link/../sub/../sub/e.wav"]])
    assert len({i.uri for i in known_names(both, rows)}) == 2


def test_a_manifest_of_a_hundred_thousand_rows_is_cheap(tmp_path):
    """In memory: what is kept of a row besides its item is a few Arrow values and a number."""
    path = tmp_path / "list.csv"
    path.write_text("uri,id,label\n" + "".join(f"/data/{i:06d}.wav,{i},l{i % 7}\n" for i in range(100_000)))
    listing = Listing()
    assert sum(1 for _ in list_source(None, manifest=str(path), listing=listing)) == 100_000
    assert listing.manifest.columns.nbytes < 3_000_000
