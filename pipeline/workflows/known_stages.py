"""The stages of all jobs, by their configs alone: a profile of hardware names them all, and a job takes its own."""

from __future__ import annotations

from pipeline.workflows.config import POOLS as EXTRACT
from pipeline.workflows.karaoke_config import POOLS as KARAOKE
from pipeline.workflows.master_config import POOLS as MASTER
from pipeline.workflows.speech_config import POOLS as SPEECH


def stages_of_all() -> frozenset[str]:
    """Every stage that has a pool in some job."""
    return frozenset({*EXTRACT, *KARAOKE, *SPEECH, *MASTER})
