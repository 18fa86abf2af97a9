"""Listing inputs."""

import os
from pathlib import Path, PurePosixPath

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fsspec.implementations.local import LocalFileSystem

from pipeline.dataset.sources.file_glob import SUFFIXES, sounds_like_audio
from pipeline.dataset.sources.listing import list_source
from pipeline.errors import UserError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("b.wav", "a.FLAC", "notes.txt", "sub/c.mp3", "sub/deep/d.ogg", "z.wav"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"12345")
    return tmp_path


def names(root: Path, **options) -> list[str]:
    return [str(Path(item.uri).relative_to(root)) for item in list_source(str(root), **options)]


def test_a_folder_is_walked_in_order_and_only_audio_counts(folder):
    assert names(folder) == ["a.FLAC", "b.wav", "sub/c.mp3", "sub/deep/d.ogg", "z.wav"]
    assert all(item.size_bytes == 5 for item in list_source(str(folder)))


@pytest.mark.parametrize(
    ("glob", "expected"),
    [
        ("*.wav", ["b.wav", "z.wav"]),
        ("**/*.mp3", ["sub/c.mp3"]),
        ("**/*.wav", ["b.wav", "z.wav"]),
        ("sub/*", ["sub/c.mp3"]),
        ("[ab].*", ["a.FLAC", "b.wav"]),
        ("?.wav", ["b.wav", "z.wav"]),
    ],
)
def test_a_glob_matches_as_a_shell_would(folder, glob, expected):
    assert names(folder, glob=glob) == expected


def test_the_uri_itself_may_be_a_glob_or_a_file(folder):
    assert [Path(i.uri).name for i in list_source(f"{folder}/*.wav")] == ["b.wav", "z.wav"]
    assert [Path(i.uri).name for i in list_source(str(folder / "b.wav"))] == ["b.wav"]


def test_limit_stops_the_listing_early(folder):
    assert names(folder, limit=2) == ["a.FLAC", "b.wav"]


def test_a_relative_uri_becomes_absolute(folder, monkeypatch):
    monkeypatch.chdir(folder)
    assert next(list_source("sub")).uri == str(folder / "sub" / "c.mp3")


def test_a_directory_with_an_audio_name_is_accounted_for_and_walked(folder):
    (folder / "x.wav").mkdir()
    (folder / "x.wav" / "inner.wav").write_bytes(b"1")
    found = {Path(i.uri).name: i.problem for i in list_source(str(folder), glob="**/*.wav")}
    assert found["inner.wav"] is None
    assert "directory" in found["x.wav"]


@pytest.fixture
def elsewhere(folder, tmp_path_factory) -> Path:
    """A folder with a file and links that lead back, up and around."""
    place = tmp_path_factory.mktemp("elsewhere")
    (place / "far.wav").write_bytes(b"123456")
    (place / "back").symlink_to(folder)
    (place / "up").symlink_to(folder.parent)
    (place / "self").symlink_to(place)
    return place


def test_links_are_followed_and_circles_are_not(folder, elsewhere):
    """A dataset may be a folder of links: those of git-annex, DVC and model hubs are."""
    before = names(folder)
    (folder / "file.wav").symlink_to(elsewhere / "far.wav")
    (folder / "linked").symlink_to(elsewhere)
    (folder / "linked_again").symlink_to(elsewhere)
    (folder / "sub" / "loop").symlink_to(folder)
    (folder / "sub" / "neighbour").symlink_to(folder / "sub" / "deep")
    found = {str(Path(item.uri).relative_to(folder)): item for item in list_source(str(folder))}
    more = ["file.wav", "linked/far.wav", "linked_again/far.wav", "sub/neighbour/d.ogg"]
    up = ["linked/up", "linked_again/up"]
    assert sorted(found) == sorted([*before, *more, *up])
    assert all("above" in found[name].problem for name in up), "said, not silent"
    assert not any(found[name].problem for name in more)
    assert found["file.wav"].size_bytes == 6
    assert found["file.wav"].version == found["linked/far.wav"].version, "that of the file, not of the link"


def test_a_glob_finds_what_a_link_leads_to(folder, elsewhere):
    (folder / "splits").mkdir()
    (folder / "splits" / "train").symlink_to(folder / "sub")
    (folder / "splits" / "test").symlink_to(elsewhere)
    (folder / "also").symlink_to(elsewhere)
    assert names(folder, glob="splits/**/*") == [
        "splits/test/far.wav", "splits/test/up", "splits/train/c.mp3", "splits/train/deep/d.ogg",
    ]  # fmt: skip


def test_the_output_is_passed_over_whichever_link_leads_to_it(folder, tmp_path_factory):
    data = tmp_path_factory.mktemp("data")
    (data / "out" / "stems").mkdir(parents=True)
    (data / "out" / "stems" / "vocals.flac").write_bytes(b"1")
    (data / "song.wav").write_bytes(b"1")
    before = names(folder)
    (folder / "results").symlink_to(data / "out")
    (folder / "data").symlink_to(data)
    assert names(folder, exclude=str(data / "out")) == sorted(
        [*before, "data/song.wav"], key=lambda n: n.split("/")
    )


