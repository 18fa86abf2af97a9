"""How much memory a device has left for this process, and how much of it a forward pass took."""

from __future__ import annotations

import gc
from typing import Protocol

import torch


class MemoryProbe(Protocol):
    """What `pipeline.models.batching.BatchRunner` asks about memory; a test can answer in its place."""

    def available(self, device: str) -> int | None:
        """Bytes that this process may still allocate on ``device``; None where nobody can say."""

    def limit(self, device: str, fraction: float) -> None:
        """Hold this process to ``fraction`` (0..1) of ``device``'s memory: what exceeds it is out of memory."""

    def start(self, device: str) -> None:
        """Begin to watch what is allocated on ``device``."""

    def peak(self, device: str) -> int:
        """Most bytes allocated at once since `start`, beyond what was allocated then."""

    def release(self, device: str) -> None:
        """Give back what no tensor uses, to this process and to the others on the card."""


class TorchMemory:
    """Torch's caching allocator and the driver behind it. Says nothing about the CPU, whose memory swaps."""

    def __init__(self) -> None:
        self._before = 0

    def available(self, device: str) -> int | None:
        """The lesser of what the card has free and what this process's share of it leaves."""
        if not device.startswith("cuda"):
            return None
        free, total = torch.cuda.mem_get_info(device)
        reserved, allocated = torch.cuda.memory_reserved(device), torch.cuda.memory_allocated(device)
        budget = int(total * torch.cuda.get_per_process_memory_fraction(_index(device)))
        # What the allocator holds and no tensor uses is ours already.
        return max(0, min(free + reserved, budget) - allocated)

    def limit(self, device: str, fraction: float) -> None:
        """Of tensors: the CUDA context and its libraries, some hundred MB per process, come on top."""
        torch.cuda.set_per_process_memory_fraction(fraction, _index(device))

    def start(self, device: str) -> None:
        torch.cuda.reset_peak_memory_stats(device)
        self._before = torch.cuda.memory_allocated(device)

    def peak(self, device: str) -> int:
        return torch.cuda.max_memory_allocated(device) - self._before

    def release(self, device: str) -> None:
        gc.collect()
        if device.startswith("cuda"):
            torch.cuda.empty_cache()


def _index(device: str) -> int:
    """Of the card: unlike its siblings, torch's functions for the fraction refuse a plain ``cuda``."""
    index = torch.device(device).index
    return torch.cuda.current_device() if index is None else index
