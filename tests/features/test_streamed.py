"""Tracks that are decoded as they are read: the columns of the track in memory."""

from __future__ import annotations

import numpy as np
import pytest
import soundfile

from pipeline.audio.decode import DecodeError, decode
from pipeline.audio.resample import make_view
from pipeline.audio.stream import open_file
from pipeline.features import REGISTRY
from pipeline.features.extraction import Outcome, TrackAudio, run_extractors
from pipeline.features.mel import Mel
from pipeline.features.streamed import StreamedAudio

RATE = 22050


def every_extractor():
    return [Mel(channels="each") if name == "mel" else cls() for name, cls in sorted(REGISTRY.items())]


def in_memory(path) -> list[Outcome]:
    decoded = decode(path.read_bytes())
    mono, channels = (make_view(decoded.samples, decoded.sample_rate, RATE, n) for n in (1, None))
    audio = TrackAudio(mono[0], RATE, decoded.samples, decoded.sample_rate, channels)
    assert audio.track.one_block
    return run_extractors(every_extractor(), audio.track, audio.blocks)


def streamed(path, block_seconds, **options) -> list[Outcome]:
    extractors = every_extractor()
    context = max(e.context_seconds(RATE) for e in extractors)
    audio = StreamedAudio(
        lambda: open_file(path),
        RATE,
        block_seconds=block_seconds,
        context_seconds=context,
        every_channel=True,
        **options,
    )
    return run_extractors(extractors, audio.track, audio.blocks)


def assert_alike(parts: list[Outcome], whole: list[Outcome]) -> None:
    for part, expected in zip(parts, whole, strict=True):
        assert part.error is None
        for name, value in expected.extraction.values.items():
            found = part.extraction.values[name]
            if value is None or isinstance(value, (str, list)):
                assert found == value, name
            else:
                np.testing.assert_allclose(found, value, rtol=2e-5, atol=2e-4, err_msg=name)
        for name, array in expected.extraction.arrays.items():
            np.testing.assert_allclose(part.extraction.arrays[name], array, atol=2e-3, err_msg=name)


@pytest.fixture(scope="module")
def song_file(music, tmp_path_factory):
    path = tmp_path_factory.mktemp("songs") / "song.flac"
    soundfile.write(path, music["feelings"][:, : 25 * 44100].T, 44100)
    return path


@pytest.mark.parametrize("block_seconds", [4.0, 11.0])
def test_a_streamed_track_has_the_columns_of_the_one_in_memory(block_seconds, song_file):
    ended = []
    parts = streamed(song_file, block_seconds, on_end=ended.append)
    assert_alike(parts, in_memory(song_file))
    assert len(ended) == 1


@pytest.mark.parametrize("extra", [0, 1, 3, 700])
def test_ends_near_the_end_of_a_block(extra, music, tmp_path):
    path = tmp_path / "song.flac"
    samples = 4 * 2 * 4096 * 10 + extra  # of the native view, at twice the DSP rate
    soundfile.write(path, music["feelings"][:, :samples].T, 44100)
    assert_alike(streamed(path, 10 * 4096 / RATE), in_memory(path))


def test_a_damaged_end_is_an_error_of_the_track(song_file, tmp_path):
    path = tmp_path / "cut.flac"
    path.write_bytes(song_file.read_bytes()[:-20000])
    with pytest.raises(DecodeError):
        streamed(path, 4.0)
