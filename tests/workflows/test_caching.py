"""Which key a result lies under in the cache: the extractor's, and whatever else may change a bit of it."""

from __future__ import annotations

import pytest

from pipeline.workflows.caching import open_cache, run_results, tidy
from pipeline.workflows.config import ExtractConfig
from pipeline.workflows.jobs.extract import ExtractModels

NAMES = {"decode", "mel", "key", "clap", "separation"}


def results_of(config, **more):
    """What a run with all models keeps, but for ``more``."""
    found = {"clap_checkpoint": "c", "clap_model": "c", "clap_key": "c", "separation_key": "s", **more}
    return run_results(config, ExtractModels(**found).pipeline(config))


@pytest.fixture
def config(tmp_path) -> ExtractConfig:
    config = ExtractConfig()
    config.features.enabled = ["mel", "key"]
    config.cache.enabled, config.cache.uri = True, str(tmp_path / "cache")
    return config


def cache_keys(config) -> dict:
    return dict(results_of(config).keys)


def changed(before: dict, after: dict) -> set[str]:
    return {name for name in before if before[name] != after[name]}


def test_a_cache_that_is_off_is_not_there(config):
    config.cache.enabled = False
    assert results_of(config) is None
    assert tidy(config, pytest.fail) is None


def test_each_result_has_a_key_and_the_stage_that_computes_it(config):
    results = results_of(config)
    assert set(results.keys) == NAMES
    assert len(set(results.keys.values())) == len(NAMES)
    assert results.stages == {
        "mel": "features",
        "key": "features",
        "clap": "clap",
        "separation": "separation",
    }


def test_a_key_follows_its_extractor(config):
    before = cache_keys(config)
    config.features.mel.n_mels += 1
    assert changed(before, cache_keys(config)) == {"mel"}
    config.features.mel.n_mels -= 1
    config.source.audio_stream = "1"
    assert changed(before, cache_keys(config)) == NAMES


def test_what_may_change_a_bit_is_in_the_key_and_what_may_not_is_not(config):
    before = cache_keys(config)
    config.features.block_seconds = 60.0
    assert changed(before, cache_keys(config)) == {"mel", "key"}
    config.hardware.gpu_shares["clap"] = 4
    assert changed(before, cache_keys(config)) == {"mel", "key", "clap"}
    config.features.block_seconds, config.hardware.gpu_shares["clap"] = 600.0, 0
    config.perf.threads = 3  # `auto` weighs the speed of a backend
    assert changed(before, cache_keys(config)) == {"separation"}
    config.perf.threads, config.hardware.actors["clap"], config.seed = 1, 7, 5
    config.hardware.block_audio_seconds = 20.0
    assert changed(before, cache_keys(config)) == set()


@pytest.mark.parametrize("wanted", ["save_stems", "save_arrays"])
def test_where_stems_are_saved_separation_is_computed(config, wanted):
    setattr(config.separation, wanted, True)
    results = results_of(config)
    assert results.keys["separation"] is None
    assert results.stages["separation"] == "separation", "and so the track has to be decoded"


def test_a_stage_without_a_model_still_says_so_in_every_row(config):
    missing = {"clap_checkpoint": None, "clap_key": None, "separation_key": None}
    results = results_of(config, **missing)
    assert "clap" not in results.stages, "its stage does not run"
    assert results.keys["separation"] is None, "its stage runs, and says why there is nothing"
    config.separation.enabled = False
    assert "separation" not in results_of(config, **missing).stages


def test_the_cache_takes_the_source_s_credentials_or_its_own(config):
    config.source.storage_options = {"key": "a"}
    assert open_cache(config).store.options == {"key": "a"}
    config.cache.storage_options = {"key": "b"}
    assert open_cache(config).store.options == {"key": "b"}


def test_what_cannot_be_tidied_is_said_and_nothing_else(config, tmp_path):
    assert tidy(config, pytest.fail)["shards"] == 0
    (tmp_path / "file").write_text("in the way")
    config.cache.uri = str(tmp_path / "file" / "cache")
    said = []
    assert tidy(config, said.append) == {}
    assert len(said) == 1
    assert "none instead of cache" in said[0]
