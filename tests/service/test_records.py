"""A request that comes again is answered from what lies there, if it is still what was made."""

import pytest

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


def test_the_key_is_of_video_content_and_parameters():
    keys = {
        key_of("a", "b", {"method": "c"}),
        key_of("a", "b", {"method": "d"}),
        key_of("ab", "", {"method": "c"}),
    }
    assert len(keys) == 3
    assert key_of("a", "b", {"x": 1, "y": 2}) == key_of("a", "b", {"y": 2, "x": 1})
