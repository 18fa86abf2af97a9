"""Listings in which every sound track is a row."""

from __future__ import annotations

import pytest
from helpers.av_files import RATE, av_file, tone

from pipeline.audio.encode import encode
from pipeline.dataset.sources.listing import SourceItem
from pipeline.dataset.sources.sound_tracks import expand_streams, file_of


def written(folder, name: str, data: bytes) -> SourceItem:
    (folder / name).write_bytes(data)
    return SourceItem(str(folder / name), len(data), version="1")


def test_only_files_with_several_tracks_become_several_rows(tmp_path):
    two = av_file("matroska", "flac", [tone(440, 0.2), tone(880, 0.2)])
    items = [
        written(tmp_path, "a.mkv", two),
        written(tmp_path, "b.ogg", encode(tone(440, 0.2), RATE, "ogg")),
        written(tmp_path, "c.wav", encode(tone(440, 0.2), RATE, "wav")),
        written(tmp_path, "d.mkv", b"no film"),
        written(tmp_path, "e.bin", two),
        SourceItem(str(tmp_path / "gone.mkv")),
        SourceItem(str(tmp_path), problem="is a folder"),
        SourceItem(
            "https://host/f.mkv?signed", 7, problem="not read here", location="https://host/f.mkv?k=s"
        ),
    ]
    found = expand_streams(items)
    names = [i.uri.rsplit("/", 1)[1] for i in found]
    assert names[:7] == ["a.mkv", "a.mkv#audio=1", "b.ogg", "c.wav", "d.mkv", "e.bin", "e.bin#audio=1"]
    assert [i for i in found if i.audio_stream is None] == items
    second = found[1]
    assert (second.location, second.audio_stream, second.version) == (items[0].uri, 1, "1")


def test_where_it_is_read_stays_the_secret_one(tmp_path):
    path = tmp_path / "a.mkv"
    path.write_bytes(av_file("matroska", "flac", [tone(440, 0.2), tone(880, 0.2)]))
    item = SourceItem("file:///public.mkv", path.stat().st_size, location=str(path))
    assert [(i.uri, i.location) for i in expand_streams([item])] == [
        ("file:///public.mkv", str(path)),
        ("file:///public.mkv#audio=1", str(path)),
    ]


@pytest.mark.parametrize(
    ("uri", "file"),
    [
        ("/a/b.mkv#audio=1", "/a/b.mkv"), ("/a/b.mkv#audio=12", "/a/b.mkv"), ("/a/b.mkv", "/a/b.mkv"),
        ("/a/b #1.mkv", "/a/b #1.mkv"), ("/a#audio=1/b.mkv", "/a#audio=1/b.mkv"), ("/a#audio=x", "/a#audio=x"),
    ],
)  # fmt: skip
def test_the_file_of_a_row(uri, file):
    assert file_of(uri) == file
