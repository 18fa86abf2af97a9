"""How busy this process's card is: a thread asks its driver a few times a second.

The driver's answer (NVML, through the package nvidia-ml-py) is the share of the last moments in which any kernel ran on
the card, whoever had started it. Without the package, a driver or a card there is no answer, and nothing is said.
"""

from __future__ import annotations

import threading
import time
from contextlib import suppress
from dataclasses import KW_ONLY, dataclass
from typing import Any

INTERVAL_S = 0.2


@dataclass(frozen=True)
class CardUse:
    """What was seen of a card.

    Args:
        card: its UUID.
        name: its model.
        busy_share: mean of the samples, 0..1.
        samples: how many.
        seconds: from the first to the last.
        memory_bytes: most that all processes on it had together.
        memory_total_bytes: of the card.
    """

    card: str
    name: str
    busy_share: float
    samples: int
    seconds: float
    _: KW_ONLY
    memory_bytes: int
    memory_total_bytes: int


class CardWatch:
    """Samples of one card, from `start` on, in a thread that ends with the process.

    Args:
        nvml: the module ``pynvml``, initialised.
        handle: of the card.
        interval_s: between two samples.

    Raises:
        Exception: the driver's, where it does not know the card.
    """

    def __init__(self, nvml: Any, handle: Any, interval_s: float = INTERVAL_S) -> None:
        self._nvml, self._handle, self._interval_s = nvml, handle, interval_s
        self._card, self._name = (
            _text(ask(handle)) for ask in (nvml.nvmlDeviceGetUUID, nvml.nvmlDeviceGetName)
        )
        self._total = int(nvml.nvmlDeviceGetMemoryInfo(handle).total)
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self.restart()

    def restart(self) -> None:
        """Forget what was seen so far."""
        with self._lock:
            self._sum, self._samples, self._memory = 0.0, 0, 0
            self._first = self._last = time.monotonic()

    def start(self) -> CardWatch:
        """Begin to look."""
        self._thread = threading.Thread(target=self._look, name="card-watch", daemon=True)
        self._thread.start()
        return self

    def stop(self) -> None:
        """Look no more; what was seen stays."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(5)

    def use(self) -> CardUse | None:
        """What was seen so far; None before the first sample."""
        with self._lock:
            if not self._samples:
                return None
            return CardUse(
                self._card,
                self._name,
                self._sum / self._samples,
                self._samples,
                self._last - self._first,
                memory_bytes=self._memory,
                memory_total_bytes=self._total,
            )

    def _look(self) -> None:
        # A driver that stops answering ends the watch, and nothing else.
        with suppress(Exception):
            while not self._stop.wait(self._interval_s):
                share = self._nvml.nvmlDeviceGetUtilizationRates(self._handle).gpu / 100
                used = int(self._nvml.nvmlDeviceGetMemoryInfo(self._handle).used)
                with self._lock:
                    self._sum, self._samples = self._sum + share, self._samples + 1
                    self._memory, self._last = max(self._memory, used), time.monotonic()


def open_watch(nvml: Any = None) -> CardWatch | None:
    """A watch of torch's current CUDA device, not started; None where nobody knows of it.

    Args:
        nvml: in place of the module ``pynvml``, for tests.
    """
    try:
        import torch

        if nvml is None:
            import pynvml as nvml

        properties = torch.cuda.get_device_properties(torch.cuda.current_device())
        nvml.nvmlInit()
        return CardWatch(nvml, _handle(nvml, properties))
    except Exception:  # noqa: BLE001  no package, no driver, another driver's errors: the run goes on without
        return None


def _handle(nvml: Any, properties: Any) -> Any:
    """By UUID, which the environment cannot renumber; by its place on the bus where that is not known."""
    with suppress(Exception):
        return nvml.nvmlDeviceGetHandleByUUID(f"GPU-{str(properties.uuid).removeprefix('GPU-')}".encode())
    place = f"{properties.pci_domain_id:08X}:{properties.pci_bus_id:02X}:{properties.pci_device_id:02X}.0"
    return nvml.nvmlDeviceGetHandleByPciBusId(place.encode())


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
