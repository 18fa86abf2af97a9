"""How a process of ours starts, and what it has used."""

from __future__ import annotations

import json
import os
import resource
import warnings
from pathlib import Path

from pipeline.engine.timing import NODE
from pipeline.errors import Fallback


def start_torch(stage: str, device: str, threads: int, seed: int) -> tuple[str, list[Fallback]]:
    """What every stage that runs torch does first: device, threads, and a seed for whatever may draw numbers.

    Returns:
        the device to use, and the fallback if it is not the one that was asked for.
    """
    import torch

    from pipeline.models.device import pick_device, set_threads

    # Samples are views of Ray's shared memory, which nobody may write; torch warns about that.
    warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
    set_threads(threads)
    torch.manual_seed(seed)
    choice = pick_device(device)
    moved = choice.fallback(stage)
    return choice.device, [moved] if moved else []


def peak_rss_bytes() -> int:
    """Peak resident memory of this process, pages shared with Ray's object store included."""
    status = Path("/proc/self/status")
    for line in status.read_text().splitlines() if status.exists() else ():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def process_note(stage: str) -> str:
    """This process as JSON: node, pid, the stage it runs and its peak memory."""
    return json.dumps({"stage": stage, "node": NODE, "pid": os.getpid(), "peak_rss_bytes": peak_rss_bytes()})
