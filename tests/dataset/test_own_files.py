"""A job must not read what it wrote: an output in, at or around its source."""

import fsspec
import numpy as np
import pytest
import soundfile

from pipeline.dataset.output import is_own_name
from pipeline.dataset.sources.listing import list_source

ASSET = "ab" + 62 * "0"
WRITTEN = (
    f"stems/ab/{ASSET}/vocals.flac",
    f"blobs/ab/{ASSET}/mel-0123-mel.npy",
    "tracks/part-000000000-0123456789ab.parquet",
    "failures/part-empty.parquet",
    "runs/20260101T000000-abcd/log.jsonl",
    "runs/output.lock",
    "runs/verify-20260101T000000.json",
    "golden.json",
)
OF_THE_USER = (
    "song.flac",
    "tracks/song.flac",
    "stems/vocals.flac",
    "stems/ab/take.flac",
    "runs/morning.flac",
)


@pytest.fixture
def folder(tmp_path):
    """A user's files, some in folders with our names, among what a job wrote."""
    for name in (*WRITTEN, *OF_THE_USER):
        path = tmp_path / "music" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if name.endswith(".flac"):
            soundfile.write(path, np.zeros(10), 8000)
        else:
            path.touch()
    return tmp_path / "music"


def names(folder, source, output, glob=None):
    root = str(folder)
    return sorted(item.uri[len(root) + 1 :] for item in list_source(source, glob=glob, exclude=output))


@pytest.mark.parametrize("name", WRITTEN)
def test_names_of_ours_are_known(name):
    assert is_own_name(name)


@pytest.mark.parametrize("name", OF_THE_USER)
def test_names_of_the_user_are_not_taken_for_ours(name):
    assert not is_own_name(name)


@pytest.mark.parametrize("glob", [None, "**/*"])
@pytest.mark.parametrize("spelling", ["{}", "{}/", "file://{}", "{}/../music", "{}/./"])
def test_an_output_at_its_source_leaves_out_what_jobs_wrote(folder, spelling, glob):
    assert names(folder, str(folder), spelling.format(folder), glob) == sorted(OF_THE_USER)


def test_an_output_that_is_its_source_by_a_link(folder, tmp_path):
    (tmp_path / "link").symlink_to(folder)
    assert names(folder, str(folder), str(tmp_path / "link")) == sorted(OF_THE_USER)
    assert names(tmp_path / "link", str(tmp_path / "link"), str(folder)) == sorted(OF_THE_USER)


def test_a_source_in_the_output(folder):
    assert names(folder, str(folder / "stems"), str(folder)) == ["stems/ab/take.flac", "stems/vocals.flac"]


def test_an_output_in_the_source_is_passed_over_whole(folder):
    assert names(folder, str(folder), str(folder / "stems")) == [
        "runs/morning.flac",
        "song.flac",
        "tracks/song.flac",
    ]


@pytest.mark.parametrize("spelling", ["memory://own/music", "memory://own/music/"])
def test_of_a_bucket_too(spelling):
    fs = fsspec.filesystem("memory")
    for name in (*WRITTEN, *OF_THE_USER):
        fs.pipe_file(f"/own/music/{name}", b"x")
    try:
        found = [item.uri.split("/music/")[1] for item in list_source("memory://own/music", exclude=spelling)]
        assert sorted(found) == sorted(OF_THE_USER)
    finally:
        fs.rm("/own", recursive=True)
