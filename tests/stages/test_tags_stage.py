"""The tags stage: on files that the decode stage has read, and in a whole run in this process."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pytest
import soundfile
from helpers.music_weights import musicnn  # noqa: F401  a fixture
from in_process import InProcess

from pipeline.dataset.output import Output
from pipeline.dataset.sources.listing import list_source
from pipeline.dataset.verify import check
from pipeline.engine.packing import pack, planned
from pipeline.errors import UserError
from pipeline.models.tags.names import MSD_TAGS, MTT_TAGS
from pipeline.report.embedding_map import embedding_map
from pipeline.report.overview import overview
from pipeline.stages.decode.worker import DecodeWorker
from pipeline.stages.tags.spec import COLUMNS, VIEW, tags_key
from pipeline.stages.tags.worker import TagsWorker, top_tags
from pipeline.workflows.config import ExtractConfig
from pipeline.workflows.jobs import extract

RATE = 22050


@pytest.fixture(scope="module")
def audio(tmp_path_factory):
    """Three sounds of 7, 5 and 1 s, silence, one sample, and a file that is none."""
    folder = tmp_path_factory.mktemp("audio")
    rng = np.random.default_rng(0)
    t = np.arange(7 * RATE) / RATE
    soundfile.write(folder / "a.wav", 0.3 * np.sin(2 * np.pi * 440 * t) * np.exp(-3 * (t % 0.5)), RATE)
    soundfile.write(folder / "b.wav", rng.uniform(-0.3, 0.3, 5 * RATE), RATE)
    soundfile.write(folder / "c.wav", rng.uniform(-0.3, 0.3, (RATE, 2)), RATE)
    soundfile.write(folder / "d.wav", np.zeros(4 * RATE), RATE)
    soundfile.write(folder / "e.wav", np.array([0.5]), RATE)
    (folder / "f.wav").write_bytes(b"not audio")
    return folder


@pytest.fixture(scope="module")
def decoded(audio):
    [block] = pack(planned(list_source(str(audio))), 1000, 10)
    return DecodeWorker([VIEW])(block)


def test_columns_and_rows_of_patches(decoded, musicnn):  # noqa: F811
    rows = TagsWorker(segments=True)(decoded).to_pylist()
    sound, noise, short, silent, sample, broken = rows
    assert [row["tags_patches"] for row in rows] == [2, 1, 1, 0, 0, None]
    assert [row["tags_segments"] for row in rows] == [2, 1, 1, 1, 0, None]
    for row in (sound, noise, short):
        assert (len(row["tags_mtt"]), len(row["tags_msd"]), len(row["tags_embedding"])) == (50, 50, 400)
        assert row["tags_model"].startswith("musicnn:")
    first, second = sound["rows@tag_segments"]
    np.testing.assert_allclose(
        np.mean([first["tags_mtt"], second["tags_mtt"]], axis=0), sound["tags_mtt"], atol=1e-6
    )
    assert (first["start_s"], second["start_s"], second["end_s"]) == (0.0, 2.992, 5.984)
    assert [patch["end_s"] for patch in short["rows@tag_segments"]] == [1.0]
    for row in (silent, sample):
        assert (row["tags_top"], row["tags_mtt"], row["tags_embedding"]) == (None, None, None)
        assert row["key@tags"] is not None
    assert [patch["tags_mtt"] for patch in silent["rows@tag_segments"]] == [None]
    assert broken["key@tags"] is None
    [timing] = sound["timings@tags"]
    assert (timing["backend"], timing["batch_items"]) == ("musicnn float32", 4)


def test_top_tags_are_above_the_threshold_each_once_the_most_probable_first():
    mtt, msd = np.zeros(50), np.zeros(50)
    mtt[MTT_TAGS.index("guitar")], msd[MSD_TAGS.index("guitar")] = 0.3, 0.6
    mtt[MTT_TAGS.index("slow")], msd[MSD_TAGS.index("folk")] = 0.5, 0.19
    assert top_tags({"mtt": mtt, "msd": msd}, 0.2) == ["guitar", "slow"]
    assert top_tags({"mtt": mtt, "msd": msd}, 0.7) == []
    assert top_tags({"mtt": None, "msd": None}, 0.2) is None


def test_what_changes_the_numbers_is_in_the_key():
    keys = {
        tags_key("m"),
        tags_key("n"),
        tags_key("m", 0.3),
        tags_key("m", segments=True),
        tags_key("m", amp="true"),
    }
    assert len(keys) == 5
    assert tags_key("m", amp="auto") == tags_key("m", amp="false"), "the same on a CPU, which computes it"


def test_the_names_stand_beside_the_probabilities():
    names = {f.name: json.loads(f.metadata[b"names"]) for f in COLUMNS if b"names" in f.metadata}
    assert names == {"tags_mtt": list(MTT_TAGS), "tags_msd": list(MSD_TAGS)}


def small_config(audio, output, **tags) -> ExtractConfig:
    config = ExtractConfig()
    config.source.uri, config.output.uri = str(audio), str(output)
    config.features.enabled = ["loudness"]
    config.clap.enabled = config.separation.enabled = False
    for name, value in tags.items():
        setattr(config.tags, name, value)
    return config


def test_a_run_with_tags_is_whole_and_its_report_maps_them(audio, musicnn, tmp_path, monkeypatch):  # noqa: F811
    InProcess(monkeypatch)
    config = small_config(audio, tmp_path / "out", enabled=True, segments=True)
    assert extract.run(config, quiet=True).exit_code == 0
    output = Output(str(tmp_path / "out"))
    rows = pa.concat_tables(
        [pa.Table.from_batches([batch]) for batch in output.batches("tracks")]
    ).to_pylist()
    tagged = {row["uri"][-5:]: row["tags_top"] for row in rows if row["tags_embedding"] is not None}
    assert sorted(tagged) == ["a.wav", "b.wav", "c.wav"]
    assert "electronic" in tagged["b.wav"]  # noise
    patches = sum(batch.num_rows for batch in output.batches("tag_segments"))
    assert patches == 5
    assert not dict(check(output, deep=True)[0].counts)
    found = overview(output)
    assert found.embedding == "tags_embedding"
    assert embedding_map(found).columns == ["tags_embedding"]


def test_without_weights_they_are_off_and_the_log_says_why(audio, tmp_path, monkeypatch):
    monkeypatch.setenv("SOUNDMILL_WEIGHTS", str(tmp_path / "none"))
    config = small_config(audio, tmp_path / "out")
    models = extract.find_models(config)
    assert "tags off: musicnn weights are missing" in models.about(config)
    assert "fetch musicnn" in models.about(config)
    assert "tags" not in models.pipeline(config).keys()  # noqa: SIM118  a method
    assert not models.fallbacks
    config.tags.enabled = True
    with pytest.raises(UserError, match=r"tags\.enabled=true.*musicnn weights are missing"):
        extract.find_models(config)


def test_with_weights_they_are_on_unless_switched_off(audio, musicnn, tmp_path):  # noqa: F811
    config = small_config(audio, tmp_path / "out")
    assert "tags" in extract.find_models(config).pipeline(config).keys()  # noqa: SIM118  a method
    config.tags.enabled = False
    models = extract.find_models(config)
    assert "tags" not in models.pipeline(config).keys()  # noqa: SIM118  a method
    assert "; tags off;" in f"{models.about(config)};"
