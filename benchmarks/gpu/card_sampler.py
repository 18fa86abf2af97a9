"""How busy the card was while something else ran: samples of its utilisation, by NVML or by nvidia-smi."""

from __future__ import annotations

import contextlib
import subprocess
import threading
import time
from typing import Any

INTERVAL_S = 0.2


class CardSampler:
    """A context in which the first card is looked at every 0.2 s; without a card or driver it samples nothing.

    Attributes:
        samples: of seconds since the start, share of time with a kernel running 0..1, and bytes in use.
    """

    def __init__(self) -> None:
        self.samples: list[tuple[float, float, int]] = []
        self._started = 0.0
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._process: subprocess.Popen | None = None

    def __enter__(self) -> CardSampler:
        self._started = time.perf_counter()
        target = self._by_nvml if _nvml() is not None else self._by_nvidia_smi
        self._thread = threading.Thread(target=target, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        if self._process is not None:
            self._process.terminate()
        self._thread.join(5)

    def _note(self, share: float, used: int) -> None:
        self.samples.append((time.perf_counter() - self._started, share, used))

    def _by_nvml(self) -> None:
        nvml = _nvml()
        # A driver that does not say ends the samples, and not what is measured.
        with contextlib.suppress(Exception):
            handle = nvml.nvmlDeviceGetHandleByIndex(0)
            while not self._stop.wait(INTERVAL_S):
                used = nvml.nvmlDeviceGetMemoryInfo(handle).used
                self._note(nvml.nvmlDeviceGetUtilizationRates(handle).gpu / 100, used)

    def _by_nvidia_smi(self) -> None:
        command = [
            "nvidia-smi",
            "--id=0",
            "--query-gpu=utilization.gpu,memory.used",
            "--format=csv,noheader,nounits",
        ]
        command.append(f"--loop-ms={int(1000 * INTERVAL_S)}")
        with contextlib.suppress(OSError, ValueError):
            self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)  # noqa: S603
            for line in self._process.stdout:
                share, used = line.split(",")
                self._note(float(share) / 100, int(used) << 20)

    def summary(self) -> dict[str, Any]:
        """Mean share of all the time and of that between the first and last kernel; most memory. Empty without."""
        busy = [place for place, (_, share, _) in enumerate(self.samples) if share > 0]
        if not busy:
            return {}
        used = self.samples[busy[0] : busy[-1] + 1]
        return {
            "busy_share_of_shell": round(sum(s for _, s, _ in self.samples) / len(self.samples), 3),
            "busy_share_while_used": round(sum(s for _, s, _ in used) / len(used), 3),
            "used_for_s": round(used[-1][0] - used[0][0], 1),
            "card_memory_bytes": max(m for _, _, m in self.samples),
        }


def _nvml() -> Any:
    try:
        import pynvml

        pynvml.nvmlInit()
    except Exception:  # noqa: BLE001  neither the package nor the driver need be there
        return None
    return pynvml
