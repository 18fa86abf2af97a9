"""A request that comes again is answered from what lies there, if it is still what was made."""

import errno
import os
from pathlib import Path

import pytest

from pipeline.service import records
from pipeline.service.records import Record, Results, content_of, key_of


@pytest.fixture
def made(tmp_path):
    """A result with its record."""
    file = tmp_path / "made.mp3"
    file.write_bytes(b"instrumental")
    digest = content_of(str(file), {}, lambda: None)
    record = Record("key", digest, 12, 0.8, "spleeter", 1.5, "Soundmill")
    folder = tmp_path / "out" / "id"
    Results(str(folder), "vocals_removed.mp3", {}).put(file, record)
    return folder, record


def found(folder, key="key"):
    return Results(str(folder), "vocals_removed.mp3", {}).find(key)


def test_it_is_found(made):
    folder, record = made
    assert found(folder) == record
    assert found(folder, "another") is None


def test_it_is_not_what_was_made(made):
    folder, _ = made
    (folder / "vocals_removed.mp3").write_bytes(b"instrumentaL")
    assert found(folder) is None
    (folder / "vocals_removed.mp3").unlink()
    assert found(folder) is None


@pytest.mark.parametrize("text", ["", "{", "[]", '{"key": "key"}', '{"key": "key", "more": 1}'])
def test_what_is_no_record_is_none(made, text):
    folder, _ = made
    (folder / "vocals_removed.mp3.json").write_text(text)
    assert found(folder) is None


def test_there_is_none(tmp_path):
    assert found(tmp_path / "nothing") is None


@pytest.fixture
def synced(monkeypatch):
    """Paths that the disk was asked to write down, with the bytes that they had then."""
    paths, fsync = [], os.fsync

    def noted(handle):
        path = Path(f"/proc/self/fd/{handle}").readlink()
        paths.append((path, path.read_bytes() if path.is_file() else None))
        fsync(handle)

    monkeypatch.setattr(os, "fsync", noted)
    return paths


def test_what_is_announced_outlasts_a_power_cut(tmp_path, synced):
    file, folder = tmp_path / "made.mp3", tmp_path / "out" / "id"
    file.write_bytes(b"instrumental")
    record = Record("key", content_of(str(file), {}, lambda: None), 12, 0.8, "spleeter", 1.5, "Soundmill")
    Results(str(folder), "a.mp3", {}).put(file, record)
    written = [
        (folder / "a.mp3", b"instrumental"),
        (folder / "a.mp3.json", (folder / "a.mp3.json").read_bytes()),
    ]
    assert synced == [*written, (folder, None), (folder.parent, None)]
    # Found by somebody else, it may be in memory only: whoever wrote it was killed.
    synced.clear()
    assert Results(str(folder), "a.mp3", {}).find("key") == record
    assert synced == [*written, (folder, None), (folder.parent, None)]
    synced.clear()
    assert Results(str(folder), "a.mp3", {}).find("another") is None
    assert synced == []


@pytest.mark.parametrize(
    ("code", "which", "raised"),
    [(errno.EINVAL, Path.is_dir, False), (errno.EIO, Path.is_dir, True), (errno.EINVAL, Path.is_file, True)],
)
def test_folders_that_cannot_be_written_down_are_no_trouble_and_files_are(
    made, monkeypatch, code, which, raised
):
    folder, record = made
    sync = records.sync

    def refuses(path):
        if which(path):
            raise OSError(code, "no")
        sync(path)

    monkeypatch.setattr(records, "sync", refuses)
    if raised:
        with pytest.raises(OSError, match="no"):
            found(folder)
    else:
        assert found(folder) == record


def test_an_object_store_is_asked_for_no_such_thing(tmp_path, synced):
    file = tmp_path / "made.mp3"
    file.write_bytes(b"instrumental")
    record = Record("key", content_of(str(file), {}, lambda: None), 12, 0.8, "spleeter", 1.5, "Soundmill")
    results = Results("memory://bucket/id", "a.mp3", {})
    results.put(file, record)
    assert results.find("key") == record
    assert synced == []


def test_the_key_is_of_video_content_and_parameters():
    keys = {
        key_of("a", "b", {"method": "c"}),
        key_of("a", "b", {"method": "d"}),
        key_of("ab", "", {"method": "c"}),
    }
    assert len(keys) == 3
    assert key_of("a", "b", {"x": 1, "y": 2}) == key_of("a", "b", {"y": 2, "x": 1})
