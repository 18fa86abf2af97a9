"""How a run ends: its exit code, and what it leaves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pipeline.dataset.run_folder import RunFolder
from pipeline.workflows.stopping import EXIT_STOPPED

EXIT_OK, EXIT_FAILED, EXIT_USAGE, EXIT_FAILURES = 0, 1, 2, 3
# What ``status.json`` says of a run; any other exit code is "failed".
ENDED = {EXIT_OK: "done", EXIT_FAILURES: "done", EXIT_STOPPED: "stopped"}


def verdict(failed: int, asked_for: int, max_failure_rate: float, folder: RunFolder) -> int:
    """The exit code of a run that came to its end: too many of the files that were asked for failed, or not."""
    if failed <= max_failure_rate * max(1, asked_for):
        return EXIT_OK
    rate = f"{failed / max(1, asked_for):.1%} of the files failed, more than max_failure_rate={max_failure_rate:g}"
    folder.log("failure_rate", rate, level="error")
    return EXIT_FAILURES


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
