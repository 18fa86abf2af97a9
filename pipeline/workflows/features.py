"""Feature extraction, with everything but its config and stages as in every job."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pipeline.workflows.config import ExtractConfig
from pipeline.workflows.extract_job import EXTRACT
from pipeline.workflows.outcome import Result
from pipeline.workflows.run import Asked, run_job


def run(
    config: ExtractConfig,
    quiet: bool = False,
    retry: Sequence[str] = (),
    given: Sequence[str] = (),
    moments: Mapping[str, float] | None = None,
) -> Result:
    """Run the job, see `run_job` and `Asked`. Raises `UserError`."""
    return run_job(EXTRACT, config, Asked(quiet, retry, given, moments or {}))
