"""Running a network over many items in batches that fit memory, and going on when they did not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch

from pipeline.errors import Fallback
from pipeline.models.device import is_out_of_memory
from pipeline.models.memory import MemoryProbe, TorchMemory

Item = TypeVar("Item")
Result = TypeVar("Result")

OUT_OF_MEMORY = "out of memory"
# Room for the difference between what was measured and the next batch: fragments, workspaces of other kernels.
MARGIN = 0.9


@dataclass
class Fit:
    """What this process has learned about one network on one device in one precision.

    Args:
        item_bytes: peak bytes per item of a batch; None until a batch of two or more was measured.
        limit: largest batch that memory has not refused yet; None while it refused none.
    """

    item_bytes: int | None = None
    limit: int | None = None


FITS: dict[tuple[Hashable, str], Fit] = {}
"""What this process has learned, by network and device; without an entry it measures afresh."""


class BatchRunner(Generic[Item, Result]):
    """Runs a network over items in batches that fit memory.

    On a GPU each batch is cut to what is free there just before it, within this process's share of the card.
    What an item takes is measured once per ``key`` and device in a process: the very first item runs alone, so
    that kernels and workspaces are there, the next two together, and their peak is the measure (nothing runs
    twice). Call `run` with three items in a stage's ``warm_up`` and no track sees the small batches.

    Where memory runs out all the same, the cache is emptied and the batch halved, down to one item; on a GPU
    that item then goes to the CPU. What still fails raises the error of the last attempt. Any other error is
    the caller's and leaves `run` at once, untouched, and so does ``torch.AcceleratorError``, whatever it says:
    after it the GPU context is lost.

    Usage::

        runner = BatchRunner("clap", self._forward, device, max_items=16, key=(info.model_id, "bfloat16"))
        embeddings = runner.run(clips)
        for track in tracks:
            track.fallbacks.extend(steps)          # with steps = runner.take_fallbacks()

    Args:
        stage: names the fallbacks: ``clap``, ``separation``.
        forward: ``(items, device) -> results``, one result per item, in order. On a GPU it may return before the
            device is done, and leave results there, which count against the next batch. It moves its inputs to
            ``device`` itself. It is called with
            ``cpu`` although the runner's device is a GPU only as the last resort, one item at a time: it then
            needs the network on the CPU too (`pipeline.models.model_cache`). What an item gives must not
            depend on the batch it is in, beyond float tolerance. Time and count batches in here.
        device: where it runs, ``cpu`` or ``cuda``.
        max_items: the wanted batch size, an upper bound.
        key: what else decides how much memory an item takes: model, precision, length of an item. Items under
            one key are of equal size. None shares nothing with other runners.
        memory: what is free; by default torch's answer.

    Raises:
        ValueError: ``max_items`` is below 1.
    """

    def __init__(
        self,
        stage: str,
        forward: Callable[[Sequence[Item], str], Sequence[Result]],
        device: str,
        max_items: int,
        *,
        key: Hashable = None,
        memory: MemoryProbe | None = None,
    ) -> None:
        if max_items < 1:
            raise ValueError(f"a batch holds at least one item, got {max_items}")
        self.stage = stage
        self.forward = forward
        self.device = device
        self.max_items = max_items
        self.memory = TorchMemory() if memory is None else memory
        self.oom_halvings = 0
        self.oom_cpu_items = 0
        self._fit = Fit() if key is None else FITS.setdefault((key, device), Fit())
        self._ran_before = False
        self._steps: Counter[tuple[str, str, str]] = Counter()

    @property
    def on_gpu(self) -> bool:
        """Whether there is a CPU to fall back to."""
        return torch.device(self.device).type != "cpu"

    @property
    def batch_items(self) -> int:
        """The limit in force: ``max_items``, lowered for good by every batch that memory refused."""
        return self.max_items if self._fit.limit is None else min(self.max_items, self._fit.limit)

    def run(self, items: Sequence[Item]) -> list[Result]:
        """The results of ``items``, in order.

        Raises:
            torch.OutOfMemoryError, MemoryError, RuntimeError: one item alone does not fit, on the CPU neither
                (`pipeline.models.device.is_out_of_memory`).
            torch.AcceleratorError: the GPU failed; the process cannot go on using it.
            ValueError: ``forward`` gave another number of results than it got items.
        """
        results: list[Result] = []
        while len(results) < len(items):
            size = self._next_size(len(items) - len(results))
            batch = items[len(results) : len(results) + size]
            done = self._attempt(batch)
            # Out here, because the exception's traceback held on to the tensors of the failed attempt.
            if done is None:
                self.memory.release(self.device)
                done = self._step_down(batch)
            results.extend(done)
        return results

    def take_fallbacks(self) -> list[Fallback]:
        """The steps since the last call, each kind once, with how often it was taken in its reason."""
        steps, self._steps = self._steps, Counter()
        return [
            Fallback(self.stage, wanted, used, reason if count == 1 else f"{reason}, {count} times")
            for (wanted, used, reason), count in steps.items()
        ]

    def _next_size(self, left: int) -> int:
        wanted = min(self.batch_items, left)
        available = self.memory.available(self.device)
        if available is None:
            return wanted
        if self._fit.item_bytes is None:  # unmeasured: one to warm up, then two to measure
            return min(wanted, 2 if self._ran_before else 1)
        fitting = max(1, int(MARGIN * available) // max(1, self._fit.item_bytes))
        if fitting < wanted:
            self._record(f"batches of {wanted}", f"batches of {fitting}", "too little free GPU memory")
        return min(wanted, fitting)

    def _attempt(self, batch: Sequence[Item]) -> Sequence[Result] | None:
        """The results, or None if memory ran out and something is left to try."""
        measuring = self._fit.item_bytes is None and self.on_gpu
        if measuring:
            self.memory.start(self.device)
        try:
            results = self._forward(batch, self.device)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error) or (len(batch) == 1 and not self.on_gpu):
                raise
            return None
        if measuring and self._ran_before and len(batch) > 1:
            self._fit.item_bytes = -(-self.memory.peak(self.device) // len(batch))
        self._ran_before = True
        return results

    def _step_down(self, batch: Sequence[Item]) -> Sequence[Result]:
        """After an attempt that did not fit: lower the limit, or run the one item on the CPU."""
        if len(batch) > 1:
            half = len(batch) // 2
            self.oom_halvings += 1
            self._fit.limit = half
            self._record(f"batches of {len(batch)}", f"batches of {half}", OUT_OF_MEMORY)
            return []
        self.oom_cpu_items += 1
        self._record(self.device, "cpu", f"{OUT_OF_MEMORY} with a single item")
        return self._forward(batch, "cpu")

    def _forward(self, batch: Sequence[Item], device: str) -> Sequence[Result]:
        results = self.forward(batch, device)
        if len(results) != len(batch):
            raise ValueError(f"{self.stage}: {len(results)} results for a batch of {len(batch)}")
        return results

    def _record(self, wanted: str, used: str, reason: str) -> None:
        self._steps[wanted, used, reason] += 1
