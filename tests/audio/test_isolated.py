"""The decoder in a process of its own: what it gives is what decoding here gives, and its end is one file's."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
from helpers import decode_poison

from pipeline.audio.decode import AudioTooLong, CorruptAudio, TruncatedAudio, UnrecognizedFormat
from pipeline.audio.encode import encode
from pipeline.audio.isolated import (
    DecoderDied,
    DecoderHung,
    DecoderOutOfMemory,
    DecoderRaised,
    IsolatedDecoder,
    _understood,
)
from pipeline.audio.resample import make_view
from pipeline.audio.shared_memory import Arena, Lender
from pipeline.audio.stream import AudioFile
from pipeline.audio.tags import FileFacts
from pipeline.audio.views import View, Wanted, decode_views

VIEWS = (
    View("native", None, None),
    View("clap", 48000, 1),
    View("separation", 44100, 2),
    View("mono", 22050, 1),
    View("channels", 22050, None),
)
WANTED = Wanted(VIEWS, 200_000_000, 3600.0)
HEADER = (
    "container", "codec", "sample_rate", "channels", "samples", "replaced_samples", "damaged_packets", "long",
    "places", "retried", "mono_channel",
)  # fmt: skip


def music(channels: int, rate: int, seconds: float = 0.5) -> np.ndarray:
    time_ = np.arange(round(seconds * rate)) / rate
    noise = np.random.default_rng(channels).standard_normal((channels, len(time_)))
    return (0.3 * np.sin(2 * np.pi * 440 * time_) + 0.05 * noise).astype(np.float32)


def in_memory(data: bytes, name: str = "x") -> AudioFile:
    return AudioFile(name, len(data), data)


def good(name: str = "good.wav") -> AudioFile:
    return in_memory(encode(music(2, 8000), 8000, "wav"), name)


def assert_same(found, expected) -> None:
    assert {name: getattr(found, name) for name in HEADER} == {
        name: getattr(expected, name) for name in HEADER
    }
    assert found.stored.keys() == expected.stored.keys()
    for name, array in expected.stored.items():
        np.testing.assert_array_equal(found.stored[name], array, strict=True)


@pytest.fixture(scope="module")
def decoder():
    decoder = IsolatedDecoder(WANTED)
    yield decoder
    decoder.close()


@pytest.fixture(scope="module")
def poisoned():
    decoder = IsolatedDecoder(WANTED, timeout_s=3.0, memory_bytes=512 << 20, decoder=decode_poison.DECODER)
    yield decoder
    decoder.close()


@pytest.mark.parametrize(
    ("container", "channels", "rate"),
    [
        ("wav", 1, 8000), ("wav", 2, 44100), ("wav", 8, 192000),
        ("flac", 1, 8000), ("flac", 2, 44100), ("flac", 8, 192000),
        ("ogg", 1, 8000), ("ogg", 2, 44100), ("ogg", 8, 48000), ("ogg", 2, 192000),
        ("mp3", 1, 8000), ("mp3", 2, 44100),
        ("m4a", 1, 8000), ("m4a", 2, 44100), ("m4a", 8, 48000),
        ("opus", 2, 48000), ("aiff", 3, 11025), ("mkv", 6, 96000),
    ],
)  # fmt: skip
def test_bit_for_bit_what_this_process_decodes(container, channels, rate, decoder):
    file = in_memory(encode(music(channels, rate), rate, container))
    found, expected = decoder.decode(file), decode_views(file, WANTED)
    assert (found.sample_rate, found.channels) == (rate, channels)
    assert_same(found, expected)


def test_what_was_mended_and_a_file_on_disk_and_a_long_one(decoder, tmp_path):
    samples = music(2, 44100)
    samples[0, 7] = np.nan
    path = tmp_path / "nan \udcff.wav"
    with path.open("wb") as out:
        soundfile.write(out, samples.T, 44100, format="WAV", subtype="FLOAT")
    on_disk = AudioFile(path.name, path.stat().st_size, path=path)
    found = decoder.decode(on_disk)
    assert found.replaced_samples == 1
    assert_same(found, decode_views(on_disk, WANTED))
    # The second holds the track, and not what a stage makes of it besides.
    later = Wanted(VIEWS[:1], 200_000, 3600.0, made=(View("vocals", 44100, 2, maker="separation"),))
    assert not decode_views(on_disk, replace(later, made=())).long
    for small in (later, Wanted(VIEWS, 50_000, 3600.0)):
        other = IsolatedDecoder(small)
        found = other.decode(on_disk)
        assert found.long
        assert found.replaced_samples == 1
        assert_same(found, decode_views(on_disk, small))
    cut = path.read_bytes()[:-2000]
    with pytest.raises(TruncatedAudio):
        other.decode(in_memory(cut))


@pytest.mark.parametrize("rate", [22050, 44100])
def test_channels_that_cancel_are_told_on_and_stood_in_for(rate, decoder):
    samples = music(1, rate)
    file = in_memory(encode(np.concatenate([-0.5 * samples, samples, -0.5 * samples]), rate, "wav"))
    found, expected = decoder.decode(file), decode_views(file, WANTED)
    assert found.mono_channel == 1
    assert_same(found, expected)
    native = found.stored["native"]
    alone = make_view(native[1:2], rate, found.places["mono"].sample_rate, 1)
    np.testing.assert_array_equal(found.stored["mono"], alone)
    small = IsolatedDecoder(Wanted(VIEWS, 50_000, 3600.0))
    assert (small.decode(file).long, small.decode(file).mono_channel) == (True, 1)


def test_errors_are_those_of_this_process(decoder):
    flac = encode(music(2, 44100), 44100, "flac")
    short = Wanted(VIEWS, 200_000_000, 0.1)
    for data, wanted, error in (
        (b"a shopping list\n" * 9, WANTED, UnrecognizedFormat),
        (flac[: len(flac) // 2], WANTED, TruncatedAudio),
        (flac[:22] + bytes(20), WANTED, CorruptAudio),
        (flac, short, AudioTooLong),
    ):
        file = in_memory(data, "list.flac")
        with pytest.raises(error) as here:
            decode_views(file, wanted)
        other = decoder if wanted is WANTED else IsolatedDecoder(wanted)
        with pytest.raises(error) as there:
            other.decode(file)
        assert type(there.value) is type(here.value)
        assert str(there.value) == str(here.value)
    with pytest.raises(FileNotFoundError):
        decoder.decode(AudioFile("x", 9, path=Path("/no/such/file")))


@pytest.mark.parametrize(
    ("name", "error", "says"),
    [
        ("abort", DecoderDied, "SIGABRT"),
        ("kill", DecoderDied, "SIGKILL (by the kernel for want of memory, or by hand)"),
        ("segfault", DecoderDied, "SIGSEGV"),
        ("exit", DecoderDied, "exited with code 3"),
        ("hang", DecoderHung, "no samples for 3 s"),
        ("lock", DecoderHung, "no samples for 3 s"),
        ("idle", DecoderHung, "no samples for 3 s"),
        ("eat", DecoderOutOfMemory, "allocate"),
        ("raise", DecoderRaised, "RuntimeError: no decoder says this"),
    ],
)
def test_a_poison_file_costs_itself_only(name, error, says, poisoned):
    before = poisoned.decode(good())
    kept = {view: array.copy() for view, array in before.stored.items()}
    with pytest.raises(error) as caught:
        poisoned.decode(good(f"{name}.wav"))
    assert type(caught.value) is error
    assert says in str(caught.value)
    assert getattr(caught.value, "worker_died", False) is (error is DecoderDied)
    # A fresh process has nothing to blame but the file; the one before might have been damaged by another file.
    tries = 2 if error in (DecoderDied, DecoderOutOfMemory) else 1
    assert getattr(caught.value, "attempts", 1) == tries
    after = poisoned.decode(good())
    assert_same(after, decode_views(good(), WANTED))
    for view, array in kept.items():
        np.testing.assert_array_equal(before.stored[view], array)


def test_who_gets_on_may_take_longer_than_the_limit(poisoned):
    assert_same(poisoned.decode(good("slow.wav")), decode_views(good(), WANTED))


def test_a_decoder_cannot_write_into_the_samples_of_the_file_before(poisoned):
    before = poisoned.decode(good())
    kept = {view: array.copy() for view, array in before.stored.items()}
    with pytest.raises(DecoderDied, match="SIGSEGV"):
        poisoned.decode(good("scribble.wav"))
    for view, array in kept.items():
        np.testing.assert_array_equal(before.stored[view], array)


def test_the_memory_that_other_files_have_leaked_is_not_this_files_fault(poisoned):
    poisoned.close()
    results = [poisoned.decode(good(f"leak{number}.wav")) for number in range(4)]
    retried = [result.retried for result in results if result.retried]
    assert retried
    assert all(reason.startswith("DecoderOutOfMemory: ") for reason in retried)
    for result in results:
        np.testing.assert_array_equal(result.stored["native"], decode_views(good(), WANTED).stored["native"])


def test_an_answer_is_believed_no_further_than_it_can_be_checked():
    lender = Lender(1 << 20)
    lender.start()
    page = Arena(lender.segment.fd).offset_of(np.ones((1, 64), np.float32))
    wanted = Wanted((View("native", None, None),), 1 << 20, 60.0)
    answer = {
        "container": "wav", "codec": "pcm_f32le", "sample_rate": 8000, "channels": 1, "samples": 64,
        "replaced_samples": 0, "damaged_packets": 0, "long": False, "stored": {"native": [page, 1, 64]},
        "mono_channel": None,
        "facts": asdict(FileFacts(2, 1, 256_000, 32, {"artist": "A", "has_cover": True})),
    }  # fmt: skip
    found = _understood(answer, wanted, lender)
    np.testing.assert_array_equal(found.stored["native"], np.ones((1, 64)))
    assert found.facts.columns()["tag_artist"] == "A"
    lies = [
        {"stored": {}}, {"stored": {"native": [0, 2, 32]}}, {"stored": {"native": [4, 1, 64]}},
        {"stored": {"native": [-4096, 1, 64]}}, {"stored": {"native": [1 << 40, 1, 64]}},
        {"stored": {"native": [0, 1, 1 << 61]}}, {"stored": {"native": [0, 1]}}, {"stored": {"native": "abc"}},
        {"stored": {"native": [0, 1, 0]}}, {"stored": None}, {"channels": 0}, {"channels": True},
        {"sample_rate": 1e4}, {"sample_rate": 10**7}, {"samples": 0}, {"codec": "x\ny"}, {"codec": 7},
        {"container": "x" * 99}, {"damaged_packets": -1}, {"mono_channel": 1}, {"mono_channel": False},
        {"facts": None}, {"facts": {"more": 1}},
        {"facts": {"audio_streams": 0}}, {"facts": {"audio_stream": 1}}, {"facts": {"bit_rate": 1.5}},
        {"facts": {"bits_per_sample": True}}, {"facts": {"tags": []}}, {"facts": {"tags": {"artist": "a\nb"}}},
        {"facts": {"tags": {"artist": "x" * 513}}}, {"facts": {"tags": {"has_cover": 1}}},
        {"facts": {"tags": {"replaygain_track_gain": 1e9}}}, {"facts": {"tags": {"mood": "x"}}},
    ]  # fmt: skip
    for lie in lies:
        with pytest.raises(DecoderDied, match="cannot mean"):
            _understood(answer | lie, wanted, lender)
    with pytest.raises(DecoderDied, match="cannot mean"):
        _understood({}, wanted, lender)


PARENT = """
import sys, threading, time
sys.path[:0] = sys.argv[2:]
from test_isolated import WANTED, good
from pipeline.audio.isolated import IsolatedDecoder
decoder = IsolatedDecoder(WANTED, decoder="helpers.decode_poison:decode")
decoder.decode(good())
print(decoder.pid, flush=True)
decoder.decode(good(sys.argv[1])) if sys.argv[1] else time.sleep(600)
"""


@pytest.mark.parametrize("busy", ["", "hang.wav", "lock.wav"])
def test_the_child_ends_with_a_parent_that_is_killed(busy, repo):
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, busy, str(repo), str(repo / "tests"), str(repo / "tests" / "audio")],
        stdout=subprocess.PIPE,
        text=True,
    )
    pid = int(parent.stdout.readline())
    assert alive(pid)
    if busy:
        time.sleep(0.5)  # for the file to reach the child
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait()
    parent.stdout.close()
    wait_until_gone(pid)


def alive(pid: int) -> bool:
    """Whether the process runs; one that its new parent has not yet reaped does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def wait_until_gone(pid: int) -> None:
    """Returns once the process has ended; the test's own time limit is the only one."""
    while alive(pid):
        time.sleep(0.05)


