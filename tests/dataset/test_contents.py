"""What an output says of itself: who fills what, kept over versions, and never two fillers of one thing."""

from __future__ import annotations

import json

import pyarrow as pa
import pytest

from pipeline.dataset.contents import PATH, Artifact, Contents, Product, Table
from pipeline.dataset.output import Output, is_own_name
from pipeline.errors import UserError
from pipeline.workflows.known_jobs import known_contents

TURNS = Table("turns", (pa.field("turn", pa.int32()), pa.field("speaker", pa.string())), key="turn")
RTTM = Artifact("rttm", ".rttm", b"SPEAKER", files={"turns_speakers": "turns.rttm"})
TURNS_PRODUCT = Product(
    "turns", (pa.field("turns_speakers", pa.int32()),), key="k", tables=(TURNS,), artifacts=(RTTM,)
)


def product(name, *columns, key=None):
    return Product(name, tuple(pa.field(c, pa.float32()) for c in columns), key=key)


def test_one_thing_has_one_filler():
    with pytest.raises(ValueError, match="column x is filled by a and by b"):
        Contents((product("a", "x"), product("b", "x")))
    with pytest.raises(ValueError, match="table turns is filled by turns and by other"):
        Contents((TURNS_PRODUCT, Product("other", tables=(TURNS,))))


@pytest.mark.parametrize("name", ["tracks", "runs", "blobs", "../x", "Turns", ""])
def test_a_folder_has_a_name_of_its_own(name):
    with pytest.raises(ValueError, match="cannot be a folder of an output"):
        Artifact(name, ".wav", b"RIFF")


def test_what_older_runs_filled_stays_known():
    older = Contents((product("a", "x", "y", key="1"), TURNS_PRODUCT))
    now = Contents((product("a", "x", "z", key="2"),)).with_older(older)
    assert now.owners == {"x": "a", "z": "a", "y": "a", "turns_speakers": "turns"}
    assert (now.get("a").key, now.get("turns").key) == ("2", None), "only this run's are computed"
    assert list(now.tables) == ["turns"]
    taken = Contents((product("b", "x", key="3"),)).with_older(older)
    assert taken.owners["x"] == "b", "a column that another product fills now is no longer the older one's"


def test_an_output_says_what_it_holds(tmp_path):
    first = Output(str(tmp_path / "out"))
    first.declare(Contents((TURNS_PRODUCT,)))
    second = Output(str(tmp_path / "out"))
    assert second.tables == ("tracks", "turns", "timings", "failures")
    assert second.folders() == {"blobs": ".npy", "rttm": ".rttm"}
    assert second.contents.as_json() == first.contents.as_json()
    second.declare(Contents((product("a", "x", key="1"),)))
    assert set(Output(str(tmp_path / "out")).contents.owners) == {"x", "turns_speakers"}


def test_an_output_from_before_holds_what_extraction_wrote_then(tmp_path):
    output = Output(str(tmp_path / "out"))
    assert output.tables == ("tracks", "segments", "timings", "failures")
    assert output.folders() == {"blobs": ".npy", "stems": ".flac"}
    before = output.contents.owners
    today = known_contents().owners
    assert {name: today.get(name) for name in before} == before, "a column has not changed hands since"


def test_a_broken_file_is_no_guess(tmp_path):
    output = Output(str(tmp_path / "out"))
    for text in ("{", "[]", '{"products": 3}', '{"products": {"a": {}}}'):
        output.write(PATH, text.encode())
        with pytest.raises(UserError, match="is not what a run wrote"):
            _ = Output(str(tmp_path / "out")).contents


def test_json_tells_all_that_reading_needs():
    contents = known_contents()
    again = Contents.from_json(json.loads(json.dumps(contents.as_json())))
    assert again.as_json() == contents.as_json()
    assert again.owners == contents.owners


def test_files_of_declared_folders_are_our_own():
    asset = "ab" + "0" * 62
    assert is_own_name(f"rttm/ab/{asset}/turns.rttm")
    assert is_own_name("turns/part-000000000-0123456789ab.parquet")
    assert is_own_name("contents.json")
    assert not is_own_name("turns/mine.parquet")
    assert not is_own_name(f"rttm/cd/{asset}/turns.rttm")
