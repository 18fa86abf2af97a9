"""How a process of ours starts, and what it has used."""

from __future__ import annotations

import json
import logging
import os
import resource
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import ray
from ray.data import DataContext

from pipeline.engine.timing import NODE
from pipeline.errors import Fallback

if TYPE_CHECKING:
    from pipeline.models.memory import MemoryProbe

log = logging.getLogger(__name__)
# Travels to the actors with Ray Data's own context; see `pipeline.engine.graph.build_dataset`.
GPU_MEMORY_FRACTION = "soundmill.gpu_memory_fraction"


def start_torch(stage: str, device: str, threads: int, seed: int) -> tuple[str, list[Fallback]]:
    """What every stage that runs torch does first: device and its memory, threads, and a seed for random numbers.

    Returns:
        the device to use, and the fallback if it is not the one that was asked for.
    """
    import torch

    from pipeline.models.device import pick_device, set_threads
    from pipeline.models.memory import TorchMemory

    # Samples are views of Ray's shared memory, which nobody may write; torch warns about that.
    warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
    set_threads(threads)
    torch.manual_seed(seed)
    choice = pick_device(device)
    if choice.device != "cpu":
        limit_gpu_memory(choice.device, TorchMemory())
    moved = choice.fallback(stage)
    return choice.device, [moved] if moved else []


def limit_gpu_memory(device: str, memory: MemoryProbe) -> float | None:
    """Hold this process to its part of the card's budget.

    Returns:
        the fraction of the card that it may use: ``hardware.gpu_memory_fraction`` times its 1/n; None where it
        is no actor with a share of a GPU, or the allocator knows no limits.
    """
    if not ray.is_initialized() or ray.get_runtime_context().get_actor_id() is None:
        return None
    share = ray.get_runtime_context().get_assigned_resources().get("GPU", 0.0)
    budget = DataContext.get_current().get_config(GPU_MEMORY_FRACTION)
    if not share or budget is None:
        return None
    fraction = budget * min(1.0, share)
    try:
        memory.limit(device, fraction)
    except (RuntimeError, AttributeError) as error:  # an allocator of another make
        log.warning("this process is not held to %.1f %% of %s: %s", 100 * fraction, device, error)
        return None
    return fraction


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
