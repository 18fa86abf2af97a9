"""The samples of a track in a table: the right ones, and where they lie."""

import json

import numpy as np
import pyarrow as pa
import pytest

from pipeline.engine.batch import pcm_array, tracks_of


def table(arrays, start=0):
    rows = len(arrays)
    views = [None if a is None else json.dumps({"mono": ["mono", 22050, a.shape[0]]}) for a in arrays]
    columns = {"index": range(start, start + rows), "uri": [f"{i}.wav" for i in range(start, start + rows)]}
    return pa.table({**columns, "views": pa.array(views, pa.string()), "pcm@mono": pcm_array(arrays)})


def noise(seed, channels, samples):
    return np.random.default_rng(seed).standard_normal((channels, samples)).astype(np.float32)


ARRAYS = [noise(0, 1, 700), None, noise(1, 2, 300), noise(2, 1, 0), noise(3, 8, 11)]


@pytest.mark.parametrize("how", ["whole", "sliced", "chunked"])
def test_the_samples_are_those_of_the_row_and_no_copies(how):
    whole = table(ARRAYS)
    if how == "sliced":
        whole = pa.concat_tables([whole, whole]).slice(len(ARRAYS)).combine_chunks().slice(0)
    if how == "chunked":
        whole = pa.concat_tables([whole.slice(0, 2), whole.slice(2)])
    data = [chunk.buffers()[2] for chunk in whole["pcm@mono"].chunks]
    for track, expected in zip(tracks_of(whole), ARRAYS, strict=True):
        if expected is None:
            assert not track.decoded
            continue
        found = track.audio("mono")
        np.testing.assert_array_equal(found, expected)
        assert found.dtype == np.float32
        assert not found.size or any(
            buffer.address <= found.ctypes.data < buffer.address + buffer.size for buffer in data
        )