def test_folders_that_all_link_to_each_other_end(tmp_path):
    for here in "abcdef":
        (tmp_path / here).mkdir()
        (tmp_path / here / f"{here}.wav").write_bytes(b"1")
        for there in "abcdef":
            (tmp_path / here / f"to_{there}").symlink_to(tmp_path / there)
    found = list(list_source(str(tmp_path)))
    assert len({item.uri for item in found}) == len(found) < 3000
    cut = [item for item in found if item.problem]
    assert cut
    assert all("behind 4 others" in item.problem for item in cut), "said, not silent"


def test_a_listing_says_of_files_what_fsspec_would(folder):
    """Rows of earlier runs are compared with it."""
    there = {e["name"]: e for e in LocalFileSystem().ls(str(folder), detail=True) if e["type"] == "file"}
    found = [i for i in list_source(str(folder)) if i.uri in there]
    assert len(found) == 3
    for item in found:
        assert (item.size_bytes, item.version) == (there[item.uri]["size"], repr(there[item.uri]["mtime"]))


@pytest.mark.parametrize(
    "name", ["a.wav", ".wav", "..wav", "a.", "a", "A.FlAc", "x/.mp3", "x.wav/y", "a.wav.txt", "tar.opus"]
)
def test_what_sounds_like_audio_is_told_by_the_suffix(name):
    assert sounds_like_audio(name) == (PurePosixPath(name).suffix.lower() in SUFFIXES)


def test_a_name_that_is_not_utf8_becomes_a_problem(folder):
    Path(os.fsdecode(os.fsencode(str(folder)) + b"/bad-\xff.wav")).write_bytes(b"1")
    [item] = [i for i in list_source(str(folder)) if i.problem]
    assert "UTF-8" in item.problem
    assert item.uri.encode()


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_a_manifest_lists_uris_relative_to_itself(folder, kind):
    uris = ["sub/c.mp3", str(folder / "b.wav"), "s3://elsewhere/x.wav"]
    path = folder / f"list.{kind}"
    if kind == "csv":
        path.write_text("title,uri\n" + "".join(f"t,{u}\n" for u in uris))
    elif kind == "jsonl":
        path.write_text("".join(f'{{"uri": "{u}"}}\n\n' for u in uris))
    else:
        pq.write_table(pa.table({"uri": uris, "n": [1, 2, 3]}), path)
    expected = [str(folder / "sub/c.mp3"), str(folder / "b.wav"), "s3://elsewhere/x.wav"]
    assert [i.uri for i in list_source(None, manifest=str(path))] == expected


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("list.csv", "title\nx\n", "no uri column"),
        ("list.jsonl", "{nonsense\n", "line 1 is not JSON"),
        ("list.jsonl", '["a"]\n', "not a JSON object"),
        ("list.jsonl", '{"uri": ""}\n', "row 1 has no uri"),
        ("list.parquet", "nonsense", "not a Parquet file"),
        ("list.txt", "a.wav\n", "a manifest is .csv"),
        ("list.csv", "uri\n", "has no rows"),
    ],
)
def test_an_unusable_manifest_is_one_line(tmp_path, name, text, says):
    (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=says) as caught:
        list(list_source(None, manifest=str(tmp_path / name)))
    assert "\n" not in str(caught.value)


def test_missing_and_empty_sources_say_so(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        list(list_source(str(tmp_path / "nowhere")))
    with pytest.raises(UserError, match="no file with a known audio suffix"):
        list(list_source(str(tmp_path)))
    with pytest.raises(UserError, match=r"no file matching \*\.flac"):
        list(list_source(str(tmp_path), glob="*.flac"))


def test_an_unknown_protocol_is_one_line():
    with pytest.raises(UserError, match="nosuch"):
        list(list_source("nosuch://x"))


def test_a_manifest_that_is_not_utf8_is_one_line(tmp_path):
    (tmp_path / "list.csv").write_bytes("uri\nf\xfcnf.wav\n".encode("latin-1"))
    with pytest.raises(UserError, match="cannot be read as csv"):
        list(list_source(None, manifest=str(tmp_path / "list.csv")))


def test_a_file_named_twice_in_a_manifest_is_one_input(tmp_path):
    (tmp_path / "list.csv").write_text("uri\na.wav\nb.wav\na.wav\n")
    assert len(list(list_source(None, manifest=str(tmp_path / "list.csv")))) == 2


def test_names_with_wildcards_are_names_where_they_exist(tmp_path):
    folder = tmp_path / "My [Album]"
    folder.mkdir()
    (folder / "what?.wav").write_bytes(b"1")
    assert [Path(i.uri).name for i in list_source(str(folder))] == ["what?.wav"]
    assert [Path(i.uri).name for i in list_source(str(folder / "what?.wav"))] == ["what?.wav"]


def test_the_output_inside_the_source_is_passed_over(folder):
    out = folder / "sub" / "out" / "stems"
    out.mkdir(parents=True)
    (out / "vocals.flac").write_bytes(b"1")
    assert "sub/out/stems/vocals.flac" in names(folder)
    assert "sub/out/stems/vocals.flac" not in names(folder, exclude=str(folder / "sub" / "out"))


def test_credentials_in_urls_are_for_reading_only(tmp_path):
    (tmp_path / "list.csv").write_text("uri\nhttps://user:pass@host/a.wav?X-Signature=abc\n")
    [item] = list_source(None, manifest=str(tmp_path / "list.csv"))
    assert item.uri == "https://host/a.wav"
    assert item.location == "https://user:pass@host/a.wav?X-Signature=abc"
