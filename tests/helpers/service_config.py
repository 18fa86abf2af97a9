"""Configs of the karaoke service, composed and checked as its job does it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from pipeline.workflows.karaoke_service_config import KaraokeServiceConfig

JOBS = str(Path(__file__).resolve().parents[2] / "jobs")


@contextmanager
def service_configs() -> Iterator[Callable[[Sequence[str]], KaraokeServiceConfig]]:
    """Within it the modules of ``jobs/`` are those of the service; yields what loads a command line's config."""
    if JOBS not in sys.path:
        sys.path.insert(0, JOBS)
    import compose
    import schema

    before = dict(vars(schema.CURRENT))
    schema.of_job(KaraokeServiceConfig, "karaoke_service", "karaoke_service.py")
    try:
        compose.register()
        yield compose.load
    finally:
        vars(schema.CURRENT).update(before)
