"""The product keys of a run, known before it starts: what the rows that are there are compared with."""

from __future__ import annotations

from pipeline.engine.decode_key import decode_key
from pipeline.workflows.job import Found
from pipeline.workflows.run_config import RunConfig


def wanted_keys(config: RunConfig, models: Found) -> dict[str, str]:
    """Product → key, of all that the run computes, and that of ``decode``.

    What is skipped in this run (CLAP without a checkpoint) is not wanted: rows that have it keep it.
    """
    return {"decode": decode_key(config.source.choice()), **models.pipeline(config).keys()}
