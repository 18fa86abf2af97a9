"""How a process of ours starts, and what it has used."""

from __future__ import annotations

import json
import logging
import os
import resource
import sys
import time
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.engine.timing import NODE
from pipeline.errors import Fallback
from pipeline.models.utilisation import CardWatch, open_watch

if TYPE_CHECKING:
    from pipeline.models.memory import MemoryProbe

log = logging.getLogger(__name__)
# Travels to the actors with Ray Data's own context; see `pipeline.engine.graph.build_dataset`.
GPU_MEMORY_FRACTION = "soundmill.gpu_memory_fraction"
# A network is hundreds of launches, and each lets go of the interpreter: whoever prepares the next tracks may keep it
# for as long as this, by default 5 ms.
SWITCH_INTERVAL_S = 5e-5


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
        sys.setswitchinterval(SWITCH_INTERVAL_S)
        watch_card()
    moved = choice.fallback(stage)
    return choice.device, [moved] if moved else []


def card() -> tuple[int, str]:
    """Memory of the card that this process would use, bytes, and why it would use none: 0 then."""
    import torch

    from pipeline.models.device import pick_device

    choice = pick_device("auto")
    if choice.device == "cpu":
        return 0, choice.reason
    return torch.cuda.get_device_properties(0).total_memory, ""


def limit_gpu_memory(device: str, memory: MemoryProbe) -> float | None:
    """Hold this process to its part of the card's budget.

    Returns:
        the fraction of the card that it may use: ``hardware.gpu_memory_fraction`` times its 1/n; None where it
        is no worker with a share of a GPU, or the allocator knows no limits.
    """
    fraction = _Gpu.fraction or _actors_fraction()
    if fraction is None:
        return None
    try:
        memory.limit(device, fraction)
    except (RuntimeError, AttributeError) as error:  # an allocator of another make
        log.warning("this process is not held to %.1f %% of %s: %s", 100 * fraction, device, error)
        return None
    return fraction


def hold_gpu_memory(fraction: float) -> None:
    """Say which part of a card this process may use, where no Ray says it."""
    _Gpu.fraction = fraction


def _actors_fraction() -> float | None:
    """The same of an actor of Ray."""
    if not _is_actor():
        return None
    import ray
    from ray.data import DataContext

    share = ray.get_runtime_context().get_assigned_resources().get("GPU", 0.0)
    budget = DataContext.get_current().get_config(GPU_MEMORY_FRACTION)
    return budget * min(1.0, share) if share and budget is not None else None


def peak_rss_bytes() -> int:
    """Peak resident memory of this process, pages shared with Ray's object store included."""
    status = Path("/proc/self/status")
    for line in status.read_text().splitlines() if status.exists() else ():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


@dataclass
class _Starting:
    """When this process could take work, Unix time, and the seconds that starting took: 0 where nobody said."""

    ready_at: float | None = None
    seconds: float = 0.0


_starting = _Starting()
# A worker that Ray had started ahead has waited for its stage; longer than this is no import.
_LONGEST_START_S = 120.0
_LOADED_AT = time.time()


def note_ready() -> None:
    """This process has made its stage and can take work: imports, weights and what it warmed up are behind it."""
    now = time.time()
    born = now - (age_s() or 0.0)
    began = born if _LOADED_AT - born < _LONGEST_START_S else _LOADED_AT
    _starting.ready_at, _starting.seconds = now, now - began
    if _Gpu.watch is not None:
        _Gpu.watch.restart()


def note_started(seconds: float) -> None:
    """Something that a stage needs had to be started again, a child for example: that is no work on a file either."""
    _starting.seconds += seconds


def age_s() -> float | None:
    """Seconds since the system started this process; None where it does not say."""
    try:
        ticks = int(Path("/proc/self/stat").read_text().rsplit(")", 1)[1].split()[19])
        up = float(Path("/proc/uptime").read_text().split()[0])
    except (OSError, ValueError, IndexError):
        return None
    return max(0.0, up - ticks / os.sysconf("SC_CLK_TCK"))


class _Ending:
    """Whether this process is one of those that work for a driver, which goes on without it."""

    allowed = False


def allow_end() -> None:
    """Say that this process may end at any time: whoever started it begins another one."""
    _Ending.allowed = True


def may_end() -> bool:
    """Whether `allow_end` was said of this process, or it is an actor of Ray."""
    return _Ending.allowed or _is_actor()


def _is_actor() -> bool:
    ray = sys.modules.get("ray")
    return bool(
        ray is not None and ray.is_initialized() and ray.get_runtime_context().get_actor_id() is not None
    )


class _Gpu:
    """Of this process: its part of a card, who watches that, and what its stage says of its time on it."""

    fraction: float | None = None
    watch: CardWatch | None = None
    figures: dict[str, Any] = {}  # noqa: RUF012  one process, one stage


def watch_card() -> None:
    """Begin to watch how busy this process's card is, where its driver says so; once."""
    if _Gpu.watch is None:
        found = open_watch()
        _Gpu.watch = found and found.start()


def note_extra(figures: Mapping[str, Any]) -> None:
    """Say more of this process in its notes from now on; figures of the same name take the place of earlier ones.

    A stage on a GPU says, in seconds since it began: ``device_s``, in which the card had work of this process in
    flight; ``host_s``, in which it had none while the stage prepared some; ``starved_s``, in which there was nothing
    to prepare either, because earlier stages had sent nothing.
    """
    _Gpu.figures.update(figures)


def process_facts(stage: str) -> dict[str, Any]:
    """This process: node, pid, the stage it runs, its peak memory, what starting it took, its card and `note_extra`."""
    return {
        "stage": stage,
        "node": NODE,
        "pid": os.getpid(),
        "peak_rss_bytes": peak_rss_bytes(),
        "startup_s": _starting.seconds,
        "ready_at": _starting.ready_at,
        **_Gpu.figures,
        **({"card": asdict(seen)} if _Gpu.watch is not None and (seen := _Gpu.watch.use()) else {}),
    }


def process_note(stage: str) -> str:
    """`process_facts` as JSON."""
    return json.dumps(process_facts(stage))
