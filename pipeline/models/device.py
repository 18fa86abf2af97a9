"""Which device a network runs on, with how many threads, and what that device can do."""

from __future__ import annotations

import functools
import logging
from dataclasses import dataclass

from pipeline.errors import Fallback, UserError
from pipeline.late import torch

log = logging.getLogger(__name__)

DEVICES = ("auto", "cpu", "cuda")


@dataclass(frozen=True)
class DeviceChoice:
    """A device and why it was taken.

    Args:
        device: ``cuda`` or ``cpu``.
        wanted: what was asked for, one of `DEVICES`.
        reason: one line.
    """

    device: str
    wanted: str
    reason: str

    def fallback(self, stage: str) -> Fallback | None:
        """The step away from what was asked for, or None. ``auto`` asks for nothing in particular."""
        if self.wanted in ("auto", self.device):
            return None
        return Fallback(stage, self.wanted, self.device, self.reason)


def pick_device(wanted: str = "auto") -> DeviceChoice:
    """Choose the device of this process.

    A CUDA device counts only if a kernel really runs on it: a driver that is too old, or a build without code
    for the card, passes ``torch.cuda.is_available`` and fails at the first launch.

    Args:
        wanted: one of `DEVICES`.

    Raises:
        UserError: ``wanted`` is not one of `DEVICES`.
    """
    if wanted not in DEVICES:
        raise UserError(f"device {wanted!r} is unknown: use one of {', '.join(DEVICES)}")
    if wanted == "cpu":
        return DeviceChoice("cpu", wanted, "asked for")
    problem = _cuda_problem()
    if problem is None:
        return DeviceChoice("cuda", wanted, torch.cuda.get_device_name())
    return DeviceChoice("cpu", wanted, problem)


@functools.cache
def _cuda_problem() -> str | None:
    if not torch.cuda.is_available():
        return "no CUDA device is visible to this process"
    try:
        torch.ones(8, device="cuda").sum().item()
    except RuntimeError as error:
        return f"the CUDA device does not run: {str(error).splitlines()[0]}"
    return None


@dataclass(frozen=True)
class Threads:
    """The thread counts in force: inside one operator, and between operators."""

    intra_op: int
    inter_op: int


def set_threads(n: int) -> Threads:
    """Give torch ``n`` threads inside an operator and one between operators.

    Eager networks run one operator after the other, so threads between operators would only compete with
    those inside. Torch fixes that second number once, before the first parallel work of the process; when it
    is too late it stays as it was, which the result shows.

    Args:
        n: at least 1.

    Returns:
        the counts in force afterwards.

    Raises:
        ValueError: ``n`` is below 1.
    """
    if n < 1:
        raise ValueError(f"threads must be at least 1, got {n}")
    torch.set_num_threads(n)
    if torch.get_num_interop_threads() != 1:
        try:
            torch.set_num_interop_threads(1)
        except RuntimeError as error:
            log.debug("threads between operators stay at %d: %s", torch.get_num_interop_threads(), error)
    return Threads(torch.get_num_threads(), torch.get_num_interop_threads())


@functools.cache
def bf16_supported(device: str) -> bool:
    """Whether bfloat16 autocast runs on ``device`` and gives right numbers, found out by trying it.

    CUDA cards older than Ampere only emulate bfloat16, more slowly than float32: they do not count.
    """
    if device.startswith("cuda") and not torch.cuda.is_bf16_supported(including_emulation=False):
        return False
    x = torch.linspace(-1, 1, 64 * 64).reshape(64, 64)
    try:
        y = x.to(device)
        with torch.inference_mode(), torch.autocast(torch.device(device).type, torch.bfloat16):
            product = torch.nn.functional.linear(y, y)
    except RuntimeError as error:
        log.debug("bfloat16 on %s: %s", device, error)
        return False
    exact = x @ x.T
    # bfloat16 keeps 8 bits; the sums have 64 terms.
    close = (product.float().cpu() - exact).abs().max() <= 2.0**-5 * exact.abs().max()
    return product.dtype == torch.bfloat16 and bool(close)


# What libraries below torch say when an allocation of their own failed; torch passes it on as a RuntimeError.
_ALLOCATION_FAILED = (
    "DefaultCPUAllocator",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
    "CUFFT_ALLOC_FAILED",
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether ``error`` says that memory ran out, on a GPU or on the host, and less of it may do.

    Torch's CPU allocator and CUDA's libraries end in a plain ``RuntimeError``; only its text tells. A
    ``torch.AcceleratorError`` never counts: the GPU context is lost, so nothing can be tried again.
    """
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    if not isinstance(error, RuntimeError) or isinstance(error, torch.AcceleratorError):
        return False
    return any(sign in str(error) for sign in _ALLOCATION_FAILED)
