"""What a run asks of whoever drives its workers: Ray (`pipeline.engine.ray_driver`) or one process beside the job
(`pipeline.engine.inline`)."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import KW_ONLY, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa

from pipeline.dataset.storage import one_line
from pipeline.engine.guard import StageFailed
from pipeline.engine.node import Node
from pipeline.engine.resources import StageResources

INLINE = "inline"
"""The address of the process beside the job."""

# The last line of a traceback, such as "OSError: [Errno 28] No space left on device".
_RAISED = re.compile(r"([A-Za-z_][\w.]*(?:Error|Exception|Exhausted|Timeout)): ")


@dataclass(frozen=True)
class Cluster:
    """What the workers have to run on.

    Args:
        address: ``local`` for a Ray started here, `INLINE` for no Ray.
        cpus, gpus, nodes: of the whole cluster.
        environment: variables that actors must be given, because they do not inherit them from this process.
        accelerators: kinds of GPU of all nodes, as Ray calls them, such as ``A10G``.
        node_cpus: CPUs of each node that has any.
        note: what was done in another way than the machine's settings say, in one line.
    """

    address: str
    cpus: float
    gpus: float
    nodes: int
    environment: dict[str, str] = field(default_factory=dict)
    _: KW_ONLY
    accelerators: tuple[str, ...] = ()
    node_cpus: tuple[float, ...] = ()
    note: str = ""


@dataclass(frozen=True)
class Pass:
    """Blocks that go through the stages once.

    Args:
        blocks: tables of files, see `pipeline.engine.packing`.
        nodes: the stages, the sink last.
        resources: stage, or group of stages, → its pool; a driver without pools has no use for it.
        groups: stages that share a process, see `pipeline.engine.groups`; empty where each has its own.
        gpu_memory_fraction: of a card, for all workers on it together.
        hunt: the ledger that is told which file each stage is about to work on. With one, files go through one at a
            time; None does without.
    """

    blocks: Sequence[pa.Table]
    nodes: Sequence[Node]
    resources: Mapping[str, StageResources] = field(default_factory=dict)
    gpu_memory_fraction: float = 0.75
    hunt: Any = None
    _: KW_ONLY
    groups: Sequence[Sequence[str]] = ()


class Driver(Protocol):
    """Runs workers. It begins early, while the job lists its files, and is closed with the job.

    Attributes:
        writes_on_s: for about how long a worker may go on with what it is writing when `receipts` was closed.
    """

    writes_on_s: float

    def begin(self, calls: Sequence[tuple[Any, ...]] = ()) -> None:
        """Start what takes its time to start; a second call does nothing.

        Args:
            calls: what `call` will be asked, each a function and its arguments, in that order.
        """

    def waits_for(self) -> str | None:
        """What `cluster` would wait for, in words; None where it waits for nothing."""

    def cluster(self) -> Cluster:
        """What there is to run on, once that is known. Raises `UserError`."""

    def cards(self) -> tuple[list[int], str] | None:
        """Memory of every card, bytes, and why there is none; None where nobody asked for it. Raises `UserError`."""

    def call(self, function: str, *arguments: Any) -> Any:
        """The result of ``module:function``, computed where the first numbers of the run are computed."""

    def ledger(self, owners: Mapping[str, str]) -> Any:
        """Who computes what, and who was seen last, for `Pass.hunt` and the stages.

        Args:
            owners: contents whose row is there already: asset id → uri of that row.
        """

    def receipts(self, work: Pass) -> Iterator[dict[str, Any]]:
        """Run ``work`` and yield the sink's receipts as parts are committed. Blocks whose workers died are left out.

        Raises:
            StageFailed: a stage raised.
        """

    def last_seen(self, ledger: Any) -> dict[int, tuple[str, str | None]]:
        """Index → (stage, asset id) of each file that the ledger was told of."""

    def why_lost(self) -> str:
        """How a worker died last, in words; empty where nobody knows."""

    def busy(self) -> dict[str, float]:
        """Stage → seconds that its workers were busy, over all that was run."""

    def close(self) -> None:
        """End what was started."""


def local_cpus() -> int:
    """Cores that Ray takes on this machine: fewer than there are where a container has a quota."""
    cores = os.cpu_count() or 1
    with suppress(OSError, ValueError):
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        if quota != "max":
            cores = max(1, min(cores, int(int(quota) / int(period))))
    return cores


def has_card() -> bool:
    """Whether this machine has a GPU that this process may see, without waking it up."""
    if os.environ.get("CUDA_VISIBLE_DEVICES", "0").strip() in ("", "-1", "NoDevFiles"):
        return False
    devices = Path("/dev")
    return any(devices.glob("nvidia[0-9]*")) or any((devices / name).exists() for name in ("dxg", "kfd"))


def root_cause(error: BaseException) -> str:
    """``Class: message`` of what a worker raised, below the layers that Ray wraps around it.

    The exception itself does not survive its journey; the worker's traceback, which does, names it.
    """
    if isinstance(error, StageFailed):
        return one_line(error)
    for line in str(error).splitlines():
        found = _RAISED.match(line)
        if found and not found[1].startswith("ray."):
            return one_line(Exception(line))
    return f"{type(error).__name__}: {one_line(error)}"
