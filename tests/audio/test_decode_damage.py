"""Files that lie, stop short or are something else: one `DecodeError` each, and no memory spent on them."""

from __future__ import annotations

import io
import pickle
import struct
import subprocess
import sys
import tracemalloc

import av
import numpy as np
import pytest
import soundfile

from pipeline.audio.decode import (
    AudioTooLong,
    CorruptAudio,
    DecodeError,
    EmptyAudio,
    NoAudioStream,
    TruncatedAudio,
    UnrecognizedFormat,
    decode,
    probe,
)
from pipeline.audio.encode import encode
from pipeline.audio.validate import MESSAGE_LENGTH

RATE = 48000
MIB = 1 << 20


@pytest.fixture(scope="module")
def noise() -> np.ndarray:
    return (0.1 * np.random.default_rng(0).standard_normal((2, 4 * RATE))).astype(np.float32)


def refused(data: bytes, error: type[DecodeError], name: str = "", **limits: float) -> str:
    """Decode, check the error and that nothing large was allocated on the way; the message."""
    tracemalloc.start()
    with pytest.raises(error) as caught:
        decode(data, name, **limits)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2 * MIB + 80 * len(data)
    assert type(caught.value) is error
    message = str(caught.value)
    assert message.isprintable()
    assert 0 < len(message) <= MESSAGE_LENGTH
    assert " at 0x" not in message
    return message


def patched(data: bytes, offset: int, format_: str, value: int) -> bytes:
    out = bytearray(data)
    struct.pack_into(format_, out, offset, value)
    return bytes(out)


def with_flac_total(data: bytes, total: int) -> bytes:
    word = struct.unpack_from(">Q", data, 18)[0]
    return patched(data, 18, ">Q", word >> 36 << 36 | total)


@pytest.mark.parametrize(
    "data",
    [
        b"This is a shopping list.\n" * 50,
        # FFmpeg's own probing would open these as playlists and follow what they name.
        b"#EXTM3U\n#EXTINF:10,\nhttp://127.0.0.1:9/a.ts\n",
        b"ffconcat version 1.0\nfile /etc/hostname\n",
        "UTF-16 text".encode("utf-16") * 40,
        b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 8,
        bytes(100_000),
        b"R",
    ],
    ids=["text", "m3u", "ffconcat", "utf16", "png", "zeros", "one-byte"],
)
def test_what_is_not_audio(data):
    message = refused(data, UnrecognizedFormat, "/somewhere/text.mp3")
    assert ".mp3" in message
    assert "somewhere" not in message


def test_random_bytes_are_not_audio():
    refused(np.random.default_rng(3).bytes(200_000), UnrecognizedFormat)


def test_nothing_at_all():
    assert "0 bytes" in refused(b"", EmptyAudio)


@pytest.mark.parametrize("container", ["wav", "aiff", "ogg"])
def test_header_without_samples(container):
    refused(encode(np.zeros((1, 0), np.float32), RATE, container), EmptyAudio)


def test_flac_header_without_frames(noise):
    # STREAMINFO, marked as the last block of metadata.
    header = with_flac_total(encode(noise, RATE, "flac"), 0)[:42]
    refused(patched(header, 4, ">B", 0x80), EmptyAudio)
    refused(header, CorruptAudio)


