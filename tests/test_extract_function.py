"""`pipeline.extract`: the job's values of a file in Python, and words for what is wrong."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import pipeline
import pipeline.dataset
from pipeline import extract_function
from pipeline.errors import UserError
from pipeline.extract_function import ExtractionFailed
from pipeline.workflows.config import GPU_STAGES, NETWORKS, POOLS, ExtractConfig
from pipeline.workflows.demo_data import write_demo
from pipeline.workflows.jobs import extract

pytestmark = pytest.mark.timeout(300)
SONG, DRUMS = "chords_c_major.wav", "drums_90.flac"


@pytest.fixture(scope="module")
def music(tmp_path_factory) -> Path:
    """Two tracks, one of them long enough for a series that goes to a file, and a text that is none."""
    folder = tmp_path_factory.mktemp("music")
    write_demo(folder, seconds=12.0)
    for path in folder.iterdir():
        if path.name not in (SONG, DRUMS):
            path.unlink()
    (folder / "text.mp3").write_text("this is no music\n")
    return folder


@pytest.fixture(scope="module")
def job(music, tmp_path_factory) -> pipeline.dataset.Tables:
    """What the job makes of the same files."""
    config = ExtractConfig()
    config.source.uri, config.output.uri = str(music), str(tmp_path_factory.mktemp("job") / "out")
    config.clap.enabled = False
    config.separation.backends = ["midside"]
    config.ray.address = "inline"
    assert extract.run(config, quiet=True).exit_code == 0
    return pipeline.dataset.open(config.output.uri)


@pytest.fixture(scope="module")
def frame(music) -> pd.DataFrame:
    config = ExtractConfig()
    config.separation.backends = ["midside"]
    return pipeline.extract(music, stages=["separation"], config=config)


def same(found: object, expected: object) -> bool:
    if isinstance(found, np.ndarray):
        return expected is not None and np.array_equal(found, np.asarray(expected, found.dtype))
    return found == expected


def test_its_values_are_those_of_the_job(frame, job):
    rows = sorted(job.tracks.to_table().to_pylist(), key=lambda row: row["uri"])
    assert list(frame["uri"]) == [row["uri"] for row in rows]
    arrays = {"mel", "chroma", "loudness_frame_rms"} & set(frame.columns)
    assert {"mel", "chroma"} <= arrays
    compared = 0
    for found, expected in zip(frame.to_dict("records"), rows, strict=True):
        for name in expected.keys() & found.keys():
            value = None if isinstance(found[name], float) and np.isnan(found[name]) else found[name]
            assert same(value, expected[name]), (name, value, expected[name])
            compared += 1
        if expected["status"] == "ok":
            for name in arrays:
                if f"{name}_blob" in expected:
                    np.testing.assert_array_equal(found[name], job.array(expected, name))
                    assert found[name].dtype == job.array(expected, name).dtype
    assert compared > 100
    assert frame["stem_share_vocals"].notna().any()


def test_a_file_that_cannot_be_read_is_a_row_of_a_frame(frame):
    [bad] = frame[frame["status"] == "failed"].to_dict("records")
    assert bad["uri"].endswith("text.mp3")
    [failure] = bad["failures"]
    assert (failure["stage"], failure["error_class"]) == ("decode", "UnrecognizedFormat")
    assert list(frame[frame["status"] == "ok"]["failures"]) == [[], []]


def test_one_file_is_a_dict(music, job):
    found = pipeline.extract(str(music / SONG), features=["loudness", "key"])
    [row] = [r for r in job.tracks.to_table().to_pylist() if r["uri"].endswith(SONG)]
    for name in (
        "asset_id",
        "duration_s",
        "loudness_integrated_lufs",
        "loudness_range_lu",
        "key_name",
        "key_mode",
    ):
        assert found[name] == row[name]
    assert found["status"] == "ok"
    assert isinstance(found["key_scores"], np.ndarray)
    assert not [name for name in found if name.startswith(("mel", "tempo", "stem", "segments"))]
    assert not [name for name in found if name in ("run_id", "extractor_keys") or name.endswith("_blob")]


def test_one_file_that_cannot_be_read_raises_with_the_reason(music):
    with pytest.raises(ExtractionFailed, match=r"text\.mp3: UnrecognizedFormat in decode"):
        pipeline.extract(music / "text.mp3", features=["loudness"])


def test_a_list_is_a_frame_in_its_order_without_doubles(music):
    frame = pipeline.extract([music / DRUMS, music / SONG, music / DRUMS], features=["loudness"])
    assert [Path(uri).name for uri in frame["uri"]] == [DRUMS, SONG]


def test_parameters_are_those_of_the_job(music):
    config = ExtractConfig()
    config.features.mel.n_mels = 40
    found = pipeline.extract(music / SONG, features=["mel"], config=config)
    assert found["mel"].shape[0] == 40
    assert config.source.uri is None
    assert config.clap.enabled, "it is the caller's, and stays as it is"


def test_the_callers_torch_and_random_numbers_stay_as_they_are(music):
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        torch.manual_seed(7)
        expected = torch.rand(1)
        torch.manual_seed(7)
        pipeline.extract(music / SONG, features=["loudness"])
        assert torch.rand(1) == expected
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"features": ["lodness"]}, 'did you mean loudness\\?: features=\\["loudness"\\]'),
        ({"features": "loudness"}, "is no list of names"),
        ({"features": []}, "nothing to compute"),
        ({"stages": ["clpa"]}, "did you mean clap\\?"),
    ],
)
def test_a_mistake_says_what_was_meant(music, given, words):
    with pytest.raises(UserError, match=words):
        pipeline.extract(music / SONG, **given)


def test_a_file_that_is_not_there_is_said(music):
    with pytest.raises(UserError, match="nothing.flac is not there"):
        pipeline.extract(music / "nothing.flac")


def test_weights_that_are_not_there_are_said_with_what_to_type(music, monkeypatch, tmp_path):
    monkeypatch.setenv("SOUNDMILL_WEIGHTS", str(tmp_path))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(UserError, match=r"models\.py fetch clap"):
        pipeline.extract(music / SONG, features=[], stages=["clap"])


def test_the_package_alone_loads_nothing():
    code = (
        "import sys, pipeline; print(hasattr(pipeline, 'nothing'), {'torch', 'pyarrow'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "set()"]


def test_nothing_is_left_behind(music):
    from pipeline.extract_function import _Kept

    pipeline.extract(music / SONG, features=["mel"])
    left = [path for path in Path(_Kept.folder.name).rglob("*") if path.is_file()]
    assert left == []


def test_only_the_stages_that_are_asked_for_run_whatever_weights_are_here():
    networks = set(POOLS) - {"decode", "features"}
    assert set(NETWORKS) == networks >= set(GPU_STAGES)
    config = extract_function._settings(["loudness"], ("beats",), None)
    assert [name for name in sorted(networks) if getattr(config, name).enabled] == ["beats"]
    assert all(getattr(config, name).enabled is not None for name in networks)
