"""Writing below the output root."""

import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.dataset.output import Output, blob_path, npy_bytes
from pipeline.errors import UserError
from pipeline.stages.separation.spec import STEM_FILES


def test_a_file_is_written_whole_and_leaves_nothing_else(tmp_path):
    output = Output(str(tmp_path))
    output.write("blobs/aa/x.npy", b"first")
    output.write("blobs/aa/x.npy", b"second")
    assert [p.name for p in (tmp_path / "blobs/aa").iterdir()] == ["x.npy"]
    assert output.read("blobs/aa/x.npy") == b"second"


def test_a_failed_write_leaves_the_old_file_and_no_temporary(tmp_path, monkeypatch):
    output = Output(str(tmp_path))
    output.write("tracks/a.parquet", b"good")

    def full(self, data):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space"):
        output.write("tracks/a.parquet", b"bad")
    assert [p.name for p in (tmp_path / "tracks").iterdir()] == ["a.parquet"]
    assert (tmp_path / "tracks/a.parquet").read_bytes() == b"good"


@pytest.mark.parametrize("name", ["../x", "a/../../x", "/etc/x", "a//b", ".hidden", "a/.b", "", "a\nb", "ä"])
def test_nothing_is_written_outside_the_root(tmp_path, name):
    with pytest.raises(ValueError, match="unsafe"):
        Output(str(tmp_path)).write(name, b"")


def test_checking_removes_nothing_and_clearing_leaves_the_history(tmp_path):
    output = Output(str(tmp_path / "out"))
    output.check()
    output.write_table("tracks/part-0.parquet", pa.table({"a": [1]}))
    output.write("runs/old/config.yaml", b"x")
    output.check()
    assert output.parts("tracks") == ["tracks/part-0.parquet"]
    output.clear()
    assert output.parts("tracks") == []
    assert output.read("runs/old/config.yaml") == b"x", "the history of runs stays"


def test_clearing_removes_our_files_and_nobody_elses(tmp_path):
    output = Output(str(tmp_path))
    asset = "ab" * 32
    output.write_table("tracks/part-0.parquet", pa.table({"a": [1]}))
    output.write(blob_path(asset, "mel", "0123", "mel"), b"ours")
    output.write(STEM_FILES.path(asset, "vocals.flac"), b"ours")
    theirs = [
        "tracks/other.parquet",
        "stems/song/vocals.flac",
        "stems/mine.wav",
        f"stems/ab/{asset}/notes.txt",
    ]
    for name in theirs:
        output.write(name, b"theirs")
    output.clear()
    left = {str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if p.is_file()}
    assert left == set(theirs)


def test_an_unwritable_output_is_one_line(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match=r"output\.uri"):
        Output(str(tmp_path / "file" / "out")).check()


def test_parts_skip_temporaries(tmp_path):
    output = Output(str(tmp_path))
    output.write_table("tracks/part-1.parquet", pa.table({"a": [1]}))
    (tmp_path / "tracks/.part-2.parquet.abc.tmp").write_bytes(b"half")
    (tmp_path / "tracks/.part-3.parquet").write_bytes(b"half")
    assert output.parts("tracks") == ["tracks/part-1.parquet"]
    assert pq.read_table(tmp_path / "tracks").num_rows == 1


def test_tidying_removes_parts_that_were_never_committed(tmp_path):
    output = Output(str(tmp_path))
    for part in ("tracks/part-1", "segments/part-1", "segments/part-2", "timings/part-2", "failures/other"):
        output.write_table(f"{part}.parquet", pa.table({"a": [1]}))
    output.fill_empty({"tracks": pa.schema([]), "failures": pa.schema([])})
    (tmp_path / "tracks/.part-2.parquet.abc.tmp").write_bytes(b"half")
    removed = output.tidy()
    assert sorted(r for r in removed if not r.endswith(".tmp")) == [
        "segments/part-2.parquet",
        "timings/part-2.parquet",
    ]
    assert output.parts("segments") == ["segments/part-1.parquet"]
    assert output.parts("failures") == ["failures/other.parquet"], "none of ours"
    assert not list((tmp_path / "tracks").glob(".*"))


def test_a_table_without_rows_can_still_be_read(tmp_path):
    output = Output(str(tmp_path))
    output.write_table("tracks/part-0.parquet", pa.table({"a": [1]}))
    schema = pa.schema([("a", pa.int64())])
    output.fill_empty({"tracks": schema, "failures": schema})
    assert output.parts("tracks") == ["tracks/part-0.parquet"]
    assert pq.read_table(tmp_path / "failures").schema.equals(schema)
    assert pq.read_table(tmp_path / "failures").num_rows == 0


def test_npy_bytes_are_c_order_and_need_no_pickle():
    array = np.asfortranarray(np.arange(6, dtype=np.float16).reshape(2, 3))
    back = np.load(io.BytesIO(npy_bytes(array)), allow_pickle=False)
    np.testing.assert_array_equal(back, array)
    assert back.flags.c_contiguous
    assert back.dtype == np.float16


def test_names_follow_the_contract():
    asset = "ab" * 32
    assert blob_path(asset, "mel", "0123", "mel") == f"blobs/ab/{asset}/mel-0123-mel.npy"
    assert STEM_FILES.path(asset, "vocals.flac") == f"stems/ab/{asset}/vocals.flac"
