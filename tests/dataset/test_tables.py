"""Reading an output: datasets with units, arrays by name, and what is refused."""

import io
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers.small_output import RUN, TRACKS, asset, build, mel_path, part_name, write_part
from helpers.standard_schemas import segments_of, tracks_of

import pipeline.dataset
from pipeline.dataset.output import EMPTY_PART, Output, npy_bytes
from pipeline.dataset.tables.schemas import FAILURES, IDENTITY, TIMINGS
from pipeline.errors import UserError
from pipeline.features.base import column


@pytest.fixture
def output(tmp_path) -> Output:
    return build(Output(str(tmp_path / "out")))


def test_the_tables_are_arrow_datasets_with_all_rows(output):
    tables = pipeline.dataset.open(output.uri)
    for table in output.tables:
        dataset = getattr(tables, table)
        assert isinstance(dataset, pa.dataset.Dataset)
        assert dataset.count_rows() == sum(batch.num_rows for batch in output.batches(table)) > 0
    loud = tables.tracks.to_table(columns=["uri"], filter=pa.dataset.field("status") == "failed")
    assert loud["uri"].to_pylist() == ["/audio/bad.mp3"]


def test_every_column_of_every_table_says_its_unit_and_definition(output):
    tables = pipeline.dataset.open(output.uri)
    for table, schema in (("tracks", TRACKS), ("segments", segments_of()), ("timings", TIMINGS)):
        rows = {row["name"]: row for row in tables.describe(table).to_pylist()}
        assert list(rows) == schema.names
        for f in schema:
            assert rows[f.name]["unit"] == f.metadata[b"unit"].decode()
            assert rows[f.name]["definition"] == f.metadata[b"description"].decode()
            assert rows[f.name]["source"] == f.metadata.get(b"source", b"").decode()
    assert tables.units["mel_mean"] == "dB"
    assert tables.units["compute_s"] == "s"
    assert tables.units["first_seen"] == "UTC"
    assert set(tables.units) == {*TRACKS.names, *segments_of().names, *TIMINGS.names, *FAILURES.names}
    with pytest.raises(ValueError, match="'blobs' is no table; one of tracks, segments"):
        tables.describe("blobs")


def test_metadata_of_the_schema_is_kept(output):
    tables = pipeline.dataset.open(output.uri)
    assert tables.tracks.schema.metadata[b"embedding_space"] == TRACKS.metadata[b"embedding_space"]
    assert tables.tracks.schema.metadata[b"schema_version"] == b"soundmill_tracks_v1"


def test_parts_of_different_runs_make_one_table(output):
    """A later part has a column more and lacks others, and one was written by something that drops metadata."""
    extra = column("zcr_mean", pa.float32(), "ratio", "share of samples where the sign changes")
    schema = pa.schema([*IDENTITY, extra])
    row = {"asset_id": asset("e.wav"), "uri": "/audio/e.wav", "status": "ok", "zcr_mean": 0.5}
    output.write_table(f"tracks/{part_name(9)}", pa.Table.from_pylist([row], schema=schema))
    first = output.parts("tracks")[0]
    bare = pq.read_table(output.path(first)).replace_schema_metadata(None)
    bare = bare.cast(pa.schema([f.remove_metadata() for f in bare.schema]))
    output.write_table(first, bare)
    tracks = pipeline.dataset.open(output.uri).tracks
    rows = {row["uri"]: row for row in tracks.to_table(columns=["uri", "zcr_mean", "mel_mean"]).to_pylist()}
    assert rows["/audio/e.wav"] == {"uri": "/audio/e.wav", "zcr_mean": 0.5, "mel_mean": None}
    assert rows["/audio/a.wav"]["zcr_mean"] is None
    assert rows["/audio/a.wav"]["mel_mean"] == [0.5] * 128
    assert all(f.metadata[b"unit"] for f in tracks.schema)


def test_tables_without_rows_are_empty_and_have_their_columns(tmp_path):
    output = Output(str(tmp_path / "empty"))
    schemas = {"tracks": tracks_of((), False, False), "segments": segments_of(), "timings": TIMINGS}
    output.fill_empty(
        schemas
    )  # as a run over no files leaves it, but for failures, which is not there at all
    tables = pipeline.dataset.open(output.uri)
    for table in output.tables:
        dataset = getattr(tables, table)
        assert dataset.count_rows() == dataset.to_table().num_rows == 0
        assert dataset.to_table().schema.names == {**schemas, "failures": FAILURES}[table].names
        assert all(f.metadata[b"unit"] for f in dataset.schema)
    assert tables.runs == []


def test_what_a_killed_run_left_without_its_tracks_is_not_read(output):
    """The parts of tracks come last: the rows of the others count only with them."""
    before = pipeline.dataset.open(output.uri)
    write_part(output, 7, ["e.wav"])
    output.discard(f"tracks/{part_name(7)}")
    output.write_table(f"failures/{EMPTY_PART}", FAILURES.empty_table())
    after = pipeline.dataset.open(output.uri)
    for table in output.tables:
        assert getattr(after, table).count_rows() == getattr(before, table).count_rows()
    assert "segments" in {part.split("/")[0] for part in output.parts("segments") if part_name(7) in part}


