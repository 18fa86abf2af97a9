"""The instrumental's stage: the form that its files are asked to have, and what its key says of that."""

from __future__ import annotations

from contextlib import ExitStack
from types import SimpleNamespace

import numpy as np
import pytest

from pipeline.audio.reader import ArrayReader
from pipeline.audio.song_formats import SongFormat
from pipeline.audio.views import View
from pipeline.engine.batch import Track
from pipeline.stages.instrumental.spec import NATIVE, instrumental_stage
from pipeline.stages.instrumental.worker import _Song

REMOVED = View("removed", 44100, 2, maker="karaoke")


def song_of(
    mix: np.ndarray, rate: int, removed: np.ndarray, stack: ExitStack, **asked
) -> tuple[_Song, Track]:
    """A song on its way to a file: the worker is only what `_Song` asks of one."""
    readers = {NATIVE: ArrayReader(mix), REMOVED: ArrayReader(removed)}
    worker = SimpleNamespace(
        removed=REMOVED,
        form=SongFormat("wav"),
        reader=lambda track, view, stack: readers[view],
        **{"sample_rate": None, "channels": None, **asked},
    )
    track = Track(0, "a.wav", sample_rate=rate, channels=len(mix))
    return _Song(worker, track, stack), track


def tone(rate: int, samples: int, channels: int) -> np.ndarray:
    """A tone, softer in each channel than in the one before: float32 ``[channels, samples]``."""
    wave = np.sin(2 * np.pi * 440 / rate * np.arange(samples))
    return (wave * 0.5 ** np.arange(1, channels + 1)[:, None]).astype(np.float32)


@pytest.mark.parametrize(
    ("rate", "channels", "asked", "form"),
    [
        (44100, 2, {}, (44100, 2)),
        (48000, 1, {}, (48000, 1)),
        (48000, 1, {"channels": 2}, (48000, 2)),
        (48000, 2, {"sample_rate": 44100}, (44100, 2)),
        (22050, 6, {"sample_rate": 44100, "channels": 1}, (44100, 1)),
        (44100, 2, {"sample_rate": 44100, "channels": 2}, (44100, 2)),
    ],
)
def test_a_file_has_the_form_that_is_asked_for_or_that_of_the_song(rate, channels, asked, form):
    samples = rate + 7
    removed = np.zeros((2, -(-samples * 44100 // rate)), np.float32)
    with ExitStack() as stack:
        song, track = song_of(tone(rate, samples, channels), rate, removed, stack, **asked)
        spool = song.spool(taken_out=True)
        found = spool.read(0, spool.samples)
    assert (song.rate, song.channels) == form
    assert found.shape == (form[1], -(-samples * form[0] // rate)) == (song.channels, song.samples)
    assert bool(track.fallbacks) == (channels > 2)
    if channels <= form[1]:
        # Far from the ends, where a filter sees what is not there.
        expected = tone(form[0], song.samples, channels) * np.ones((form[1], 1))
        middle = slice(2000, -2000)
        assert np.abs(found - expected)[:, middle].max() < 1e-3


def test_mono_becomes_two_equal_channels_and_what_is_removed_goes_with_it():
    mix, removed = tone(44100, 44100, 1), np.repeat(0.5 * tone(44100, 44100, 1), 2, axis=0)
    with ExitStack() as stack:
        song, _ = song_of(mix, 44100, removed, stack, channels=2)
        spool = song.spool(taken_out=True)
        found = spool.read(0, spool.samples)
    np.testing.assert_array_equal(found[0], found[1])
    np.testing.assert_allclose(found[0], 0.5 * mix[0], atol=1e-6)


def test_a_form_that_is_asked_for_is_part_of_the_key_and_none_is_not():
    def key(**asked) -> str:
        [product] = instrumental_stage(REMOVED, SongFormat("mp3"), **asked).products
        return product.key

    asked = [{}, {"sample_rate": 44100}, {"channels": 2}, {"sample_rate": 44100, "channels": 2}]
    assert len({key(**form) for form in asked}) == len(asked)
    # That of version 1 from before there was anything to ask for: what was made then is not made again.
    assert key(sample_rate=None, channels=None) == key() == "9ba155b6f62d"
