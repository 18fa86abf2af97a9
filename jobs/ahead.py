"""Starts the process that will compute before this one has loaded its own packages, where a small job is likely.

A guess from the command line alone, so that it costs nothing: it may be wrong, and the process is then ended unused.
Whether it is used is decided by `pipeline.workflows.drivers`, when the work is known.
"""

import os
import sys
from pathlib import Path

import preflight

WARM = (
    "pipeline.stages.decode.worker",
    "pipeline.stages.features.worker",
    "pipeline.engine.sink",
    "pipeline.workflows.jobs.extract",
)


def start(warm=WARM):
    """Begin it, unless the command line, the output or the machine say that it would be for nothing.

    Args:
        warm: modules that it loads; by default those of the main job.
    """
    if likely(sys.argv[1:], os.environ):
        from pipeline.engine.worker_process import start_ahead

        start_ahead(warm)


def likely(words, environment):
    """Whether one process beside the job is likely to be needed, with one thread.

    Args:
        words: of the command line, without its name.
        environment: variables.
    """
    given = dict(word.split("=", 1) for word in words if "=" in word)
    flags = [word for word in words if word.startswith("-")]
    if flags or preflight.only_looks() or (os.cpu_count() or 1) < 2:
        return False
    if given.get("ray.address", "inline") != "inline" or "RAY_ADDRESS" in environment:
        return False
    if given.get("perf.threads", environment.get("PERF_THREADS", "1")) != "1" or "dry_run" in given:
        return False
    if has_card():
        return False
    return "output.overwrite" in given or not _is_there(given.get("output.uri", ""))


def has_card():
    """Whether the machine has a GPU, which is for Ray."""
    return any(Path("/dev").glob("nvidia[0-9]*"))


def _is_there(uri):
    """Whether an output has rows: it may have all of them."""
    return bool(uri) and "://" not in uri and Path(uri, "tracks").is_dir()


if __name__ == "__main__":
    preflight.no_job(__doc__, "python jobs/extract_features.py --help")