@pytest.mark.parametrize(
    "container", ["wav", "aiff", "flac", "mp3", "ogg", "opus", "mkv", "webm", "aac", "wma"]
)
def test_cut_in_the_middle(container, noise):
    data = encode(noise, RATE, container)
    message = refused(data[: len(data) // 2], TruncatedAudio)
    numbers = [float(word) for word in message.replace(",", "").split() if word[0].isdigit()]
    # The seconds that are there come last.
    assert 1.4 < numbers[-1] < 2.2
    if container in ("wav", "aiff", "flac", "mp3", "mkv", "wma"):
        assert numbers[0] == pytest.approx(4.0, abs=0.05)


@pytest.mark.parametrize("container", ["wav", "aiff", "flac"])
def test_one_missing_byte_is_noticed(container, noise):
    refused(encode(noise, RATE, container)[:-1], TruncatedAudio)


def test_cut_fragmented_mp4(noise):
    out = io.BytesIO()
    flags = {"movflags": "frag_keyframe+empty_moov"}
    with av.open(out, "w", format="mp4", options=flags) as file:
        stream = file.add_stream("aac", rate=RATE, layout="stereo")
        whole = av.AudioFrame.from_ndarray(noise, format="fltp", layout="stereo")
        whole.sample_rate = RATE
        cutter = av.AudioResampler(format=stream.format, layout="stereo", rate=RATE, frame_size=1024)
        for frame in [*cutter.resample(whole), *cutter.resample(None), None]:
            file.mux(stream.encode(frame))
    data = out.getvalue()
    assert decode(data).duration_s == pytest.approx(4.0, abs=0.1)
    refused(data[: len(data) // 2], TruncatedAudio)


@pytest.mark.parametrize("container", ["m4a", "mp4"])
def test_cut_before_the_index(container, noise):
    data = encode(noise, RATE, container)
    assert "FFmpeg: " in refused(data[: len(data) // 2], CorruptAudio)


@pytest.mark.parametrize("container", ["flac", "mp3", "mkv", "m4a", "opus"])
def test_damage_in_the_middle(container, noise):
    data = bytearray(encode(noise, RATE, container))
    middle = len(data) // 2
    data[middle : middle + 3000] = np.random.default_rng(1).bytes(3000)
    with pytest.raises((CorruptAudio, TruncatedAudio)):
        decode(bytes(data))


@pytest.mark.parametrize(
    ("offset", "format_", "value", "words"),
    [
        (22, "<H", 0, "0 channels"),
        (22, "<H", 65, "65 channels"),
        (22, "<H", 65535, "65535 channels"),
        (24, "<I", 0, "0 Hz"),
        (24, "<I", 768_001, "768001 Hz"),
        (24, "<I", 4_000_000_000, "4000000000 Hz"),
    ],
)
def test_impossible_wav_header(offset, format_, value, words, noise):
    data = patched(encode(noise, RATE, "wav"), offset, format_, value)
    assert words in refused(data, CorruptAudio)
    with pytest.raises(CorruptAudio):
        probe(data)


def test_headers_that_promise_too_much(noise):
    wav = patched(encode(noise, RATE, "wav"), 40, "<I", 0xF0000000)
    assert "only 4.0" in refused(wav, TruncatedAudio)
    flac = encode(noise, RATE, "flac")
    for total in (2**31, 2**36 - 1):
        refused(with_flac_total(flac, total), AudioTooLong)
        # Without a limit nothing is believed in advance either.
        refused(with_flac_total(flac, total), TruncatedAudio, max_samples=None)


@pytest.mark.parametrize("container", ["wav", "flac", "ogg", "mp3", "m4a", "aac", "opus", "mkv"])
def test_limits(container, noise):
    data = encode(noise, RATE, container)
    assert "limit is 1 s" in refused(data, AudioTooLong, max_seconds=1)
    assert "limit is 50000" in refused(data, AudioTooLong, max_samples=50_000)
    decode(data, max_seconds=4.1, max_samples=8 * RATE + 10_000)


def test_a_video_without_sound():
    out = io.BytesIO()
    with av.open(out, "w", format="mp4") as file:
        stream = file.add_stream("mpeg4", rate=5)
        stream.width = stream.height = 32
        stream.pix_fmt = "yuv420p"
        for frame in [av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), format="rgb24"), None]:
            file.mux(stream.encode(frame))
    refused(out.getvalue(), NoAudioStream)


def test_what_is_no_number_becomes_zero_and_is_counted():
    x = np.array([[0.1, np.nan, np.inf, -np.inf, 1e38, 0.5], [0, 0, 0, 0, 2.0**31, np.nan]], np.float32)
    out = io.BytesIO()
    soundfile.write(out, x.T, RATE, format="WAV", subtype="FLOAT")
    decoded = decode(out.getvalue())
    assert decoded.replaced_samples == 5
    expected = np.array([[0.1, 0, 0, 0, 0, 0.5], [0, 0, 0, 0, 2.0**31, 0]], np.float32)
    np.testing.assert_array_equal(decoded.samples, expected)


def test_errors_are_short_and_travel_between_processes():
    error = CorruptAudio("line one\nline two\x00 " + "x" * 1000)
    copy = pickle.loads(pickle.dumps(error))  # noqa: S301 (made in the line above)
    assert type(copy) is CorruptAudio
    assert str(copy) == str(error)
    assert str(error).startswith("line one line two x")
    assert len(str(error)) == MESSAGE_LENGTH


# In a process of its own: a crash of a C library is then a failed test, and peak memory can be measured.
FUZZ = """
import resource
import numpy as np
from pipeline.audio.decode import DecodeError, decode, probe
from pipeline.audio.encode import CONTAINERS, encode

rng = np.random.default_rng(7)
x = (0.1 * rng.standard_normal((2, 12000))).astype(np.float32)
files = [encode(x, 48000, container) for container in CONTAINERS]

def mutate(data):
    data, how = bytearray(data), rng.integers(5)
    at = rng.integers(len(data))
    head = rng.integers(min(len(data), 600))
    if how == 0:
        data[head : head + 4] = rng.choice([b"\\xff\\xff\\xff\\xff", b"\\x7f\\xff\\xff\\xff", b"\\1\\0\\0\\0"])
    elif how == 1:
        for _ in range(4):
            data[rng.integers(min(len(data), 600))] = rng.integers(256)
    elif how == 2:
        del data[at:]
    elif how == 3:
        del data[at : at + 700]
    else:
        data[at:at] = rng.bytes(300)
    return bytes(data)

before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
decoded = refused = 0
for index in range(1200):
    data = mutate(files[index % len(files)])
    for read in (decode, probe):
        try:
            result = read(data, "x.wav")
        except DecodeError as error:
            assert str(error).isprintable() and len(str(error)) <= 300
            refused += 1
        else:
            assert read is probe or np.isfinite(result.samples).all()
            decoded += 1
grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024
print(decoded, refused, grown)
"""


def test_mutations_raise_decode_errors_only(repo):
    done = subprocess.run([sys.executable, "-c", FUZZ], cwd=repo, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    decoded, refused_, grown_mib = map(int, done.stdout.split())
    assert decoded + refused_ == 2400
    assert decoded > 50
    assert refused_ > 50
    assert grown_mib < 200
