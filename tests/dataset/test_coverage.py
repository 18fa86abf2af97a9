"""Of which files can be said that they are gone: of those that the listing would have named."""

import tarfile
import zipfile

import fsspec
import numpy as np
import pytest
import soundfile

from pipeline.dataset.sources.coverage import covers
from pipeline.dataset.sources.listing import list_source


@pytest.fixture
def folder(tmp_path):
    for name in ("a.wav", "sub/b.flac"):
        path = tmp_path / "music" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, np.zeros(10), 8000)
    return tmp_path / "music"


def covered(uri, names, **arguments):
    items = list(list_source(uri, **arguments))
    told = covers(items, uri, **arguments)
    assert all(told(item.uri) for item in items if not arguments.get("limit"))
    return [told(name) for name in names]


def test_below_the_folder_and_of_a_known_suffix(folder):
    names = [f"{folder}/gone.wav", f"{folder}/sub/x/gone.mp3", f"{folder}/gone.txt", f"{folder}x/gone.wav"]
    assert covered(str(folder), names) == [True, True, False, False]
    assert covered(f"{folder}/", names) == [True, True, False, False]


def test_a_pattern_covers_what_it_matches(folder):
    names = [f"{folder}/gone.wav", f"{folder}/sub/gone.wav", f"{folder}/gone.flac"]
    assert covered(f"{folder}/*.wav", names) == [True, False, False]
    assert covered(str(folder), names, glob="**/*.wav") == [True, True, False]


def test_neither_a_single_file_nor_a_short_listing_covers_anything(folder):
    assert covers([], f"{folder}/a.wav")(f"{folder}/gone.wav") is False
    assert covers([], f"{folder}/a.wav")(f"{folder}/a.wav") is False
    assert covers([], str(folder), limit=5)(f"{folder}/gone.wav") is False
    assert covers([], str(folder), manifest="list.csv")(f"{folder}/gone.wav") is False


def test_what_lies_in_a_folder_that_cannot_be_listed_may_be_there(folder):
    [loop] = [folder / "loop"]
    loop.symlink_to(folder.parent)
    items = list(list_source(str(folder)))
    told = covers(items, str(folder))
    assert any(item.problem for item in items)
    assert not told(f"{loop}/gone.wav")
    assert told(f"{folder}/gone.wav")


def test_hidden_folders_are_not_looked_into(folder):
    assert covered(str(folder), [f"{folder}/.git/gone.wav", f"{folder}/._gone.wav"]) == [False, False]


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_members_of_an_archive(folder, tmp_path, kind):
    archive = tmp_path / f"music.{kind}"
    if kind == "zip":
        with zipfile.ZipFile(archive, "w") as file:
            file.write(folder / "a.wav", "a.wav")
            file.write(folder / "sub/b.flac", "sub/b.flac")
    else:
        with tarfile.open(archive, "w") as file:
            file.add(folder / "a.wav", "a.wav")
            file.add(folder / "sub/b.flac", "sub/b.flac")
    names = [
        f"{kind}://gone.wav::{archive}",
        f"{kind}://sub/gone.wav::{archive}",
        f"{kind}://gone.wav::/other.{kind}",
    ]
    assert covered(f"{kind}://::{archive}", names) == [True, True, False]
    assert covered(f"{kind}://sub::{archive}", names) == [False, True, False]
    assert covered(f"simplecache::{kind}://::{archive}", names) == [True, True, False]


def test_of_a_bucket():
    fs = fsspec.filesystem("memory")
    fs.pipe_file("/covered/music/a.wav", b"x")
    try:
        names = ["memory://covered/music/sub/gone.wav", "memory://covered/other/gone.wav"]
        assert covered("memory://covered/music", names) == [True, False]
    finally:
        fs.rm("/covered", recursive=True)
