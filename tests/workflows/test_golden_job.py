"""Golden vectors of an output: other numbers are refused before anything is computed, or accepted and told."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile

from pipeline.dataset.output import Output
from pipeline.dataset.run_folder import RunFolder
from pipeline.engine.driver import root_cause
from pipeline.engine.guard import StageFailed
from pipeline.errors import UserError
from pipeline.features.golden import Golden, OtherNumbersError
from pipeline.stages.features.worker import FeaturesWorker
from pipeline.workflows import execution
from pipeline.workflows.config import ExtractConfig
from pipeline.workflows.golden_job import PATH, settle_golden
from pipeline.workflows.jobs import extract
from pipeline.workflows.jobs.extract import ExtractModels


@pytest.fixture
def config(tmp_path) -> ExtractConfig:
    config = ExtractConfig()
    (tmp_path / "in").mkdir()
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, 44100)
    soundfile.write(tmp_path / "in" / "a.wav", noise, 44100)
    config.source.uri, config.output.uri = str(tmp_path / "in"), str(tmp_path / "out")
    config.features.enabled = ["loudness", "mel"]
    config.clap.enabled = config.separation.enabled = False
    return config


@pytest.fixture
def settle(config):
    """`settle_golden` as a run calls it; the models it was given and what it returned."""

    def call():
        output, models = Output(config.output.uri), ExtractModels()
        output.check()
        folder = RunFolder(output, "20260101T000000-0000", quiet=True)
        try:
            return models, settle_golden(config, models, output, folder)
        finally:
            folder.close()

    return call


def stored(config) -> dict:
    return json.loads(Output(config.output.uri).read(PATH))


def change(config, extractor: str, by: float = 0.5, **versions: str) -> None:
    """As if another machine had begun the output."""
    found = stored(config)
    for entry in found.values():
        if entry["extractor"] == extractor:
            for vector in entry["vectors"]:
                vector["values"][-1] += by
                vector["versions"].update(versions)
    Output(config.output.uri).write(PATH, json.dumps(found).encode())


def test_vectors_are_kept_by_key_with_what_made_them(settle, config):
    models, golden = settle()
    assert set(golden.values) == {"loudness", "mel"}
    keys = {e.key(22050): e.name for e in config.extractors()}
    found = stored(config)
    assert {key: entry["extractor"] for key, entry in found.items()} == keys
    for entry in found.values():
        [vector] = entry["vectors"]
        assert vector["values"] == golden.values[entry["extractor"]]
        assert vector["versions"]["numpy"] == np.__version__
    assert models.fallbacks == []
    settle()
    assert stored(config) == found, "the same again"


def test_an_extractor_more_or_other_parameters_are_added(settle, config):
    settle()
    before = stored(config)
    config.features.enabled = ["loudness", "mel", "quality"]
    config.features.mel.n_mels = 64
    settle()
    found = stored(config)
    assert sorted(entry["extractor"] for entry in found.values()) == ["loudness", "mel", "mel", "quality"]
    assert before.items() <= found.items()


def test_other_numbers_are_refused_in_one_line_that_says_what_to_type(settle, config):
    settle()
    change(config, "mel", torch="2.0.0")
    before = stored(config)
    with pytest.raises(UserError) as caught:
        settle()
    message = str(caught.value)
    for part in (
        "features.mel: ",
        " instead of ",
        "2.0.0 there",
        "output.accept_other_numbers=true",
        config.output.uri,
    ):
        assert part in message
    assert "loudness" not in message
    assert "\n" not in message
    assert stored(config) == before


def test_a_refused_job_computes_nothing(config, settle, monkeypatch):
    settle()
    change(config, "loudness")
    monkeypatch.setattr(execution, "Attempts", lambda *a: pytest.fail("something was computed"))
    with pytest.raises(UserError, match="features.loudness"):
        extract.run(config, quiet=True)
    assert Output(config.output.uri).parts("tracks") == []


def test_what_was_accepted_once_is_known_from_then_on(settle, config):
    settle()
    change(config, "mel", torch="2.0.0")
    config.output.accept_other_numbers = True
    models, _ = settle()
    [fallback] = models.fallbacks
    assert (fallback.stage, fallback.used) == ("features", "other numbers")
    assert "2.0.0 there" in fallback.reason
    config.output.accept_other_numbers = False
    models, _ = settle()
    assert models.fallbacks == []
    assert sorted(len(entry["vectors"]) for entry in stored(config).values()) == [1, 2]


def test_overwriting_begins_anew(settle, config):
    settle()
    change(config, "mel")
    config.output.overwrite = True
    models, golden = settle()
    assert models.fallbacks == []
    assert [e["vectors"][0]["values"] for e in stored(config).values() if e["extractor"] == "mel"] == [
        golden.values["mel"]
    ]


@pytest.mark.parametrize("text", ["", "[]", '{"a": 1}', '{"a": {"vectors": [{"values": ["x"]}]}}'])
def test_a_file_that_is_none_of_ours_is_refused(settle, config, text):
    settle()
    Output(config.output.uri).write(PATH, text.encode())
    with pytest.raises(UserError, match="is not what a run wrote"):
        settle()


def test_without_extractors_there_is_nothing_to_compare(settle, config):
    config.features.enabled = []
    assert settle()[1] is None
    assert not Output(config.output.uri).fs.exists(Output(config.output.uri).path(PATH))


def test_an_actor_with_other_numbers_takes_no_table(settle, config):
    _, golden = settle()
    nothing = pa.table({"index": pa.array([], pa.int64()), "uri": pa.array([], pa.string())})
    assert FeaturesWorker(config.extractors(), 22050, golden=golden)(nothing).num_rows == 0
    values = {**golden.values, "mel": [x + 1 for x in golden.values["mel"]]}
    stage = FeaturesWorker(config.extractors(), 22050, golden=Golden(values, golden.versions))
    with pytest.raises(OtherNumbersError, match="mel: "):
        stage(nothing)


def test_what_a_worker_refuses_is_one_line_of_the_log():
    refusal = OtherNumbersError("node-7 computes other numbers than the driver")
    failed = StageFailed(
        "features", f"OtherNumbersError: {refusal}", "Traceback (most recent call last):\n  File x\n"
    )
    assert root_cause(failed) == f"OtherNumbersError: {refusal} (in features)"


@pytest.mark.timeout(300)
def test_a_job_that_accepts_other_numbers_goes_on_and_its_rows_say_so(settle, config):
    settle()
    change(config, "mel")
    config.output.accept_other_numbers = True
    result = extract.run(config, quiet=True)
    assert result.exit_code == 0
    [row] = pq.read_table(f"{config.output.uri}/tracks").to_pylist()
    assert row["mel_mean"]
    assert [(f["stage"], f["used"]) for f in row["fallbacks"]] == [("features", "other numbers")]
    assert result.performance["fallbacks"][0]["used"] == "other numbers"