def test_runs_have_the_state_they_left(output):
    output.write("runs/20260103T000000-cccc/status.json", b'{"status": "interrupted"}')
    output.write("runs/20260104T000000-dddd/status.json", b'{"sta')
    output.write("runs/output.lock", b"{}")
    found = {run.run_id: run.status for run in pipeline.dataset.open(output.uri).runs}
    assert found == {
        RUN: "unknown",
        "20260103T000000-cccc": "interrupted",
        "20260104T000000-dddd": "unknown",
    }


def test_arrays_come_from_files_and_from_rows(output):
    tables = pipeline.dataset.open(output.uri)
    [row] = tables.tracks.to_table(filter=pa.dataset.field("uri") == "/audio/a.wav").to_pylist()
    array = tables.blob(row["mel_blob"])
    assert array.dtype == np.float16
    np.testing.assert_array_equal(array, np.ones((8, 16)))
    np.testing.assert_array_equal(tables.array(row, "mel"), array)
    small = {"mel_blob": None, "mel_inline": [1.0, 2.0, 3.0, 4.0, 5.0, 6.0], "mel_shape": [2, 3]}
    np.testing.assert_array_equal(tables.array(small, "mel"), [[1, 2, 3], [4, 5, 6]])
    assert tables.array({"mel_blob": None, "mel_inline": None, "mel_shape": None}, "mel") is None
    with pytest.raises(KeyError):
        tables.array(row, "chroma")


def test_arrays_come_from_rows_of_pandas(output):
    tables = pipeline.dataset.open(output.uri)
    frame = tables.tracks.to_table().to_pandas().set_index("uri")
    np.testing.assert_array_equal(tables.array(frame.loc["/audio/a.wav"], "mel"), np.ones((8, 16)))
    assert tables.array(frame.loc["/audio/bad.mp3"], "mel") is None


@pytest.mark.parametrize(
    "path", ["../secret.npy", "blobs/../../secret.npy", "/etc/secret.npy", "", "blobs//x.npy"]
)
def test_no_path_leads_out_of_the_output(output, tmp_path, path):
    (tmp_path / "secret.npy").write_bytes(npy_bytes(np.zeros(3)))
    with pytest.raises(ValueError, match="unsafe"):
        pipeline.dataset.open(output.uri).blob(path)


def test_pickled_objects_are_refused(output):
    sink = io.BytesIO()
    np.save(sink, np.array([{}], dtype=object), allow_pickle=True)
    output.write("blobs/aa/evil.npy", sink.getvalue())
    with pytest.raises(ValueError, match="allow_pickle"):
        pipeline.dataset.open(output.uri).blob("blobs/aa/evil.npy")


def test_an_array_that_is_gone_is_one_line(output):
    output.discard(mel_path("a.wav"))
    with pytest.raises(UserError, match="^.*/blobs/.*: does not exist "):
        pipeline.dataset.open(output.uri).blob(mel_path("a.wav"))


def test_a_wrong_folder_is_one_line(output, tmp_path):
    with pytest.raises(UserError, match="^.*/nowhere holds no tables: type the output.uri of a run$"):
        pipeline.dataset.open(str(tmp_path / "nowhere"))
    with pytest.raises(UserError, match=f"/tracks holds no tables: type the folder above, {output.uri}$"):
        pipeline.dataset.open(f"{output.uri}/tracks")
    with pytest.raises(UserError, match="nosuch"):
        pipeline.dataset.open("nosuch://bucket/tables")


def test_a_damaged_part_is_one_line(output):
    output.write("timings/" + part_name(0), b"PAR1 and no more")
    tables = pipeline.dataset.open(output.uri)
    assert tables.tracks.count_rows() == 5, "the other tables can be read"
    with pytest.raises(UserError, match="is not a Parquet file .*verify.py") as caught:
        _ = tables.timings
    assert "\n" not in str(caught.value)


READ = """
import sys
import pipeline.dataset
before = set(sys.modules)
tables = pipeline.dataset.open(sys.argv[1])
rows = tables.tracks.count_rows(), tables.failures.count_rows(), len(tables.units)
array = tables.array(tables.tracks.to_table().to_pylist()[0], "mel")
heavy = {"torch", "ray", "librosa", "hydra", "scipy", "s3fs"} & set(sys.modules)
print(rows[0], rows[1], array.shape, sorted(heavy), "pyarrow" in before)
"""


def test_reading_needs_neither_torch_nor_ray(repo, output):
    """And importing the package costs nothing before it is used."""
    done = subprocess.run(
        [sys.executable, "-c", READ, output.uri], cwd=repo, capture_output=True, text=True, timeout=60
    )
    assert done.stdout.strip() == "5 1 (8, 16) [] False", done.stderr
