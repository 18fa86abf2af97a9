"""The jobs of this version: a new one is added here, and nowhere else."""

from __future__ import annotations

from pipeline.dataset.contents import Contents
from pipeline.workflows.job import Job
from pipeline.workflows.jobs.extract import EXTRACT

JOBS: dict[str, Job] = {job.name: job for job in (EXTRACT,)}


def known_contents(job: str = EXTRACT.name) -> Contents:
    """All that an output of a job can hold."""
    return Contents(JOBS[job].known())
