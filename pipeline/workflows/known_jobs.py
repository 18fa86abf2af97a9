"""The jobs of this version: a new one is added here, and nowhere else."""

from __future__ import annotations

from pipeline.dataset.contents import Contents
from pipeline.dataset.output import Output
from pipeline.errors import UserError
from pipeline.workflows.job import Job
from pipeline.workflows.jobs.extract import EXTRACT
from pipeline.workflows.jobs.karaoke import KARAOKE
from pipeline.workflows.jobs.master import MASTER
from pipeline.workflows.jobs.speech import SPEECH

JOBS: dict[str, Job] = {job.name: job for job in (EXTRACT, KARAOKE, SPEECH, MASTER)}


def known_contents(job: str = EXTRACT.name) -> Contents:
    """All that an output of a job can hold."""
    return Contents(JOBS[job].known(), job)


def job_of(output: Output) -> Job:
    """The job that writes an output. Raises `UserError` where this version has none of that name."""
    name = output.contents.job
    if name not in JOBS:
        raise UserError(
            f"{output.uri} is of a job called {name!r}",
            f"this version knows {', '.join(JOBS)}",
            "the version that wrote it, or another output.uri",
        )
    return JOBS[name]
