"""The map, the sample it is made of, and the pictures beside it."""

from __future__ import annotations

import base64
import io

import numpy as np
import pytest
from PIL import Image

from pipeline.dataset.output import Output, npy_bytes
from pipeline.report.embedding_map import POINTS, embedding_map, standardised
from pipeline.report.overview import Overview
from pipeline.report.row_sample import Sample
from pipeline.report.thumbnails import chroma_levels, decibel_levels, png, read_array, shrunk, spread

PATH = f"blobs/ab/{'ab' * 32}/mel-0123456789ab-mel.npy"


def test_the_sample_depends_on_the_contents_only():
    rng = np.random.default_rng(0)
    ids = rng.integers(0, 2**63, 900, dtype=np.uint64)
    vectors = ids[:, None].astype(np.float32)
    results = []
    for order, step in ((np.arange(900), 7), (rng.permutation(900), 250)):
        sample = Sample(100)
        for start in range(0, 900, step):
            these = order[start : start + step]
            sample.add(ids[these], vectors[these])
            sample.add(ids[these[:1]], vectors[these[:1]])  # a copy
        results.append(sample.result())
    assert results[0][0].tolist() == sorted(ids.tolist())[:100] == results[1][0].tolist()
    assert np.array_equal(results[0][1], results[1][1])
    assert np.array_equal(results[0][1][:, 0], results[0][0].astype(np.float32)), "vectors go with their ids"


def clusters(count: int, size: int, apart: float) -> np.ndarray:
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(count, size)).astype(np.float32)
    vectors[::2, 3] += apart
    return vectors


def test_the_map_separates_what_lies_apart():
    found = Overview()
    found.embeddings.add(np.arange(400, dtype=np.uint64), clusters(400, 512, 60.0))
    atlas = embedding_map(found)
    assert atlas.source == "embeddings"
    x = atlas.places[:, 0]
    assert (np.sign(x[::2]) == np.sign(x[0])).all()
    assert (np.sign(x[1::2]) == -np.sign(x[0])).all()
    assert atlas.explained[0] > 0.5 > atlas.explained[1]


def test_a_large_map_is_a_sample():
    found = Overview()
    count = 3 * POINTS
    found.embeddings.add(np.arange(count, dtype=np.uint64), clusters(count, 8, 5.0))
    atlas = embedding_map(found)
    assert len(atlas.ids) == len(atlas.places) == POINTS
    assert atlas.seen == count


def test_descriptors_take_the_place_of_embeddings_and_each_group_counts_alike():
    found = Overview()
    found.groups = {"mfcc_mean": 20, "spectral_flatness_mean": 1}
    vectors = clusters(50, 21, 0.0) * 1000
    vectors[:, 20] = np.where(np.arange(50) % 2, 1e-3, 2e-3)
    vectors[:, 5] = 7.0  # says nothing
    found.descriptors.add(np.arange(50, dtype=np.uint64), vectors)
    assert embedding_map(found).source == "descriptors"
    scaled = standardised(vectors, [20, 1])
    assert np.square(scaled[:, :20]).sum(axis=1).mean() == pytest.approx(19 / 20, rel=1e-3)
    assert np.square(scaled[:, 20]).mean() == pytest.approx(1, rel=1e-3)


@pytest.mark.parametrize("vectors", [np.empty((0, 4)), np.ones((2, 4))])
def test_too_few_tracks_make_no_map(vectors):
    found = Overview()
    found.embeddings.add(np.arange(len(vectors), dtype=np.uint64), vectors.astype(np.float32))
    assert (embedding_map(found).source, len(embedding_map(found).ids)) == ("", 0)


def test_tracks_that_are_all_the_same_lie_on_one_point():
    found = Overview()
    found.embeddings.add(np.arange(9, dtype=np.uint64), np.ones((9, 16), np.float32))
    assert np.allclose(embedding_map(found).places, 0)


def test_pictures_are_spread_over_the_map():
    places = np.concatenate([np.zeros((50, 2)), [[1, 0], [0, 1], [1, 1]]])
    assert sorted(spread(places, 4)[1:]) == [50, 51, 52]
    assert len(spread(places, 60)) == 4, "points in the same place need one picture"
    assert spread(np.empty((0, 2)), 4) == []


def pixels(uri: str) -> np.ndarray:
    head, _, data = uri.partition(",")
    assert head == "data:image/png;base64"
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB"))


def test_a_picture_shows_low_frequencies_at_the_bottom():
    mel = np.full((128, 900), -80.0)
    mel[:16, 450:] = 0.0
    image = pixels(png(decibel_levels(mel))).sum(axis=2)
    assert image.shape == (48, 160)
    bright = image > 400
    assert bright[-5:, 80:].all()
    assert not bright[:, :79].any()
    assert not bright[:40].any()


def test_a_picture_of_a_few_frames_and_of_none_that_is_finite():
    assert shrunk(np.arange(36.0).reshape(12, 3), 12).shape == (12, 160)
    assert chroma_levels(np.full((12, 5), np.nan)).tolist() == np.zeros((12, 160)).tolist()
    level = decibel_levels(np.array([[np.nan, -10.0, -np.inf, 0.0]]))
    assert set(np.unique(level)) <= {219, 255}, "what is not finite is the least level"


@pytest.mark.parametrize(
    "path", ["../secret.npy", "/etc/passwd", "blobs/ab/../../secret.npy", "runs/x.npy", ""]
)
def test_nothing_outside_the_blobs_is_opened(tmp_path, path):
    np.save(tmp_path / "secret.npy", np.ones((2, 2)))
    output = Output(str(tmp_path / "out"))
    output.write("runs/x.npy", npy_bytes(np.ones((2, 2))))
    assert read_array(output, {"mel_blob": path}, "mel") is None


def test_arrays_are_read_from_files_and_rows_and_never_unpickled(tmp_path):
    output = Output(str(tmp_path))
    assert read_array(output, {"mel_blob": PATH}, "mel") is None, "it is gone"
    output.write(PATH, npy_bytes(np.ones((2, 3, 4), np.float16)))
    assert read_array(output, {"mel_blob": PATH}, "mel").shape == (3, 4), "the first of two channels"
    output.write(PATH, b"\x93NUMPY no array")
    assert read_array(output, {"mel_blob": PATH}, "mel") is None
    np.save(tmp_path / PATH, np.array([{"a": 1}]), allow_pickle=True)
    assert read_array(output, {"mel_blob": PATH}, "mel") is None
    inline = {"mel_blob": None, "mel_inline": [1.0, 2.0], "mel_shape": [1, 2]}
    assert read_array(output, inline, "mel").tolist() == [[1.0, 2.0]]
    assert read_array(output, {**inline, "mel_shape": [3, 2]}, "mel") is None
