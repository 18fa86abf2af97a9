"""Thousands of damaged and lying files, and names that are hostile, through the real listing and decode stage."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import unicodedata
from collections import Counter
from pathlib import Path

import pytest
import soundfile

from pipeline.audio.stream import AudioFile
from pipeline.audio.views import View
from pipeline.dataset.sources.listing import SourceItem, list_source
from pipeline.engine.batch import collect
from pipeline.engine.packing import pack, planned
from pipeline.stages.decode.worker import DecodeWorker

GIB = 1 << 30
OF_THE_FILE = {
    "UnrecognizedFormat", "EmptyAudio", "TruncatedAudio", "NoAudioStream", "CorruptAudio", "AudioTooLong",
}  # fmt: skip
# A decoder that is lost is a bug of a library, and still a row.
OF_THE_DECODER = {"DecoderDied", "DecoderHung", "DecoderOutOfMemory"}


def run_hostile(repo: Path, folder: Path, count: int, seed: int) -> dict:
    """What `hostile.py` says of a run whose working, temporary and home folders are ``folder``'s own."""
    for name in ("cwd", "tmp", "home", "work"):
        (folder / name).mkdir()
    environment = os.environ | {
        "PYTHONPATH": str(repo),
        "PYTHONDONTWRITEBYTECODE": "1",
        "TMPDIR": str(folder / "tmp"),
        "HOME": str(folder / "home"),
    }
    done = subprocess.run(
        [sys.executable, repo / "tests" / "engine" / "hostile.py", folder / "work", str(count), str(seed)],
        cwd=folder / "cwd",
        env=environment,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=280,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def assert_survived(found: dict, count: int) -> None:
    """A row per file, of one known kind, in bounded memory."""
    assert found["written"] == count
    assert found["same"], "a file is missing, or there twice"
    outcomes = Counter(found["outcomes"])
    assert outcomes.total() == count
    assert set(outcomes) <= {"decoded"} | OF_THE_FILE | OF_THE_DECODER, outcomes
    # Neither everything refused nor everything believed.
    assert outcomes["decoded"] > count // 10
    assert sum(outcomes[name] for name in OF_THE_FILE) > count // 4
    assert found["peak_parent"] < GIB
    assert 0 < found["peak_child"] < GIB


def assert_nothing_written(folder: Path) -> None:
    """Nothing outside of the folder that the program was told to use."""
    assert not [*(folder / "cwd").iterdir(), *(folder / "tmp").iterdir(), *(folder / "home").iterdir()]
    assert [path.name for path in (folder / "work").iterdir()] == ["found"]


def test_hostile_files_are_a_row_each(repo, tmp_path):
    found = run_hostile(repo, tmp_path, 2000, seed=1)
    assert_survived(found, 2000)
    assert_nothing_written(tmp_path)
    # None of these has cost a decoder with the libraries of constraints.txt.
    assert found["lost"] == []


@pytest.mark.chaos
@pytest.mark.parametrize("seed", [2, 3])
def test_thousands_of_hostile_files_are_a_row_each(seed, repo, tmp_path):
    found = run_hostile(repo, tmp_path, 5000, seed)
    print(json.dumps(found, indent=1))
    assert_survived(found, 5000)
    assert_nothing_written(tmp_path)


@pytest.fixture(scope="module")
def stage():
    stage = DecodeWorker([View("mono", 22050, 1)])
    yield stage
    stage.decoder.close()


def decode(stage: DecodeWorker, items: list[SourceItem]) -> dict[str, str]:
    """URI → ``decoded`` or the class of the failure, and the failure's message."""
    found = {}
    for block in pack(planned(items), 1000.0, 1000):
        table = stage(block)
        for uri, views, failures in zip(
            table["uri"].to_pylist(), table["views"].to_pylist(), collect(table, "failures"), strict=True
        ):
            assert uri not in found
            assert (views != "{}") != bool(failures)
            found[uri] = f"{failures[0]['error_class']}: {failures[0]['message']}" if failures else "decoded"
    return found


@pytest.fixture
def wav(tmp_path) -> bytes:
    path = tmp_path / "good.wav"
    soundfile.write(path, [0.1] * 800, 8000)
    data = path.read_bytes()
    path.unlink()
    return data


NAMES = (
    "new\nline.wav", "carriage\rreturn.wav", "tab\t.wav", "bell\a.wav", "..wav", "...wav", "-rf.wav", "--help.wav",
    "~root.wav", "$HOME.wav", "`id`.wav", "a;b.wav", "a&b|c.wav", "*.wav", "[a-z].wav", "a?.wav", "%2e%2e%2f.wav",
    "back\\slash.wav", "quote'\".wav", " leading and trailing .wav", "<b>&amp;<br>.wav", "{0}{{x}}.wav", "file:.wav",
    "🎵🔥.wav", "שלום עולם.wav", "\u202egnp.wav", "\u200b.wav", "\ufeffbom.wav", "名前.wav", "NUL.wav",
    unicodedata.normalize("NFC", "é.wav"), unicodedata.normalize("NFD", "é.wav"), "a" * 251 + ".wav",
    "é" * 125 + "x.wav",
)  # fmt: skip


def test_hostile_names_are_names(tmp_path, wav, stage):
    for name in NAMES:
        (tmp_path / name).write_bytes(wav)
    found = decode(stage, list(list_source(str(tmp_path))))
    assert found == {str(tmp_path / name): "decoded" for name in NAMES}


def test_a_name_that_is_not_utf8_is_a_row_that_says_so(tmp_path, wav, stage):
    (tmp_path / os.fsdecode(b"\xff\xfe caf\xe9.wav")).write_bytes(wav)
    (tmp_path / "good.wav").write_bytes(wav)
    found = decode(stage, list(list_source(str(tmp_path))))
    assert len(found) == 2
    assert found.pop(str(tmp_path / "good.wav")) == "decoded"
    [(uri, failure)] = found.items()
    assert uri.encode()
    assert failure == "UnreadableSource: has a name that is not UTF-8"


def special_files(folder: Path, wav: bytes) -> None:
    """A pipe, a device, a socket's stand-in, links of every kind: all with the name of an audio file."""
    outside = folder / "outside"
    inside = folder / "in"
    outside.mkdir()
    inside.mkdir()
    (outside / "real.wav").write_bytes(wav)
    (inside / "good.wav").write_bytes(wav)
    os.mkfifo(inside / "pipe.wav")
    (inside / "device.wav").symlink_to("/dev/zero")
    (inside / "to_pipe.wav").symlink_to("pipe.wav")
    (inside / "outside.wav").symlink_to(outside / "real.wav")
    (inside / "nowhere.wav").symlink_to("nowhere")
    (inside / "self.wav").symlink_to("self.wav")
    (inside / "loop.wav").symlink_to(inside)
    (inside / "loop").symlink_to(inside)
    (inside / "secret.wav").write_bytes(wav)
    (inside / "secret.wav").chmod(0)


def test_what_is_no_file_is_a_row_and_blocks_nobody(tmp_path, wav, stage):
    special_files(tmp_path, wav)
    inside = tmp_path / "in"
    found = decode(stage, list(list_source(str(inside))))
    assert found.pop(str(inside / "good.wav")) == "decoded"
    # Root reads it all the same.
    assert found.pop(str(inside / "secret.wav")).startswith(("decoded", "PermissionError"))
    assert found.pop(str(inside / "outside.wav")) == "decoded", "a link to a file is that file"
    no_file = "UnreadableSource: is neither a file nor a directory"
    assert {Path(uri).name: outcome for uri, outcome in found.items()} == {
        **dict.fromkeys(("pipe.wav", "device.wav", "to_pipe.wav"), no_file),
        **dict.fromkeys(("nowhere.wav", "self.wav"), "UnreadableSource: is a link that leads nowhere"),
        "loop.wav": "UnreadableSource: is a directory with the name of an audio file",
    }  # fmt: skip


def test_a_manifest_may_name_what_is_no_file(tmp_path, wav, stage):
    """Nothing is known of it before it is opened."""
    special_files(tmp_path, wav)
    names = [
        path.name for path in sorted((tmp_path / "in").iterdir()) if path.name not in ("loop", "secret.wav")
    ]
    names += ["../outside/real.wav", "missing.wav", "/dev/zero", "/proc/self/mem", "/proc/kmsg"]
    manifest = tmp_path / "manifest.jsonl"
    manifest.write_text("".join(json.dumps({"uri": name}) + "\n" for name in names))
    found = decode(stage, list(list_source(str(tmp_path / "in"), manifest=str(manifest))))
    by_name = {Path(uri).name: outcome for uri, outcome in found.items()}
    assert len(found) == len(names)
    decoded = {name for name, outcome in by_name.items() if outcome == "decoded"}
    assert decoded == {"good.wav", "outside.wav", "real.wav"}
    for name in ("pipe.wav", "device.wav", "to_pipe.wav", "zero"):
        assert by_name[name] == "UnreadableSource: is neither a file nor a directory"
    assert by_name["loop.wav"] == "UnreadableSource: is a directory"
    for name in ("missing.wav", "nowhere.wav"):
        assert by_name[name].startswith("FileNotFoundError")
    assert by_name["self.wav"].startswith("OSError")
    assert not {by_name[name] for name in ("mem", "kmsg")} & {"decoded"}


def test_a_file_that_becomes_a_pipe_does_not_hang_the_decoder_for_ever(tmp_path):
    """A large file is opened by the decoder itself, later than it was looked at."""
    os.mkfifo(tmp_path / "pipe.wav")
    stage = DecodeWorker([View("mono", 22050, 1)], decode_timeout_s=2.0)
    with pytest.raises(Exception, match="no samples for 2 s"):
        stage.decoder.decode(AudioFile("pipe.wav", 1 << 30, path=tmp_path / "pipe.wav"))
    stage.decoder.close()
