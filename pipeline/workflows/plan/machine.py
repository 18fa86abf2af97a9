"""What a run would have to work with: asked of the cluster, or, of a Ray that the run would start, of this machine."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
import torch

from pipeline.engine.session import connect, disconnect
from pipeline.models.device import pick_device
from pipeline.workflows.config import ExtractConfig, HardwareConfig
from pipeline.workflows.hardware import resolve_hardware


@dataclass(frozen=True)
class Resources:
    """What Ray will offer.

    Args:
        address: ``local`` for a Ray that the run starts.
        cpus, gpus, nodes: of the whole cluster.
        memory_bytes: of this machine where the run is local; None for a cluster.
        gpu: name of this machine's card; None without one.
        hardware: the profile, worked out.
        reasons: why so, line by line.
        node_cpus: of each node of a cluster.
    """

    address: str
    cpus: float
    gpus: float
    nodes: int
    memory_bytes: int | None
    gpu: str | None
    hardware: HardwareConfig
    reasons: tuple[str, ...] = ()
    node_cpus: tuple[float, ...] = ()


def find_resources(config: ExtractConfig, stages: Sequence[str]) -> Resources:
    """Ask for them. Raises `UserError`: nobody answers at ``ray.address``, or the profile does not fit."""
    choice = pick_device("auto")
    gpu = torch.cuda.get_device_name() if choice.device == "cuda" else None
    if config.ray.address not in (None, "local"):
        try:
            found = connect(config.ray.address, threads=config.perf.threads)
            hardware, reasons = resolve_hardware(config.hardware, stages)
        finally:
            disconnect()
        return Resources(
            found.address, found.cpus, found.gpus, found.nodes, None, gpu, hardware, reasons, found.node_cpus
        )
    cards = []
    if gpu is not None:
        count = torch.cuda.device_count()
        cards = [torch.cuda.get_device_properties(i).total_memory for i in range(count)]
    hardware, reasons = resolve_hardware(config.hardware, stages, (cards, choice.reason))
    cpus = float(config.ray.num_cpus or local_cpus())
    return Resources(
        "local", cpus, float(len(cards)), 1, psutil.virtual_memory().total, gpu, hardware, reasons
    )


def local_cpus() -> int:
    """Cores that Ray takes on this machine: fewer than there are where a container has a quota."""
    cores = os.cpu_count() or 1
    with suppress(OSError, ValueError):
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        if quota != "max":
            cores = max(1, min(cores, int(int(quota) / int(period))))
    return cores
