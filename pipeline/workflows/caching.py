"""The result cache of a run: where it is, under which keys it keeps what, and what is left of it at the end."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pipeline.dataset.cache.cache import Cache
from pipeline.dataset.cache.upkeep import evict
from pipeline.engine.declare import Pipeline
from pipeline.engine.decode_key import decode_key
from pipeline.engine.results import DECODE, Results
from pipeline.features.base import stable_key
from pipeline.workflows.run_config import RunConfig


def open_cache(config: RunConfig) -> Cache:
    """The cache that the config names."""
    options = config.cache.storage_options or config.source.storage_options
    return Cache(config.cache.location(), options, config.cache.ttl_hours, config.cache.max_bytes)


def run_results(config: RunConfig, pipeline: Pipeline) -> Results | None:
    """What the stages keep and take; None where the cache is off.

    Args:
        config: with its hardware resolved.
    """
    if not config.cache.enabled:
        return None
    stages = {p.name: s.name for s in pipeline.stages for p in s.products}
    return Results(open_cache(config), _cache_keys(config, pipeline), stages, config.cache.audio)


def _cache_keys(config: RunConfig, pipeline: Pipeline) -> dict[str, str | None]:
    """Name → key in the cache: the product key, and whatever else may change a bit of the result.

    A table may be finished on another machine than it was begun on, within tolerances. A cache promises more: that
    it changes nothing.
    """
    hardware = config.hardware
    own = decode_key(config.source.choice())
    decode = stable_key({"key": own, "max_track_hours": hardware.max_track_hours})
    found: dict[str, str | None] = {DECODE: decode}
    for stage in pipeline.stages:
        device = "cuda" if stage.gpu is not None and hardware.gpu_shares.get(stage.name) else "cpu"
        for product in stage.products:
            parts = {"key": product.key, "decode": decode, "device": device, **(stage.kept or {})}
            kept = product.key is not None and stage.kept is not None
            found[product.name] = stable_key(parts) if kept else None
    return found


def tidy(config: RunConfig, warn: Callable[[str], None]) -> dict[str, Any] | None:
    """Evict at the end of a run; what is left, for the reports. None where the cache is off."""
    if not config.cache.enabled:
        return None
    cache = open_cache(config)
    left = evict(cache)
    for step in cache.take_fallbacks():
        warn(f"{step.stage}: {step.used} instead of {step.wanted} ({step.reason})")
    return left
