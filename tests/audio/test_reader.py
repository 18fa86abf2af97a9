from __future__ import annotations

import io

import numpy as np
import pytest
from helpers.flac import encode_flac24

from pipeline.audio.encode import write_flac24, write_npy
from pipeline.audio.reader import ArrayReader, Spool, blocks

NOISE = np.random.default_rng(0).standard_normal((2, 100_001)).astype(np.float32)


@pytest.mark.parametrize("sizes", [[100_001], [1, 0, 99_999, 1], [40_000, 60_001]])
def test_a_spool_gives_back_what_was_written(sizes):
    chunks = np.split(NOISE, np.cumsum(sizes)[:-1], axis=1)
    spool = Spool.of(chunks, 2)
    assert (spool.channels, spool.samples) == NOISE.shape
    assert spool.peak == float(np.abs(NOISE).max())
    np.testing.assert_array_equal(spool.read(0, spool.samples), NOISE)
    np.testing.assert_array_equal(spool.read(39_990, 40_010), NOISE[:, 39_990:40_010])
    np.testing.assert_array_equal(np.concatenate(list(blocks(spool, 7000)), axis=1), NOISE)


def test_reading_between_two_writes():
    spool = Spool(2)
    spool.write(NOISE[:, :10])
    spool.read(0, 5)
    spool.write(NOISE[:, 10:20])
    np.testing.assert_array_equal(spool.read(0, 20), NOISE[:, :20])


def test_an_array_is_read_without_a_copy():
    reader = ArrayReader(NOISE)
    assert np.shares_memory(reader.read(5, 9), NOISE)
    for wrong in (NOISE[0], NOISE.astype(np.int16), np.zeros((0, 4))):
        with pytest.raises(ValueError, match="channels, samples"):
            ArrayReader(wrong)


def test_a_spool_notices_nan_and_other_channel_counts():
    spool = Spool(1)
    spool.write(np.array([[np.nan, 1.0]], np.float32))
    assert np.isnan(spool.peak)
    with pytest.raises(ValueError, match="does not have 1 channel"):
        spool.write(NOISE)


def test_flac_of_a_spool_is_the_flac_of_the_array():
    spool, out = Spool.of(np.array_split(NOISE, 9, axis=1), 2), io.BytesIO()
    gain_db = write_flac24(spool, spool.peak, 44100, out)
    assert (out.getvalue(), gain_db) == encode_flac24(NOISE, 44100)
    assert gain_db < 0


def test_npy_of_a_spool_is_the_array():
    out = io.BytesIO()
    write_npy(Spool.of(np.array_split(NOISE, 3, axis=1), 2), out)
    out.seek(0)
    loaded = np.load(out, allow_pickle=False)
    np.testing.assert_array_equal(loaded, NOISE)
    assert loaded.dtype == np.float32
    assert loaded.flags.c_contiguous
