"""Files read block by block, from memory and from disk: what `decode` gives, without holding it."""

from __future__ import annotations

import itertools
import tracemalloc

import numpy as np
import pytest
import soundfile

from pipeline.audio.decode import decode
from pipeline.audio.encode import encode
from pipeline.audio.resample import StreamResampler, resample
from pipeline.audio.stream import open_bytes, open_file
from pipeline.audio.validate import (
    AudioTooLong,
    CorruptAudio,
    DecodeError,
    EmptyAudio,
    Limits,
    TruncatedAudio,
)

RATE = 48000
CONTAINERS = ("wav", "flac", "aiff", "ogg", "mp3", "m4a", "mp4", "aac", "opus", "webm", "wma", "mkv")


@pytest.fixture(scope="module")
def noise() -> np.ndarray:
    return (0.1 * np.random.default_rng(0).standard_normal((2, 2 * RATE))).astype(np.float32)


@pytest.mark.parametrize("container", CONTAINERS)
def test_the_blocks_of_a_file_on_disk_are_what_decode_gives(container, noise, tmp_path):
    data = encode(noise, RATE, container)
    path = tmp_path / "file"
    path.write_bytes(data)
    expected = decode(data)
    with open_file(path) as stream:
        assert (stream.sample_rate, stream.channels) == (expected.sample_rate, expected.channels)
        assert (stream.kind.container, stream.codec) == (expected.container, expected.codec)
        blocks = [block.copy() for block in stream]
    assert max(block.shape[1] for block in blocks) <= 1 << 14
    np.testing.assert_array_equal(np.concatenate(blocks, axis=1), expected.samples)


@pytest.mark.parametrize("container", ["wav", "flac", "ogg", "m4a"])
def test_a_cut_file_is_told_at_its_end_at_the_latest(container, noise, tmp_path):
    path = tmp_path / "file"
    path.write_bytes(encode(noise, RATE, container)[:-2000])
    with pytest.raises(DecodeError), open_file(path) as stream:
        for _ in stream:
            pass


def test_a_header_that_lies_is_refused_before_the_first_block(noise, tmp_path):
    path = tmp_path / "file.wav"
    path.write_bytes(encode(noise, RATE, "wav")[: RATE * 4])
    with pytest.raises(TruncatedAudio):
        open_file(path)
    path.write_bytes(b"")
    with pytest.raises(EmptyAudio):
        open_file(path)
    with pytest.raises(AudioTooLong):
        open_bytes(encode(noise, RATE, "flac"), limits=Limits(1.0))


def test_what_is_no_number_is_counted(tmp_path):
    samples = np.zeros(40000, np.float32)
    samples[[5, 30000]] = np.nan, np.inf
    soundfile.write(tmp_path / "file.wav", samples, 8000, subtype="FLOAT")
    with open_file(tmp_path / "file.wav") as stream:
        assert all(np.isfinite(block).all() for block in stream)
    assert stream.replaced_samples == 2


@pytest.mark.parametrize("value", [1e30, -1e300, np.nan, np.inf])
def test_a_file_of_no_samples_at_all_is_no_silence(tmp_path, value):
    samples = np.full(40000, value)
    samples[::3] = 0.1
    soundfile.write(tmp_path / "file.wav", samples, 8000, subtype="DOUBLE")
    with (
        pytest.raises(CorruptAudio, match="26666 of 40000 samples"),
        open_file(tmp_path / "file.wav") as stream,
    ):
        list(stream)


def test_integers_that_were_never_scaled_are_samples(tmp_path):
    samples = 2.0**31 * np.sin(np.arange(4000))
    soundfile.write(tmp_path / "file.wav", samples, 8000, subtype="FLOAT")
    with open_file(tmp_path / "file.wav") as stream:
        found = np.concatenate(list(stream), axis=1)
    assert stream.replaced_samples == 0
    np.testing.assert_allclose(found[0], samples, rtol=1e-6)


def test_memory_does_not_grow_with_the_file(tmp_path):
    def peak(seconds: int) -> int:
        path = tmp_path / f"{seconds}.flac"
        soundfile.write(path, 0.1 * np.sin(np.arange(seconds * 8000)), 8000)
        tracemalloc.start()
        with open_file(path) as stream:
            samples = sum(block.shape[1] for block in stream)
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert samples == seconds * 8000
        return found

    peak(1)
    assert peak(600) < 2 * peak(10)


@pytest.mark.parametrize(
    "rates", [(44100, 22050), (8000, 48000), (44100, 48000), (22050, 22050), (11025, 96000)]
)
@pytest.mark.parametrize("length", [0, 1, 100, 50001])
def test_resampling_in_blocks_is_resampling(rates, length):
    signal = np.random.default_rng(length).standard_normal((2, length)).astype(np.float32)
    stream = StreamResampler(*rates, 2)
    bounds = [0, *sorted(np.random.default_rng(1).integers(0, length + 1, 7)), length]
    parts = [stream.push(signal[:, a:b]) for a, b in itertools.pairwise(bounds)]
    parts.append(stream.push(signal[:, :0], last=True))
    joined = np.concatenate(parts, axis=1)
    expected = resample(signal, *rates)
    assert joined.dtype == np.float32
    assert joined.shape == expected.shape
    np.testing.assert_allclose(joined, expected, atol=1e-6)
