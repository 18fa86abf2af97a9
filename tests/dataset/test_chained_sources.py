"""Archives, web servers and what else is behind a URL: listed, and read by what was written down."""

import io
import os
import socket
import tarfile
import zipfile
from pathlib import Path

import fsspec
import pytest
from web_server import web_server

from pipeline.dataset.sources.items import Listing
from pipeline.dataset.sources.listing import list_source
from pipeline.dataset.storage import filesystem
from pipeline.errors import UserError

FILES = {
    "x.wav": b"one",
    "sub/y.flac": b"three",
    "sub/deep/we ird #?[a]&.wav": b"another",
    "notes.txt": b"no",
    "__MACOSX/._x.wav": b"resource fork",
    "sub/._y.flac": b"resource fork",
}
AUDIO = ["sub/deep/we ird #?[a]&.wav", "sub/y.flac", "x.wav"]
KINDS = {
    "a.zip": "zip",
    "a.tar": "tar",
    "a.tar.gz": "tar",
    "a.tgz": "tar",
    "a.tar.bz2": "tar",
    "misnamed.dat": "tar",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """The files as they are, and in archives of every kind beside them."""
    root = tmp_path_factory.mktemp("chains")
    for name, data in FILES.items():
        (root / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (root / "in" / name).write_bytes(data)
    with zipfile.ZipFile(root / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in FILES.items():
            archive.writestr(name, data)
    modes = {"a.tar": "w", "a.tar.gz": "w:gz", "a.tgz": "w:gz", "a.tar.bz2": "w:bz2", "misnamed.dat": "w:gz"}
    for archive, mode in modes.items():
        with tarfile.open(root / archive, mode) as file:
            for name, data in FILES.items():
                entry = tarfile.TarInfo(name)
                entry.size = len(data)
                file.addfile(entry, io.BytesIO(data))
    return root


def contents(uri: str, **options) -> dict[str, bytes]:
    """Uri → what is read by it, of all that is listed."""
    found = {}
    for item in list_source(uri, **options):
        fs, path = filesystem(item.location or item.uri, options.get("storage_options"))
        found[item.uri] = fs.cat_file(path)
    return found


@pytest.mark.parametrize("name", KINDS)
def test_the_members_of_an_archive_are_listed_and_read(folder, name):
    kind, place = KINDS[name], f"{folder}/{name}"
    found = contents(f"{kind}://::{place}")
    assert found == {f"{kind}://{member}::{place}": FILES[member] for member in AUDIO}
    [item] = list_source(f"{kind}://x.wav::{place}")
    assert item.uri == f"{kind}://x.wav::{place}", "a member by its own uri"
    assert item.size_bytes == 3


@pytest.mark.parametrize("name", ["a.zip", "a.tar.gz"])
def test_what_is_written_down_of_a_member_is_the_same_every_time(folder, name, monkeypatch):
    kind = KINDS[name]
    items = list(list_source(f"{kind}://::{folder}/{name}"))
    monkeypatch.chdir(folder)
    for spelling in (
        name,
        f"./{name}",
        f"file://{folder}/{name}",
        f"FILE://{folder}/../{folder.name}//{name}",
    ):
        assert list(list_source(f"{kind}://::{spelling}")) == items
    assert all(item.version for item in items), "so that a later run knows it again"


def test_a_folder_and_a_pattern_in_an_archive(folder):
    place = f"{folder}/a.zip"
    assert list(contents(f"zip://sub::{place}")) == [f"zip://{m}::{place}" for m in AUDIO[:2]]
    assert list(contents(f"zip://*.wav::{place}")) == [f"zip://x.wav::{place}"]
    assert list(contents(f"zip://sub/**/*.wav::{place}")) == [f"zip://{AUDIO[0]}::{place}"]
    assert list(contents(f"zip://::{place}", glob="sub/*")) == [f"zip://sub/y.flac::{place}"]
    assert list(contents(f"zip://{AUDIO[0]}::{place}")) == [f"zip://{AUDIO[0]}::{place}"], (
        "a name with wildcards"
    )
    assert list(contents(f"zip://::{place}", glob="**/._*")) == [
        f"zip://__MACOSX/._x.wav::{place}", f"zip://sub/._y.flac::{place}",
    ]  # fmt: skip


def test_an_archive_in_an_archive(folder, tmp_path):
    with zipfile.ZipFile(tmp_path / "out.zip", "w") as archive:
        archive.write(folder / "a.tar.gz", "inner.tar.gz")
    place = f"zip://inner.tar.gz::{tmp_path}/out.zip"
    assert contents(f"tar://sub/y.flac::{place}") == {f"tar://sub/y.flac::{place}": b"three"}


def test_a_member_that_changed_has_another_version_and_its_neighbours_of_a_zip_have_not(tmp_path):
    def write(data: bytes) -> dict[str, str]:
        with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
            archive.writestr("x.wav", data)
            archive.writestr("y.wav", b"same")
        return {item.uri[6]: item.version for item in list_source(f"zip://::{tmp_path}/a.zip")}

    one, other = write(b"one"), write(b"two")
    assert one["x"] != other["x"]
    assert one["y"] == other["y"]
    assert contents(f"zip://x.wav::{tmp_path}/a.zip") == {f"zip://x.wav::{tmp_path}/a.zip": b"two"}


def test_a_member_whose_name_no_address_can_have_is_a_failure_and_not_silent(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("a::b.wav", b"1")
        archive.writestr("c.wav", b"1")
    problems = {item.uri[6:7]: item.problem for item in list_source(f"zip://::{tmp_path}/a.zip")}
    assert problems["c"] is None
    assert "two colons" in problems["a"]


@pytest.mark.parametrize("in_pieces", [False, True])
def test_a_web_server_that_lists_a_folder(folder, in_pieces):
    with web_server(folder, in_pieces) as url:
        expected = {
            f"{url}/in/sub/deep/we%20ird%20%23%3F%5Ba%5D%26.wav": b"another",
            f"{url}/in/sub/y.flac": b"three",
            f"{url}/in/x.wav": b"one",
        }
        assert contents(f"{url}/in/") == contents(f"{url}/in") == expected
        assert contents(f"{url}/in/**/*.wav") == {n: d for n, d in expected.items() if n.endswith("wav")}
        assert list(contents(f"{url}/in", glob="sub/deep/we ird*.wav")) == list(expected)[:1], (
            "as files are called"
        )
        assert contents(f"{url}/in/x.wav") == {f"{url}/in/x.wav": b"one"}
        assert list(contents(f"simplecache::{url}/in")) == list(expected), "a copy is not another file"


@pytest.mark.parametrize("in_pieces", [False, True])
@pytest.mark.parametrize("name", ["a.zip", "a.tar", "a.tar.gz"])
def test_an_archive_on_a_web_server(folder, name, in_pieces):
    kind = KINDS[name]
    with web_server(folder, in_pieces) as url:
        expected = {f"{kind}://{member}::{url}/{name}": FILES[member] for member in AUDIO}
        assert contents(f"{kind}://::{url}/{name}") == expected
        assert contents(f"{kind}://::simplecache::{url}/{name}") == expected


def test_a_page_that_links_up_around_and_elsewhere(folder, tmp_path):
    links = (
        "../", "./", "?C=N;O=D", "/", "#top", "x.wav", "x.wav", "x.wav#t=1", "http://elsewhere.invalid/y.wav",
        "a%20&amp;%20b.wav", "javascript:void(0)",
    )  # fmt: skip
    page = "".join(f'<a href="{link}">x</a>' for link in links)
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "index.html").write_text(page)
    with web_server(tmp_path) as url:
        assert [i.uri for i in list_source(f"{url}/in/")] == [f"{url}/in/a%20&%20b.wav", f"{url}/in/x.wav"]


def test_files_and_archives_in_memory(folder):
    fs = fsspec.filesystem("memory")
    fs.pipe(
        {"/chains/sub/y.wav": b"1", "/chains/x.wav": b"22", "/chains/a.zip": (folder / "a.zip").read_bytes()}
    )
    try:
        assert contents("memory://chains") == {
            "memory://chains/sub/y.wav": b"1",
            "memory://chains/x.wav": b"22",
        }
        assert contents("memory://chains/x.wav") == {"memory://chains/x.wav": b"22"}
        assert list(contents("zip://::memory://chains/a.zip")) == [
            f"zip://{m}::memory://chains/a.zip" for m in AUDIO
        ]
    finally:
        fs.rm("/chains", recursive=True)


def test_a_cache_is_no_part_of_a_name(folder, tmp_path):
    plain = contents(f"{folder}/in")
    options = {"simplecache": {"cache_storage": str(tmp_path)}}
    assert contents(f"simplecache::{folder}/in", storage_options=options) == plain
    assert any(path.is_file() for path in tmp_path.iterdir()), "its own options reach it"


def test_credentials_of_an_archive_are_for_reading_only(folder):
    with web_server(folder, in_pieces=True) as url:
        secret = url.replace("//", "//user:pass@") + "/a.zip?X-Signature=abc"
        for item in list_source(f"zip://::{secret}"):
            assert item.uri == f"zip://{item.uri[6:].split('::')[0]}::{url}/a.zip"
            assert item.location.endswith(secret)


def test_a_manifest_in_an_archive_names_what_lies_beside_it(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("d/list.csv", "uri\nx.wav\nzip://other.wav::/b.zip\n")
        archive.writestr("d/x.wav", b"1")
    found = list(list_source(None, manifest=f"zip://d/list.csv::{tmp_path}/a.zip"))
    assert [i.uri for i in found] == [f"zip://d/x.wav::{tmp_path}/a.zip", "zip://other.wav::/b.zip"]


def explained(uri: str, **options) -> dict[str, str]:
    with pytest.raises(UserError) as caught:
        list(list_source(uri, **options))
    lines = dict(line.split(":", 1) for line in caught.value.explained().splitlines())
    return {name: text.strip() for name, text in lines.items()}


def test_an_archive_that_is_not_there(folder):
    said = explained(f"tar://::{folder}/no.tar")
    assert said["error"] == f"source.uri=tar://::{folder}/no.tar: does not exist"
    assert said["why"] == f"{folder} has nothing called no.tar"
    assert "archive" in said["type"]


@pytest.mark.parametrize(("uri", "instead"), [("zip://::{}/a.tar.gz", "tar"), ("tar://::{}/a.zip", "zip")])
def test_a_file_that_is_no_archive_of_its_kind(folder, uri, instead):
    said = explained(uri.format(folder))
    assert "archive, or not a whole one" in said["error"]
    hint = said["type"].split("'")[1].removeprefix("source.uri=")
    assert hint.startswith(f"{instead}://")
    assert len(contents(hint)) == len(AUDIO), "what it says to type works"


@pytest.mark.parametrize("name", ["a.zip", "a.tar", "a.tar.gz"])
def test_an_archive_that_is_cut_off(folder, tmp_path, name):
    whole = (folder / name).read_bytes()
    (tmp_path / name).write_bytes(whole[: 1000 if name == "a.tar" else len(whole) // 2])
    assert f"is no {KINDS[name]} archive" in explained(f"{KINDS[name]}://::{tmp_path}/{name}")["error"]


def test_a_tar_that_is_cut_off_between_two_members_may_be_whole(folder, tmp_path):
    """Its format does not tell: what is there is taken, and said to be perhaps not all."""
    (tmp_path / "a.tar").write_bytes((folder / "a.tar").read_bytes()[:1024])
    listing = Listing()
    assert len(list(list_source(f"tar://::{tmp_path}/a.tar", listing=listing))) == 1
    assert "cut off" in " ".join(listing.notes())
    listing = Listing()
    list(list_source(f"tar://::{folder}/a.tar", listing=listing))
    assert "cut off" not in " ".join(listing.notes())


def test_what_an_archive_does_not_hold(folder):
    said = explained(f"zip://musik::{folder}/a.zip")
    assert said["why"] == "the archive has nothing called musik"


def test_an_archive_without_its_colons_is_shown_with_them(folder):
    said = explained(f"{folder}/a.zip")
    assert said["error"].endswith("is an archive")
    assert len(contents(said["type"].strip("'").removeprefix("source.uri="))) == len(AUDIO)
    assert "behind two colons" in explained(f"zip://{folder}/a.zip")["why"]


@pytest.mark.parametrize(
    "uri", ["blockcache::{}/a.zip", "libarchive://::{}/a.zip", "simplecache://x::{}", "zip://::"]
)
def test_a_chain_that_is_not_read_is_one_line_that_names_what_is(folder, uri):
    said = explained(uri.format(folder))
    assert said["error"].endswith("this chain is not read")
    assert "zip://" in said["why"]
    assert "simplecache::" in said["why"]


def test_what_a_web_server_does_not_have(folder):
    with web_server(folder) as url:
        for name in ("nope.wav", "nope/"):
            said = explained(f"{url}/{name}")
            assert said["error"] == f"source.uri={url}/{name}: the server {url[7:]} has nothing there"
            assert said["why"] == f"it answers 404 for /{name}"
        assert "has nothing there" in explained(f"zip://::{url}/nope.zip")["error"]
        for name in ("in/x.wav", "in/"):
            said = explained(f"{url.replace('http', 'https')}/{name}")
            assert said["error"].endswith(f"{url[7:]} does not speak TLS")
            assert said["type"].startswith(f"{url}/{name}")


@pytest.mark.parametrize("name", ["x.wav", "in/"])
def test_a_web_server_that_is_not_there(name):
    with socket.create_server(("127.0.0.1", 0)) as held:
        port = held.getsockname()[1]
    said = explained(f"http://127.0.0.1:{port}/{name}")
    assert said["error"].endswith(f"the server 127.0.0.1:{port} does not answer")
    assert "bucket" not in str(said)


@pytest.mark.parametrize("folder_name", [".git", ".hidden", "__MACOSX", "@eaDir"])
def test_copies_of_systems_are_passed_over_and_counted(tmp_path, folder_name):
    for name in ("a.wav", "._a.wav", f"{folder_name}/b.wav", f"{folder_name}/deep/c.wav", ".d.wav"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"1")
    listing = Listing()
    assert [Path(i.uri).name for i in list_source(str(tmp_path), listing=listing)] == [".d.wav", "a.wav"]
    assert sum(listing.passed_over.values()) == 2
    assert len(listing.notes()) == 2
    everything = [
        os.path.relpath(i.uri, tmp_path) for i in list_source(str(tmp_path), glob=f"{folder_name}/**/*.wav")
    ]
    assert everything == [f"{folder_name}/b.wav", f"{folder_name}/deep/c.wav"]
    assert [Path(i.uri).name for i in list_source(str(tmp_path), glob="**/*.wav")] == [".d.wav", "a.wav"]
    assert [Path(i.uri).name for i in list_source(f"{tmp_path}/._*.wav")] == ["._a.wav"]
    assert [Path(i.uri).name for i in list_source(f"{tmp_path}/._a.wav")] == ["._a.wav"]
    inside = [Path(i.uri).name for i in list_source(f"{tmp_path}/{folder_name}")]
    assert inside == ["b.wav", "c.wav"], "who names it means it"
