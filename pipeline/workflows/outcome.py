"""How a run ends: its exit code, and what it leaves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pipeline.workflows.stopping import EXIT_STOPPED

EXIT_OK, EXIT_FAILED, EXIT_USAGE, EXIT_FAILURES = 0, 1, 2, 3
# What ``status.json`` says of a run; any other exit code is "failed".
ENDED = {EXIT_OK: "done", EXIT_FAILURES: "done", EXIT_STOPPED: "stopped"}


@dataclass(frozen=True)
class Result:
    """How a run ended.

    Args:
        exit_code: as in the jobs' ``--help``.
        run_id: name of the run folder.
        output: root of the tables.
        report: location of ``report.html``; empty where the run did not get that far.
        performance: what ``performance.json`` holds.
    """

    exit_code: int
    run_id: str
    output: str
    report: str = ""
    performance: dict[str, Any] | None = None
