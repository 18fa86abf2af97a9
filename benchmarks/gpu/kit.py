"""What the steps share: rows, clocks that wait for the card, memory peaks, and the project that is measured."""

from __future__ import annotations

import importlib.util
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass, field
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
STAND_INS = HERE / "stand_ins"


def use_project(project: Path) -> None:
    """Import ``pipeline``, and the references of its tests, from this checkout; stand in for a missing PyAV."""
    # Revisions of before had the references beside the tests of models.
    references = [str(project / "tests"), str(project / "tests" / "models")]
    paths = [str(project), *references, str(project / "benchmarks")]
    if importlib.util.find_spec("av") is None:
        paths.append(str(STAND_INS))
    sys.path[:0] = [path for path in paths if path not in sys.path]


def child_environment(project: Path) -> dict[str, str]:
    """The environment of a process that imports the project by itself."""
    paths = [str(project)]
    if importlib.util.find_spec("av") is None or "stand_ins" in str(importlib.util.find_spec("av").origin):
        paths.append(str(STAND_INS))
    paths += filter(None, [os.environ.get("PYTHONPATH")])
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(paths),
        "HF_HUB_OFFLINE": "1",
        "PYTHONUNBUFFERED": "1",
    }


def revision(project: Path) -> str:
    """The commit of a checkout, with ``+`` where files differ from it; ``unknown`` where git cannot tell."""
    try:
        run = lambda *words: subprocess.run(  # noqa: E731, S603
            ["git", "-C", str(project), *words],  # noqa: S607
            capture_output=True,
            text=True,
            check=True,
            timeout=20,
        ).stdout.strip()
        return run("rev-parse", "--short", "HEAD") + ("+" if run("status", "--porcelain") else "")
    except (OSError, subprocess.SubprocessError):
        return "unknown"


@dataclass
class Kit:
    """One step's tools.

    Args:
        step: its name.
        device: ``cuda`` or ``cpu``.
        out: folder for logs.
        scratch: folder for random weights and the corpus; gone after the last step.
        project: the checkout that is measured.
        music: folder of songs; None synthesises.
        hardware: the job's ``hardware=``.
        until: `time.monotonic` at which the step must be done.
        say: takes a row.
    """

    step: str
    device: str
    out: Path
    scratch: Path
    project: Path
    _: KW_ONLY
    music: Path | None
    hardware: str
    until: float
    say: Callable[[dict[str, Any]], None]
    _peaks: dict[Any, float] = field(default_factory=dict)

    @property
    def cuda(self) -> bool:
        """Whether there is a card to wait for."""
        return self.device == "cuda"

    @property
    def small(self) -> bool:
        """A rehearsal: networks and audio as small as they get. Its figures mean nothing."""
        return not self.cuda

    def left(self) -> float:
        """Seconds until the step must be done."""
        return self.until - time.monotonic()

    def emit(self, what: str, **figures: Any) -> None:
        """A row of results."""
        self.say({"what": what, **figures})

    def attempt(self, what: str, work: Callable[[], None], needs_s: float = 1.0) -> None:
        """Part of a step: an error becomes a row, and the parts after it go on. Skipped where time is too short.

        Raises:
            torch.AcceleratorError: the card failed; this process cannot go on using it.
        """
        import torch

        if self.left() < needs_s:
            self.emit(what, skipped=f"{needs_s:.0f} s needed, {self.left():.0f} s left")
            return
        try:
            work()
        except torch.AcceleratorError:
            raise
        except Exception as error:  # noqa: BLE001  one part's trouble must not cost the others
            import traceback

            traceback.print_exc()
            self.emit(what, error=f"{type(error).__name__}: {str(error)[:300]}")
        self.free()

    def sync(self) -> None:
        """Wait until the card has done everything."""
        if self.cuda:
            import torch

            torch.cuda.synchronize()

    def free(self) -> None:
        """Give back what the allocator has cached."""
        if self.cuda:
            import gc

            import torch

            gc.collect()
            torch.cuda.empty_cache()

    def seconds(self, work: Callable[[], object], repeats: int = 9, warm: int = 3) -> float:
        """Median wall seconds of ``work``, the card's included."""
        repeats, warm = (1, 1) if self.small else (repeats, warm)
        for _ in range(warm):
            work()
        taken = []
        for _ in range(repeats):
            self.sync()
            started = time.perf_counter()
            work()
            self.sync()
            taken.append(time.perf_counter() - started)
        return statistics.median(taken)

    def once(self, work: Callable[[], Any]) -> tuple[float, Any]:
        """Wall seconds of one run, and what it gave."""
        self.sync()
        started = time.perf_counter()
        result = work()
        self.sync()
        return time.perf_counter() - started, result

    def reset_peak(self) -> None:
        """Count the peak of allocated memory from here."""
        if self.cuda:
            import torch

            torch.cuda.reset_peak_memory_stats()

    def peak_bytes(self) -> int | None:
        """Most memory that tensors took since `reset_peak`; None without a card."""
        if not self.cuda:
            return None
        import torch

        return torch.cuda.max_memory_allocated()

    def matmul_flops(self, dtype: Any = None, tf32: bool = False) -> float:
        """FLOP/s of a large square matrix product, measured once per format."""
        import torch

        dtype = dtype or torch.bfloat16
        if (dtype, tf32) not in self._peaks:
            n = 256 if self.small else 8192
            a, b = (torch.randn(n, n, device=self.device, dtype=dtype) for _ in range(2))
            allow_tf32(tf32)
            self._peaks[dtype, tf32] = 2 * n**3 / self.seconds(lambda: a @ b, 15, 5)
            allow_tf32(False)
        return self._peaks[dtype, tf32]


def allow_tf32(allowed: bool) -> None:
    """Whether float32 products may round their inputs to 10 bits."""
    import torch

    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = allowed
