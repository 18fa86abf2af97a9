"""What is heard of a song: how wide it is, and where it ends."""

import math

import numpy as np
import pytest

from pipeline.audio.reader import ArrayReader
from pipeline.stages.separation.heard import Heard, hear

RATE = 44100


def noise(seconds: float, seed: int = 0) -> np.ndarray:
    """Float32 ``[samples]``."""
    return np.random.default_rng(seed).uniform(-0.3, 0.3, round(seconds * RATE)).astype(np.float32)


def of(*channels: np.ndarray) -> Heard:
    return hear(ArrayReader(np.stack(channels)), RATE)


@pytest.mark.parametrize("level_db", [-60.0, -20.0, 0.0, 12.0])
def test_the_level_of_the_side(level_db):
    mid, side = noise(40), noise(40, 1) * 10 ** (level_db / 20)
    assert of(mid + side, mid - side).side_db == pytest.approx(level_db, abs=0.1)


def test_channels_that_are_the_same_and_channels_that_cancel():
    assert of(noise(1), noise(1)).side_db == -math.inf
    assert of(noise(1), -noise(1)).side_db == math.inf


def test_where_there_is_nothing_to_tell():
    assert of(np.zeros(RATE), np.zeros(RATE)) == Heard(None, None)
    assert of(noise(1)).side_db is None
    assert hear(ArrayReader(np.zeros((2, 0), np.float32)), RATE) == Heard(None, None)
    one = of(np.float32([0.5]), np.float32([0.5]))
    assert (one.side_db, one.bandwidth_hz) == (-math.inf, None)


@pytest.mark.parametrize("hz", [3000, 6000, 15000])
def test_where_a_song_ends(hz):
    spectrum = np.fft.rfft(noise(30))
    spectrum[np.fft.rfftfreq(30 * RATE, 1 / RATE) > hz] = 0
    low = np.fft.irfft(spectrum).astype(np.float32)
    assert of(low, low).bandwidth_hz == pytest.approx(hz, rel=0.02)
    assert of(noise(3), noise(3)).bandwidth_hz > 21000


def test_no_more_than_windows_of_it_are_in_memory():
    class Long:
        channels, samples = 2, 3 * 3600 * RATE
        read_at = ()

        def read(self, start, stop):
            assert 0 <= start < stop <= self.samples
            assert stop - start <= 4096
            self.read_at += (start,)
            return np.stack([noise(0.1, start)[: stop - start]] * 2)

    long = Long()
    assert hear(long, RATE).side_db == -math.inf
    assert len(set(long.read_at)) == 256
    assert long.read_at[-1] > 0.99 * Long.samples
