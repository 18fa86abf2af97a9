"""Headers of many files, near and far, without their bodies."""

import io
import os
import sys
import time
from pathlib import Path

import fsspec
import numpy as np
import psutil
import pytest
import soundfile

from pipeline.audio.decode import probe_head
from pipeline.dataset.sources.listing import SourceItem
from pipeline.dataset.sources.probing import HEAD_BYTES, read_header, read_headers
from pipeline.errors import UserError

SECONDS = 4.0
FORMATS = {"wav": "pcm_s16le", "flac": "flac", "ogg": "vorbis", "mp3": "mp3", "aiff": "pcm_s16be"}


def encoded(suffix: str, seconds: float = SECONDS) -> bytes:
    """Noise, 44.1 kHz stereo: nothing compresses it below the head that is read."""
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, (int(44100 * seconds), 2))
    out = io.BytesIO()
    with soundfile.SoundFile(out, "w", 44100, 2, format=suffix.upper()) as file:
        for block in np.array_split(noise, 60):  # libsndfile's Vorbis keeps a whole write on its stack
            file.write(block)
    return out.getvalue()


@pytest.mark.parametrize(("suffix", "codec"), FORMATS.items())
def test_a_header_says_the_same_here_and_there(tmp_path, suffix, codec):
    data = encoded(suffix)
    assert len(data) > HEAD_BYTES
    (tmp_path / f"a.{suffix}").write_bytes(data)
    store = fsspec.filesystem("memory")
    store.pipe_file(f"/probing/a.{suffix}", data)
    try:
        items = [
            SourceItem(str(tmp_path / f"a.{suffix}"), len(data)),
            SourceItem(f"memory://probing/a.{suffix}"),
        ]
        here, there = map(read_header, items)
    finally:
        store.rm("/probing", recursive=True)
    assert here == there
    assert read_headers(items[:1]) == [here]
    assert (here.probe.codec, here.probe.sample_rate, here.probe.channels) == (codec, 44100, 2)
    assert here.probe.duration_s == pytest.approx(SECONDS, abs=0.06)
    assert here.size_bytes == len(data)


class Counting(io.BytesIO):
    """A file that knows how much of it was read."""

    got = 0

    def read(self, size=-1):
        found = super().read(size)
        Counting.got += len(found)
        return found


@pytest.mark.parametrize("suffix", FORMATS)
def test_the_body_is_not_read(suffix):
    data = encoded(suffix, 20.0)
    Counting.got = 0
    found = probe_head(data[:HEAD_BYTES], len(data), lambda: Counting(data), f"a.{suffix}")
    assert found.duration_s == pytest.approx(20.0, abs=0.06)
    assert Counting.got < 0.3 * len(data)


def test_what_is_wrong_is_told(tmp_path):
    wav = encoded("wav")
    contents = {"text.mp3": b"no music", "empty.wav": b"", "cut.wav": wav[: len(wav) // 2]}
    for name, data in contents.items():
        (tmp_path / name).write_bytes(data)
    (tmp_path / "folder.wav").mkdir()
    names = [*contents, "folder.wav", "nowhere.wav"]
    found = read_headers([SourceItem(str(tmp_path / name)) for name in names])
    assert [h.error_class for h in found] == [
        "UnrecognizedFormat", "EmptyAudio", "TruncatedAudio", "IsADirectoryError", "FileNotFoundError",
    ]  # fmt: skip
    assert all(h.probe is None and h.message for h in found)
    assert read_header(SourceItem("x", problem="is a folder")).error_class == "UnreadableSource"


def test_headers_that_kill_or_never_end_cost_themselves_only(tmp_path):
    wav = encoded("wav", 0.5)
    names = [f"good{n}.wav" for n in range(12)]
    names[3:3], names[9:9], names[11:11] = ["segfault.wav"], ["hang.wav"], ["abort.wav"]
    for name in names:
        (tmp_path / name).write_bytes(wav)
    told = []
    found = read_headers(
        [SourceItem(str(tmp_path / name), 7) for name in names],
        threads=4,
        said=told.append,
        timeout_s=12.0,
        reader="header_poison:read",
    )
    wrong = {name: (h.error_class, h.message) for name, h in zip(names, found, strict=True) if h.error_class}
    assert wrong == {
        "segfault.wav": ("DecoderDied", "reading its header ended the process (SIGSEGV)"),
        "hang.wav": ("DecoderHung", "its header was not read within 12 s"),
        "abort.wav": ("DecoderDied", "reading its header ended the process (SIGABRT)"),
    }
    assert all(h.probe.duration_s == 0.5 for h in found if not h.error_class)
    assert told == list(range(1, len(names) + 1))


def test_no_secret_is_in_the_command_line_of_the_child(tmp_path):
    (tmp_path / "seen.wav").write_bytes(encoded("wav", 0.1))
    [found] = read_headers(
        [SourceItem(str(tmp_path / "seen.wav"))], {"secret": "hush"}, reader="header_poison:command_line"
    )
    assert "probing_child" in found.message
    assert "hush" not in found.message
    assert found.error_class == "hush", "the option itself has arrived"


def test_the_process_ends_with_the_one_that_asked(tmp_path):
    (tmp_path / "hang.wav").write_bytes(encoded("wav", 0.1))
    code = (
        "from pipeline.dataset.sources.probing import read_headers\n"
        "from pipeline.dataset.sources.listing import SourceItem\n"
        f"read_headers([SourceItem({str(tmp_path / 'hang.wav')!r})], reader='header_poison:read')"
    )
    paths = os.pathsep.join([str(Path(__file__).parent), str(Path(__file__).parents[2])])
    parent = psutil.Popen([sys.executable, "-c", code], env=os.environ | {"PYTHONPATH": paths})
    deadline = time.monotonic() + 60
    while not (started := tmp_path / "hang.wav.started").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert started.exists()
    [child] = parent.children()
    parent.kill()
    parent.wait()
    assert psutil.wait_procs([child], timeout=60)[1] == []


def test_a_process_that_cannot_begin_is_no_files_fault(tmp_path):
    with pytest.raises(
        RuntimeError,
        match="could not begin: exit code 1: ModuleNotFoundError: No module named 'nothing_of_that_name'",
    ):
        read_headers([SourceItem(str(tmp_path / "a.wav"))] * 3, reader="nothing_of_that_name:read")


def test_no_headers_no_process():
    assert read_headers([]) == []


def test_a_server_that_does_not_answer_is_not_the_files_fault():
    items = [SourceItem(f"http://127.0.0.1/hang{n}.wav", 7) for n in range(5)]
    with pytest.raises(UserError, match="two files in a row were not read within 3 s"):
        read_headers(items, threads=2, timeout_s=3.0, reader="header_poison:wait")
