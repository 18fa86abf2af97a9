"""The beats stage in this process, on files that the decode stage has read; and in a job without Ray."""

from __future__ import annotations

import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile
from helpers.music_weights import beatnet  # noqa: F401  a fixture

from pipeline.dataset.sources.listing import list_source
from pipeline.engine.packing import pack, planned
from pipeline.errors import UserError
from pipeline.models.beats.names import SAMPLE_RATE, BeatOptions
from pipeline.stages.beats.spec import COLUMNS, VIEW, beats_key
from pipeline.stages.beats.worker import BeatsWorker
from pipeline.stages.decode.worker import DecodeWorker
from pipeline.workflows.availability import look_for
from pipeline.workflows.config import BeatsConfig, ExtractConfig
from pipeline.workflows.jobs import extract
from pipeline.workflows.jobs.extract import ExtractModels


@pytest.fixture(scope="module", autouse=True)
def networks(beatnet):  # noqa: F811
    """The published networks."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A click track at 120 BPM, silence, a single sample, and a file that is none."""
    folder = tmp_path_factory.mktemp("audio")
    clicks = np.zeros((8 * 44100, 2), np.float32)
    fade = np.exp(-np.arange(3000) / 400) * np.random.default_rng(0).standard_normal(3000)
    for number in range(15):
        clicks[number * 22050 + 2000 :][:3000] += (0.5 if number % 4 == 0 else 0.25) * fade[:, None]
    soundfile.write(folder / "clicks.flac", np.clip(clicks, -1, 1), 44100)
    soundfile.write(folder / "silence.wav", np.zeros(SAMPLE_RATE, np.float32), SAMPLE_RATE)
    soundfile.write(folder / "single.wav", np.full(1, 0.5, np.float32), SAMPLE_RATE)
    (folder / "broken.wav").write_bytes(b"not audio")
    return folder


@pytest.fixture(scope="module")
def decoded(folder):
    [block] = pack(planned(list_source(str(folder))), 1000, 10)
    return DecodeWorker([VIEW])(block)


def by_name(rows: list[dict]) -> dict[str, dict]:
    return {row["uri"].rsplit("/", 1)[-1].partition(".")[0]: row for row in rows}


def test_rows_hold_beats_or_null_and_never_a_guess(decoded):
    worker = BeatsWorker()
    rows = by_name(worker(decoded).to_pylist())
    clicks = rows["clicks"]
    assert clicks["beats_bpm"] == pytest.approx(120, rel=0.01)
    assert np.diff(clicks["beats_s"]).min() > 0.45
    assert set(clicks["downbeats_s"]) <= set(clicks["beats_s"])
    assert clicks["beats_meter"] in (2, 4)
    for name in ("silence", "single"):
        filled = {f.name for f in COLUMNS if rows[name][f.name] is not None}
        assert filled <= {"beats_model", "beats_strength"}
        assert rows[name]["key@beats"] == worker.key("beats"), "it was looked for"
    assert rows["broken"]["beats_model"] is None
    assert rows["broken"]["key@beats"] is None
    [timing] = clicks["timings@beats"]
    assert (timing["backend"], timing["device"]) == ("BeatNet", "cpu")
    assert timing["compute_s"] > 0


def test_a_track_that_cannot_be_read_costs_itself_only(decoded, monkeypatch):
    worker = BeatsWorker()
    whole = worker.tracker.hear

    def hear(readers, progress):
        if any(reader.samples == 1 for reader in readers):
            raise ValueError("this one")
        return whole(readers, progress)

    monkeypatch.setattr(worker.tracker, "hear", hear)
    rows = by_name(worker(decoded).to_pylist())
    assert rows["clicks"]["beats_bpm"] == pytest.approx(120, rel=0.01)
    assert rows["single"]["beats_model"] is None
    [failure] = rows["single"]["failures@beats"]
    assert failure["message"] == "this one"


def test_the_key_holds_model_and_options():
    keys = {
        beats_key("a", BeatOptions()),
        beats_key("b", BeatOptions()),
        beats_key("a", BeatOptions(meters=(3, 4))),
        beats_key("a", BeatOptions(min_bpm=50.0)),
    }
    assert len(keys) == 4
    assert BeatsConfig(meters=[4, 2, 3, 2]).options() == BeatOptions()


def test_the_stage_runs_where_the_weights_are(tmp_path, monkeypatch):
    config = ExtractConfig()
    config.clap.enabled = config.separation.enabled = config.tags.enabled = False
    config.features.enabled = []

    def found() -> ExtractModels:
        models = ExtractModels()
        look_for(config, models)
        return models

    def names(models: ExtractModels) -> list[str]:
        return [stage.name for stage in models.pipeline(config).stages]

    assert names(found()) == ["beats"]
    config.beats.enabled = False
    assert (names(found()), found().beats_off) == ([], "off")
    monkeypatch.setenv("SOUNDMILL_WEIGHTS", str(tmp_path))
    config.beats.enabled = None
    assert (names(found()), found().beats_off[:4]) == ([], "off:")
    assert "fetch beatnet" in found().about(config)
    config.beats.enabled = True
    with pytest.raises(UserError, match=r"beats\.enabled=true"):
        found()


def test_a_job_fills_the_columns(folder, tmp_path):
    config = ExtractConfig()
    config.source.uri, config.output.uri = str(folder), str(tmp_path / "out")
    config.clap.enabled = config.separation.enabled = config.tags.enabled = False
    config.features.enabled = []
    config.ray.address = "inline"
    result = extract.run(config, quiet=True)
    assert result.exit_code == 0
    table = pq.ParquetDataset(tmp_path / "out" / "tracks").read()
    rows = by_name(table.to_pylist())
    assert rows["clicks"]["beats_bpm"] == pytest.approx(120, rel=0.01)
    assert rows["silence"]["beats_s"] is None
    assert rows["clicks"]["status"] == rows["silence"]["status"] == "ok"
    assert table.schema.field("beats_s").metadata[b"unit"] == b"s"


def test_a_track_whose_beats_cannot_be_decoded_costs_its_neighbours_nothing(decoded, monkeypatch):
    worker, calls = BeatsWorker(), []
    hear = worker.tracker.hear
    monkeypatch.setattr(worker.tracker, "hear", lambda *given: calls.append(1) or hear(*given))
    found = worker.tracker.beats
    monkeypatch.setattr(
        worker.tracker, "beats", lambda track, heard: 1 / 0 if len(heard.odds) < 50 else found(track, heard)
    )
    rows = by_name(worker(decoded).to_pylist())
    assert rows["clicks"]["beats_bpm"] == pytest.approx(120, rel=0.01)
    assert rows["single"]["failures@beats"][0]["error_class"] == "ZeroDivisionError"
    assert len(calls) == 1, "the networks hear nothing twice"