def test_it_ends_when_closed_and_when_forgotten():
    decoder = IsolatedDecoder(WANTED)
    first = decoder.pid
    decoder.close()
    assert not alive(first)
    assert decoder.pid is None
    decoder.decode(good())
    second = decoder.pid
    assert alive(second)
    del decoder
    gc.collect()
    assert not alive(second)


FORKED = """
import os, sys
sys.path[:0] = sys.argv[1:]
from test_isolated import WANTED, encode, good, music
from pipeline.audio.isolated import IsolatedDecoder
from pipeline.audio.stream import AudioFile
OTHER = encode(music(1, 8000), 8000, "flac")
decoder = IsolatedDecoder(WANTED)
pid = decoder.pid
before = decoder.decode(good())
kept = before.stored["native"].copy()
if not os.fork():
    decoder.decode(good("good1.wav"))
    decoder.decode(AudioFile("x.flac", len(OTHER), OTHER))
    assert decoder.pid != pid
    decoder.close()
    os._exit(7)
assert os.waitstatus_to_exitcode(os.wait()[1]) == 7
decoder.decode(good())
assert decoder.pid == pid
assert (before.stored["native"] == kept).all()
"""


def test_a_fork_does_not_talk_to_its_parents_child(repo):
    code = [sys.executable, "-c", FORKED, str(repo), str(repo / "tests"), str(repo / "tests" / "audio")]
    done = subprocess.run(code, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def test_nothing_is_left_behind(poisoned):
    def held() -> tuple:
        pid = poisoned.pid
        maps = Path(f"/proc/{pid}/maps").read_text().count("memfd:soundmill")
        descriptors = [len(list(Path(f"/proc/{p}/fd").iterdir())) for p in (os.getpid(), pid)]
        return sorted(Path("/dev/shm").iterdir()), descriptors, maps  # noqa: S108

    files = [good(), in_memory(b"no audio", "list.txt"), in_memory(encode(music(1, 8000), 8000, "flac"))]
    for file in files[::2]:
        poisoned.decode(file)
    gc.collect()  # what earlier tests let go of counts neither before nor after
    before = held()
    for number in range(200):
        file = files[number % len(files)]
        if file.name == "list.txt":
            with pytest.raises(UnrecognizedFormat):
                poisoned.decode(file)
        else:
            poisoned.decode(file)
    assert held() == before
    for name in ("kill1.wav", "kill2.wav"):
        with pytest.raises(DecoderDied):
            poisoned.decode(good(name))
    poisoned.decode(good())
    assert held() == before


def test_memory_is_kept_for_the_next_file_and_not_for_ever():
    lender = Lender(1 << 30)
    arena = Arena(lender.segment.fd)
    first = lender.segment
    for _ in range(2):
        assert lender.start() == 0
        arena.begin(0)
        places = [(arena.offset_of(np.ones((2, 1000), np.float32)), (2, 1000)) for _ in range(2)]
        arrays = lender.lend(places)
        assert arrays[1].sum() == 2000
        assert lender.start() > 8000
        del arrays
    arena.begin(lender.start())
    [large] = lender.lend([(arena.offset_of(np.ones((1, 80 << 20), np.float32)), (1, 80 << 20))])
    assert lender.start() > 300 << 20
    assert lender.segment is first
    view = large[:, 5:]
    del large
    assert lender.start() > 0  # a slice is still out
    assert view[0, 0] == 1.0
    del view
    assert lender.start() == 0
    assert lender.segment is not first
    assert lender.segment.resident_bytes == 0


def test_nothing_heavy_is_imported_in_the_child(decoder):
    decoder.decode(good())
    maps = Path(f"/proc/{decoder.pid}/maps").read_text()
    assert "sndfile" in maps
    assert not [name for name in ("libtorch", "/ray/", "libarrow", "llvmlite") if name in maps]
    environment = Path(f"/proc/{decoder.pid}/environ").read_bytes().split(b"\0")
    assert {b"OMP_NUM_THREADS=1", b"MKL_NUM_THREADS=1", b"OPENBLAS_NUM_THREADS=1"} <= set(environment)
