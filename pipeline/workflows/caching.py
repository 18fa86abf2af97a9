"""The result cache of a run: where it is, under which keys it keeps what, and what is left of it at the end."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from pipeline.dataset.cache.cache import Cache
from pipeline.engine.results import DECODE, Results
from pipeline.features.base import stable_key
from pipeline.models.separation import AUTO
from pipeline.workflows.config import ExtractConfig


def open_cache(config: ExtractConfig) -> Cache:
    """The cache that the config names."""
    options = config.cache.storage_options or config.source.storage_options
    return Cache(config.cache.location(), options, config.cache.ttl_hours, config.cache.max_bytes)


def run_results(config: ExtractConfig, keys: Mapping[str, str]) -> Results | None:
    """What the stages keep and take; None where the cache is off.

    Args:
        config: with its hardware resolved.
        keys: extractor → key, see `pipeline.workflows.keys.wanted_keys`.
    """
    if not config.cache.enabled:
        return None
    features = {e.name for e in config.extractors()}
    stages = {name: "features" if name in features else name for name in keys if name != DECODE}
    if config.separation.enabled:
        stages["separation"] = "separation"
    return Results(open_cache(config), _cache_keys(config, keys, stages), stages, config.cache.audio)


def _cache_keys(
    config: ExtractConfig, keys: Mapping[str, str], stages: Mapping[str, str]
) -> dict[str, str | None]:
    """Name → key in the cache: the extractor key, and whatever else may change a bit of the result.

    A table may be finished on another machine than it was begun on, within tolerances. A cache promises more: that
    it changes nothing.
    """
    hardware, separation = config.hardware, config.separation
    decode = stable_key({"key": keys[DECODE], "max_track_hours": hardware.max_track_hours})
    around = {
        "features": {
            "block_seconds": config.features.block_seconds,
            "max_track_bytes": hardware.max_track_bytes,
        },
        "separation": {
            "backends": list(separation.backends),
            "threads": config.perf.threads if AUTO in separation.backends else None,
        },
    }
    found: dict[str, str | None] = {DECODE: decode}
    for name, stage in stages.items():
        kept = name in keys and not (
            stage == "separation" and (separation.save_stems or separation.save_arrays)
        )
        device = "cuda" if hardware.gpu_shares.get(stage) else "cpu"
        parts = {"key": keys.get(name), "decode": decode, "device": device, **around.get(stage, {})}
        found[name] = stable_key(parts) if kept else None
    return found


def tidy(config: ExtractConfig, warn: Callable[[str], None]) -> dict[str, Any] | None:
    """Evict at the end of a run; what is left, for the reports. None where the cache is off."""
    if not config.cache.enabled:
        return None
    cache = open_cache(config)
    left = cache.evict()
    for step in cache.take_fallbacks():
        warn(f"{step.stage}: {step.used} instead of {step.wanted} ({step.reason})")
    return left
