"""What a run would have to work with: asked of the cluster, or, of a Ray that the run would start, of this machine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field

import psutil
import torch

from pipeline.engine.declare import Stage
from pipeline.engine.driver import local_cpus
from pipeline.engine.session import connect, disconnect
from pipeline.models.device import pick_device
from pipeline.workflows.hardware import resolve_hardware
from pipeline.workflows.hardware_config import HardwareConfig
from pipeline.workflows.run_config import RunConfig


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
        networks: stage → what it runs on a card, see `pipeline.engine.declare.Gpu`.
    """

    address: str
    cpus: float
    gpus: float
    nodes: int
    memory_bytes: int | None
    _: KW_ONLY
    gpu: str | None
    hardware: HardwareConfig
    reasons: tuple[str, ...] = ()
    node_cpus: tuple[float, ...] = ()
    networks: Mapping[str, tuple[tuple[str, str], ...]] = field(default_factory=dict)


def find_resources(config: RunConfig, stages: Sequence[Stage]) -> Resources:
    """Ask for them. Raises `UserError`: nobody answers at ``ray.address``, or the profile does not fit."""
    networks = {stage.name: stage.gpu.networks for stage in stages if stage.gpu is not None}
    choice = pick_device("auto")
    gpu = torch.cuda.get_device_name() if choice.device == "cuda" else None
    if config.ray.names_a_cluster:
        try:
            found = connect(config.ray.address, threads=config.perf.threads)
            hardware, reasons = resolve_hardware(config.hardware, stages)
        finally:
            disconnect()
        return Resources(
            found.address,
            found.cpus,
            found.gpus,
            found.nodes,
            None,
            gpu=gpu,
            hardware=hardware,
            reasons=reasons,
            node_cpus=found.node_cpus,
            networks=networks,
        )
    cards = []
    if gpu is not None:
        count = torch.cuda.device_count()
        cards = [torch.cuda.get_device_properties(i).total_memory for i in range(count)]
    hardware, reasons = resolve_hardware(config.hardware, stages, (cards, choice.reason))
    cpus = float(config.ray.num_cpus or local_cpus())
    return Resources(
        "local",
        cpus,
        float(len(cards)),
        1,
        psutil.virtual_memory().total,
        gpu=gpu,
        hardware=hardware,
        reasons=reasons,
        node_cpus=(),
        networks=networks,
    )
