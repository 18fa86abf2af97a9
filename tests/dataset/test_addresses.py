"""One spelling for every place, and no password in any."""

from pathlib import Path

import pytest

from pipeline.dataset.sources.addresses import (
    absolute,
    carries_credentials,
    file_name,
    innermost,
    is_local,
    is_relative,
    join,
    local_path,
    parent,
    public_uri,
    scheme,
)


@pytest.mark.parametrize(
    ("written", "one"),
    [
        ("/data/a.wav", "/data/a.wav"),
        ("//data//a.wav", "/data/a.wav"),
        ("/data/./x/../a.wav", "/data/a.wav"),
        ("/../../a.wav", "/a.wav"),
        ("file:///data/a.wav", "/data/a.wav"),
        ("FILE:///data/a.wav", "/data/a.wav"),
        ("file://localhost/data/a.wav", "/data/a.wav"),
        ("S3://Bucket/a.wav", "s3://Bucket/a.wav"),
        ("s3a://bucket/a/", "s3://bucket/a"),
        ("gcs://bucket/a", "gs://bucket/a"),
        ("s3://bucket/a//b/./c%20d.wav", "s3://bucket/a//b/./c%20d.wav"),
        ("HTTP://Host:80/a/../b/%7ex%2d%c3%a4 c.wav", "http://host/b/~x-%C3%A4%20c.wav"),
        ("https://host:443/ä.wav", "https://host/%C3%A4.wav"),
        ("https://host:80/a.wav", "https://host:80/a.wav"),
        ("https://host/a.wav#t=3", "https://host/a.wav"),
        ("memory://", "memory://"),
        ("zip:///x/a.wav::/data/../a.zip", "zip://x/a.wav::/a.zip"),
        ("ZIP://::FILE:///a.zip", "zip://::/a.zip"),
        ("tar://a::S3://bucket/a.tar", "tar://a::s3://bucket/a.tar"),
        ("simplecache::s3a://bucket/a/", "simplecache::s3://bucket/a"),
        ("zip://a.wav::zip://in.zip::/out.zip", "zip://a.wav::zip://in.zip::/out.zip"),
    ],
)
def test_every_spelling_of_a_place_has_one(written, one):
    assert absolute(written) == one
    assert absolute(one) == one


def test_a_relative_path_is_below_the_working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert absolute("x//y/../a.wav") == str(tmp_path / "x" / "a.wav")
    assert absolute("zip://::a.zip") == f"zip://::{tmp_path}/a.zip"
    assert absolute("a::b.wav") == str(tmp_path / "a::b.wav"), "two colons in a name are no chain"


def test_the_folder_around_a_link_is_that_of_what_it_leads_to(tmp_path):
    (tmp_path / "far" / "inner").mkdir(parents=True)
    (tmp_path / "far" / "a.wav").write_bytes(b"1")
    (tmp_path / "link").symlink_to(tmp_path / "far" / "inner")
    found = local_path(f"{tmp_path}/link/../a.wav")
    assert found == str(tmp_path / "far" / "a.wav")
    assert Path(found).samefile(f"{tmp_path}/link/../a.wav"), "as the system has it"
    assert local_path(f"{tmp_path}/link/x.wav") == f"{tmp_path}/link/x.wav", "a link itself stays"


def test_a_name_with_a_percent_sign_is_the_file_that_is_there(tmp_path):
    (tmp_path / "a b.wav").write_bytes(b"1")
    (tmp_path / "c%20d.wav").write_bytes(b"1")
    assert local_path((tmp_path / "a b.wav").as_uri()) == f"{tmp_path}/a b.wav"
    assert local_path(f"file://{tmp_path}/c%20d.wav") == f"{tmp_path}/c%20d.wav"
    assert local_path(f"{tmp_path}/a%20b.wav") == f"{tmp_path}/a%20b.wav", "a path is no URL"


def test_a_tilde_is_a_home_only_where_no_file_has_the_name(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.chdir(tmp_path)
    assert local_path("~/x.wav") == "/home/me/x.wav"
    (tmp_path / "~").mkdir()
    assert local_path("~/x.wav") == f"{tmp_path}/~/x.wav"
    assert local_path("~x.wav") == f"{tmp_path}/~x.wav"
    assert is_relative("~x.wav")
    assert not is_relative("~/x.wav")


@pytest.mark.parametrize(
    ("uri", "public"),
    [
        ("/data/a@b.wav", "/data/a@b.wav"),
        ("s3://K:S@bucket/a@b.wav", "s3://bucket/a@b.wav"),
        ("https://u:p@host/a.wav?X-Amz-Signature=1&id=7&token=t", "https://host/a.wav?id=7"),
        ("zip://a.wav::https://u:p@host/a.zip?sig=1", "zip://a.wav::https://host/a.zip"),
        ("simplecache::s3://bucket/a.wav", "s3://bucket/a.wav"),
        ("zip://a.wav::simplecache::s3://bucket/a.zip", "zip://a.wav::s3://bucket/a.zip"),
        ("github://org:repo@main/a.wav", "github://org:repo@main/a.wav"),
        (
            "abfs://container@account.dfs.core.windows.net/a",
            "abfs://container@account.dfs.core.windows.net/a",
        ),
    ],
)
def test_what_is_written_down_has_no_credentials_and_is_stable(uri, public):
    assert public_uri(uri) == public
    assert public_uri(public) == public
    assert not carries_credentials(public)


def test_credentials_are_found_in_the_link_that_has_them():
    assert carries_credentials("zip://a.wav::https://u:p@host/a.zip")
    assert not carries_credentials("zip://a@b.wav::/data/a@b.zip")


@pytest.mark.parametrize(
    ("uri", "kind", "local", "last", "name", "folder"),
    [
        ("/d/a.wav", "file", True, "/d/a.wav", "a.wav", "/d"),
        ("/d/http://x/a.wav", "file", True, "/d/http://x/a.wav", "a.wav", "/d/http:/x"),
        ("s3://b/d/a::b.wav", "s3", False, "s3://b/d/a::b.wav", "a::b.wav", "s3://b/d"),
        ("https://h/d/a.csv?sig=/x", "https", False, "https://h/d/a.csv?sig=/x", "a.csv", "https://h/d"),
        ("zip://d/a.wav::/x/a.zip", "zip", False, "/x/a.zip", "a.wav", "zip://d::/x/a.zip"),
        ("zip://a.wav::/x/a.zip", "zip", False, "/x/a.zip", "a.wav", "zip://::/x/a.zip"),
        ("simplecache::/x/a.wav", "simplecache", False, "/x/a.wav", "a.wav", "simplecache::/x"),
    ],
)
def test_the_parts_of_an_address(uri, kind, local, last, name, folder):
    assert (scheme(uri), is_local(uri), innermost(uri)) == (kind, local, last)
    assert (file_name(uri), parent(uri)) == (name, folder)


def test_a_name_is_joined_where_it_belongs():
    assert join("zip://d::/x/a.zip", "a.wav") == "zip://d/a.wav::/x/a.zip"
    assert join("zip://::/x/a.zip", "a.wav") == "zip://a.wav::/x/a.zip"
    assert join("memory://", "a.wav") == "memory://a.wav"
    assert join("s3://b/", "/a.wav") == "s3://b/a.wav"
    assert Path(join("/x", "a.wav")) == Path("/x/a.wav")
