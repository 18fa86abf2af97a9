"""Sources of other kinds through the whole job: an archive, and a manifest with columns of its own."""

import json
import zipfile

import pandas as pd
import pyarrow.parquet as pq
import pytest
from helpers.undisturbed import config, write_files

from pipeline.dataset.output import Output
from pipeline.dataset.verify import verify
from pipeline.workflows.jobs import extract

pytestmark = pytest.mark.timeout(600)


def log(output, result) -> str:
    return (output / "runs" / result.run_id / "log.jsonl").read_text()


def tracks(output) -> pd.DataFrame:
    table = pd.read_parquet(output / "tracks")
    table["name"] = table["uri"].str.split("::").str[0].str.rsplit("/", n=1).str[-1]
    assert table["name"].is_unique
    return table.set_index("name")


@pytest.fixture(scope="module")
def archived(tmp_path_factory, in_process):
    """A zip of music and what a Mac puts beside it, run twice."""
    root = tmp_path_factory.mktemp("archive")
    write_files(root / "in", count=2)
    with zipfile.ZipFile(root / "music.zip", "w") as archive:
        for path in sorted((root / "in").iterdir()):
            archive.write(path, f"album/{path.name}")
        archive.writestr("__MACOSX/album/._000.wav", b"resource fork")
    made = config(root / "in", root / "out")
    made.features.enabled = ["loudness"]
    made.source.uri = f"zip://::{root}/music.zip"
    return root, made, [extract.run(made, quiet=True) for _ in range(2)]


def test_the_members_of_an_archive_are_rows_like_any_file(archived):
    root, _, runs = archived
    assert [r.exit_code for r in runs] == [0, 0]
    found = tracks(root / "out")
    assert sorted(found.index) == sorted(p.name for p in (root / "in").iterdir())
    assert found.loc["000.wav", "uri"] == f"zip://album/000.wav::{root}/music.zip"
    assert found.loc["000.wav", "status"] == "ok"
    assert found.loc["000.wav", "duration_s"] == 2.0
    assert found.loc["000.wav", "asset_id"] == found.loc["zz_copy.wav", "asset_id"]
    failures = pd.read_parquet(root / "out" / "failures").set_index("uri")["error_class"].to_dict()
    assert {uri.split("::")[0].rsplit("/", 1)[-1]: why for uri, why in failures.items()} == {
        "cut.wav": "TruncatedAudio", "no_audio.mp3": "UnrecognizedFormat",
    }  # fmt: skip
    assert "1 __MACOSX folder passed over" in log(root / "out", runs[0])


def test_a_second_run_knows_every_member_again(archived):
    root, _, runs = archived
    text = log(root / "out", runs[1])
    assert "nothing to do" in text
    assert '"event": "device"' not in text


@pytest.fixture(scope="module")
def labelled(tmp_path_factory, in_process):
    """A manifest with labels, one file of it twice; then other labels; then the folder, without it."""
    root = tmp_path_factory.mktemp("manifest")
    write_files(root / "in", count=3)
    rows = [
        {"uri": "in/000.wav", "label": "dog", "id": "007", "version": 1},
        {"uri": f"{root}/in/../in//001.wav", "label": "cat", "id": "008", "version": 2},
        {"uri": "in/zz_copy.wav", "label": "copy of dog", "id": "009", "version": 3},
        {"uri": "in/001.wav", "label": "again", "id": "010", "version": 4},
        {"uri": "in/cut.wav", "label": None, "id": "011", "version": 5},
    ]
    pd.DataFrame(rows).to_csv(root / "list.csv", index=False)
    made = config(root / "in", root / "out")
    made.features.enabled = ["loudness"]
    made.source.uri, made.source.manifest = None, str(root / "list.csv")
    runs, found = [extract.run(made, quiet=True)], [tracks(root / "out")]
    rows[0]["label"], rows[2]["label"] = "wolf", None
    rows[1]["version"] = "2b"
    pd.DataFrame(rows).to_csv(root / "list.csv", index=False)
    runs.append(extract.run(made, quiet=True))
    found.append(tracks(root / "out"))
    return root, made, runs, found


def test_a_file_named_twice_is_one_row_and_every_run_ends_well(labelled):
    root, _, runs, found = labelled
    assert [r.exit_code for r in runs] == [0, 0]
    assert sorted(found[0].index) == ["000.wav", "001.wav", "cut.wav", "zz_copy.wav"]
    assert "the manifest has 5 rows; 1 row names a file that a row before names" in log(root / "out", runs[0])


def test_what_the_manifest_says_stands_in_the_rows(labelled):
    root, _, _, found = labelled
    columns = ["source_uri", "source_label", "source_id", "source_version_given"]
    said = found[0][columns].astype(object).where(found[0][columns].notna(), None).T.to_dict("list")
    assert said == {
        "000.wav": ["in/000.wav", "dog", "007", 1],
        "001.wav": [f"{root}/in/../in//001.wav", "cat", "008", 2],
        "zz_copy.wav": ["in/zz_copy.wav", "copy of dog", "009", 3],
        "cut.wav": ["in/cut.wav", None, "011", 5],
    }
    assert found[0].loc["001.wav", "uri"] == f"{root}/in/001.wav"
    assert found[0].loc["000.wav", "asset_id"] == found[0].loc["zz_copy.wav", "asset_id"]
    assert found[0].loc["000.wav", "source_version"] not in ("1", None), "ours stays ours"


def test_other_labels_are_taken_over_without_computing_anything(labelled):
    root, _, runs, found = labelled
    assert '"event": "device"' not in log(root / "out", runs[1])
    assert found[1]["source_label"].where(found[1]["source_label"].notna(), None).to_dict() == {
        "000.wav": "wolf", "001.wav": "cat", "zz_copy.wav": None, "cut.wav": None,
    }  # fmt: skip
    assert found[1]["source_version_given"].to_dict() == {
        "000.wav": "1", "001.wav": "2b", "zz_copy.wav": "3", "cut.wav": "5",
    }  # fmt: skip
    values = ["asset_id", "run_id", "loudness_integrated_lufs"]
    pd.testing.assert_frame_equal(found[1][values], found[0][values])
    schemas = [pq.read_schema(path) for path in sorted((root / "out" / "tracks").glob("*.parquet"))]
    assert all(schema.equals(schemas[0]) for schema in schemas), "every part, also one without a changed row"
    text = [json.loads(line)["text"] for line in log(root / "out", runs[1]).splitlines()]
    assert any("int64 in the tables and string in the manifest" in line for line in text)


def test_the_folder_later_has_the_same_names_and_the_labels_stay(labelled):
    root, made, _, found = labelled
    made.source.uri, made.source.manifest = str(root / "in"), None
    made.source.limit = 2
    again = extract.run(made, quiet=True)
    assert again.exit_code == 0
    assert "nothing to do" in log(root / "out", again)
    pd.testing.assert_frame_equal(tracks(root / "out"), found[1])


def test_the_output_is_sound(labelled, archived):
    assert not verify(Output(str(labelled[0] / "out"))).found
    assert not verify(Output(str(archived[0] / "out"))).found
