"""How much slower each core of this machine works when all of them do: shared cores, caches, memory, and the clock."""

from __future__ import annotations

import os
import statistics
import subprocess
import time

from pipeline.audio.children import child_command
from pipeline.engine.starting import THREAD_VARIABLES

SECONDS = 0.5
STARTING_S = 0.6
MOST_PROCESSES = 32
MOST = 2.0
"""What is more than this comes of processes that did not start in time."""


def slowdown(processes: int) -> float:
    """CPU time that a piece of work takes in each of ``processes`` side by side, over what it takes in one alone.

    By the CPU's clock and not the wall's, so that other load does not count as our own. From 1 to `MOST`; takes two
    seconds.
    """
    processes = min(processes, MOST_PROCESSES)
    if processes < 2:
        return 1.0
    alone, together = _rates(1), _rates(processes)
    return min(MOST, max(1.0, alone[0] / statistics.mean(together)))


def _rates(processes: int) -> list[float]:
    """Pieces of work per CPU second, of processes that begin at the same time."""
    begin = time.time() + STARTING_S
    command = child_command("pipeline.engine.cpu_contention", str(begin))
    own = os.environ | dict.fromkeys(THREAD_VARIABLES, "1")
    children = [
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=own)  # noqa: S603  our own interpreter
        for _ in range(processes)
    ]
    return [float(child.communicate()[0]) for child in children]


def main(begin: str) -> None:
    """Transform and filter as the stages do, for so long, and print the pieces per CPU second."""
    import numpy as np

    rng = np.random.default_rng(0)
    frames = rng.standard_normal((256, 2048)).astype(np.float32)
    weights = rng.standard_normal((1025, 128)).astype(np.float32)
    np.abs(np.fft.rfft(frames)) @ weights
    time.sleep(max(0.0, float(begin) - time.time()))
    started, cpu, pieces = time.perf_counter(), time.process_time(), 0
    while time.perf_counter() - started < SECONDS:
        np.abs(np.fft.rfft(frames)) @ weights
        pieces += 1
    print(pieces / (time.process_time() - cpu))
