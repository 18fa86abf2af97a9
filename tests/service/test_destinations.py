"""No message leads out of the allowed roots, whatever it says."""

import os

import pytest

from pipeline.service.destinations import Rules
from pipeline.service.messages import FILE_NOT_FOUND, FILE_UNREADABLE, PATH_NOT_ALLOWED, Refused, Request


@pytest.fixture
def songs(tmp_path):
    """Songs below an allowed root, and a secret beside it."""
    root = tmp_path / "songs"
    (root / "a").mkdir(parents=True)
    (root / "a" / "original.mp3").write_bytes(b"song")
    (tmp_path / "secret.mp3").write_bytes(b"secret")
    return root


def place(songs, path, **rules):
    return Rules([str(songs)], **rules).place(Request("id", str(path)))


def test_beside_the_original(songs):
    found = place(songs, songs / "a" / "original.mp3")
    assert found.source == str(songs / "a" / "original.mp3")
    assert found.target == found.told == str(songs / "a" / "vocals_removed.mp3")


def test_a_folder_for_each_video(songs):
    found = place(songs, songs / "a" / "original.mp3", output_uri="s3://bucket/out/")
    assert found.target == "s3://bucket/out/id/vocals_removed.mp3"


def refused(songs, path):
    with pytest.raises(Refused) as found:
        place(songs, path)
    return found.value.code


def test_dots_and_links_lead_nowhere(songs, tmp_path):
    (songs / "out").symlink_to(tmp_path)
    (songs / "a" / "link.mp3").symlink_to(tmp_path / "secret.mp3")
    for path in (
        f"{songs}/../secret.mp3",
        f"{songs}/a/../../secret.mp3",
        f"{songs}/out/secret.mp3",
        songs / "a" / "link.mp3",
        tmp_path / "secret.mp3",
        "/etc/passwd",
        "original.mp3",
        f"file://{tmp_path}/secret.mp3",
        f"{songs}-other/a.mp3",
        f"{songs}/a\0.mp3",
    ):
        assert refused(songs, path) == PATH_NOT_ALLOWED, path


def test_a_link_into_the_root_is_no_way_to_write_outside_of_it(songs, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    link = tmp_path / "elsewhere" / "song.mp3"
    link.symlink_to(songs / "a" / "original.mp3")
    assert refused(songs, link) == PATH_NOT_ALLOWED


def test_a_root_may_be_a_link_and_the_answer_uses_the_names_that_were_sent(songs, tmp_path):
    root = tmp_path / "shared"
    root.symlink_to(songs)
    found = Rules([str(root)]).place(Request("id", str(root / "a" / "original.mp3")))
    assert found.told == str(root / "a" / "vocals_removed.mp3")
    assert found.source == str(songs / "a" / "original.mp3")


def test_what_is_no_file(songs):
    os.mkfifo(songs / "pipe.mp3")
    assert refused(songs, songs / "missing.mp3") == FILE_NOT_FOUND
    assert refused(songs, songs / "a") == FILE_UNREADABLE
    assert refused(songs, songs / "pipe.mp3") == FILE_UNREADABLE


def test_the_result_never_replaces_the_original(songs):
    (songs / "a" / "vocals_removed.mp3").write_bytes(b"song")
    assert refused(songs, songs / "a" / "vocals_removed.mp3") == PATH_NOT_ALLOWED


@pytest.mark.parametrize(
    "uri",
    [
        "s3://other/song.mp3",
        "s3://bucket/songs-of-others/song.mp3",
        "s3://bucket/songs/../secret.mp3",
        "s3://bucket/songs/a.zip::zip://x",
        "s3://bucket/songs/a.mp3?versionId=1",
        "https://example.org/a.mp3",
    ],
)
def test_urls_below_a_root_only(uri):
    with pytest.raises(Refused) as found:
        Rules(["s3://bucket/songs"]).place(Request("id", uri))
    assert found.value.code == PATH_NOT_ALLOWED


def test_a_url():
    found = Rules(["s3://bucket/songs/"]).place(Request("id", "s3://bucket/songs/a/original.mp3"))
    assert found.target == "s3://bucket/songs/a/vocals_removed.mp3"


@pytest.mark.parametrize(
    "rest",
    [
        "../secret.mp3",
        "%2e%2E/secret.mp3",
        ".\t./secret.mp3",
        "..\t/secret.mp3",
        "a/..\n/..\r/secret.mp3",
        ".%2\te/secret.mp3",
        "a\x7f.mp3",
        "a b.mp3",
        "a.mp3?signed",
    ],
)
def test_what_a_client_of_the_web_makes_of_a_url_counts(rest):
    with pytest.raises(Refused) as found:
        Rules(["http://example.org/songs"]).source(f"http://example.org/songs/{rest}")
    assert found.value.code == PATH_NOT_ALLOWED


@pytest.mark.parametrize(
    "uri", ["http://[/a?", "http://[/a", "http://example.org:x/a.mp3", "s3://bucket/a\n.mp3"]
)
def test_what_is_no_url(uri):
    with pytest.raises(Refused) as found:
        Rules(["s3://bucket/", "http://[", "http://example.org:x"]).source(uri)
    assert found.value.code == PATH_NOT_ALLOWED


def test_a_url_of_the_web():
    rules = Rules(["https://Example.org/the%20songs/", "s3://bucket/songs"])
    for uri in ("https://Example.org/the%20songs/a/b%2Bc.mp3", "s3://bucket/songs/a b..mp3"):
        assert rules.source(uri) == uri
