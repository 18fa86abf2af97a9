"""What happens when CLAP, or only its text half, is not there."""

import numpy as np
import pytest
from helpers.clap_hub import write_hub_model, write_tokenizer
from helpers.clap_reference import tiny_checkpoint

from pipeline.errors import UserError
from pipeline.workflows.config import ExtractConfig
from pipeline.workflows.jobs.extract import find_models


def config(checkpoint=None, **clap):
    made = ExtractConfig()
    made.separation.enabled = False
    made.clap.checkpoint = None if checkpoint is None else str(checkpoint)
    for name, value in clap.items():
        setattr(made.clap, name, value)
    return made


@pytest.fixture(autouse=True)
def empty_store(tmp_path, monkeypatch):
    monkeypatch.setenv("SOUNDMILL_WEIGHTS", str(tmp_path / "store"))


def test_queries_are_embedded_once_before_the_run(tmp_path):
    folder = write_tokenizer(write_hub_model(tmp_path / "hub"))
    models = find_models(config(folder, text_queries=["a sad piano", "applause"]))
    assert models.clap_queries.texts == ("a sad piano", "applause")
    assert models.clap_queries.vectors.shape == (2, 512)
    np.testing.assert_allclose(np.linalg.norm(models.clap_queries.vectors, axis=1), 1, atol=1e-6)
    assert (models.fallbacks, models.warnings) == ([], [])


def test_a_missing_text_tower_skips_the_queries_only(tmp_path):
    checkpoint = tiny_checkpoint(tmp_path)
    models = find_models(config(checkpoint, text_queries=["a"]))
    assert models.clap_model.startswith("HTSAT-tiny:")
    assert models.clap_queries is None
    [fallback] = models.fallbacks
    assert (fallback.stage, fallback.wanted, fallback.used) == ("clap", "1 text query", "none")
    assert "has no text tower" in fallback.reason
    assert models.warnings == [f"clap.text_queries are skipped: {fallback.reason}"]


def test_a_missing_text_tower_stops_where_that_was_asked_for(tmp_path):
    checkpoint = tiny_checkpoint(tmp_path)
    with pytest.raises(UserError, match="clap.on_unavailable=fail: .* has no text tower"):
        find_models(config(checkpoint, text_queries=["a"], on_unavailable="fail"))


def test_without_a_checkpoint_the_whole_stage_is_skipped():
    models = find_models(config(text_queries=["a"]))
    assert (models.clap_checkpoint, models.clap_queries) == (None, None)
    assert [f.wanted for f in models.fallbacks] == ["CLAP embeddings"]


def test_a_folder_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(UserError, match="is neither a file, a folder nor a name"):
        find_models(config(tmp_path / "none"))
