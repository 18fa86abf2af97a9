import subprocess
import sys

import pytest
import torch

from pipeline.errors import Fallback, UserError
from pipeline.models.device import DeviceChoice, bf16_supported, is_out_of_memory, pick_device, set_threads


def test_auto_takes_a_device_that_runs_and_says_why():
    choice = pick_device()
    assert choice.device == ("cuda" if torch.cuda.is_available() else "cpu")
    assert choice.reason
    assert choice.fallback("clap") is None
    assert torch.zeros(2, device=choice.device).sum().item() == 0


def test_cpu_is_never_a_fallback_when_asked_for():
    assert pick_device("cpu").fallback("clap") is None


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_cuda_without_a_gpu_is_a_recorded_fallback():
    choice = pick_device("cuda")
    assert choice == DeviceChoice("cpu", "cuda", "no CUDA device is visible to this process")
    assert choice.fallback("clap") == Fallback("clap", "cuda", "cpu", choice.reason)


def test_an_unknown_device_is_refused_in_one_line():
    with pytest.raises(UserError, match="device 'tpu' is unknown: use one of auto, cpu, cuda"):
        pick_device("tpu")


def test_threads_can_be_set_before_and_after_parallel_work():
    code = """
import torch
from pipeline.models.device import Threads, set_threads
assert set_threads(2) == Threads(2, 1)
torch.ones(512, 512) @ torch.ones(512, 512)
assert set_threads(1) == Threads(1, 1)
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_threads_between_operators_that_cannot_change_any_more_are_reported():
    code = """
import torch
from pipeline.models.device import Threads, set_threads
torch.set_num_interop_threads(3)
torch.jit.wait(torch.jit.fork(torch.ones, 2))
assert set_threads(1) == Threads(1, 3)
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_no_threads_are_refused():
    with pytest.raises(ValueError, match="at least 1"):
        set_threads(0)


def test_bf16_probe_agrees_with_autocast():
    x = torch.randn(16, 16)
    with torch.autocast("cpu", torch.bfloat16):
        assert bf16_supported("cpu") == ((x @ x).dtype == torch.bfloat16)


def test_real_allocation_failures_are_out_of_memory_and_others_are_not():
    with pytest.raises(RuntimeError) as failure:
        torch.empty(1 << 60, dtype=torch.uint8)
    assert is_out_of_memory(failure.value)
    assert is_out_of_memory(MemoryError())
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory"))
    with pytest.raises(RuntimeError) as other:
        torch.zeros(2) @ torch.zeros(3)
    assert not is_out_of_memory(other.value)
