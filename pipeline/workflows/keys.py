"""The extractor keys of a run, known before it starts: what the rows that are there are compared with."""

from __future__ import annotations

from pipeline.engine.keys import clap_key, decode_key, feature_key
from pipeline.models.clap.checkpoint import read_checkpoint
from pipeline.workflows.availability import Models
from pipeline.workflows.config import ExtractConfig


def wanted_keys(config: ExtractConfig, models: Models) -> dict[str, str]:
    """Extractor → key, of all that the run computes, and that of ``decode``.

    What is skipped in this run (CLAP without a checkpoint) is not wanted: rows that have it keep it.
    """
    keys = {"decode": decode_key(config.source.choice())}
    for extractor in config.extractors():
        keys[extractor.name] = feature_key(
            extractor, config.features.sample_rate, config.blobs.names, config.blobs.max_inline_elements
        )
    if models.clap_checkpoint is not None:
        clap = config.clap
        keys["clap"] = clap_key(
            read_checkpoint(models.clap_checkpoint).info.sha256,
            clap.window_seconds,
            clap.hop_seconds,
            clap.aggregate,
            clap.amp,
            models.clap_queries,
        )
    if models.separation_key is not None:
        keys["separation"] = models.separation_key
    return keys
