"""What LLVM makes of the inner loops: the same as torch and numpy without it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pipeline.dsp import compiled, median, stft
from pipeline.dsp import transpose as layout
from pipeline.dsp.compiled import LANES, Kernel

pytest.importorskip("llvmlite")


@pytest.mark.parametrize("shape", [(8, 8), (8, 17), (9, 8), (100, 1025), (1025, 33), (1, 5), (7, 40), (0, 9)])
def test_transposed_is_the_transposition(shape):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    for view in (x, x[:, 1:], x[::2], x.T):
        result = layout.transposed(view)
        assert result.is_contiguous()
        assert torch.equal(result, view.T)


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (2, 4), (3, 1025)])
def test_squared_magnitude_is_that_of_torch(shape):
    spectrum = torch.randn(shape, dtype=torch.complex64, generator=torch.Generator().manual_seed(2))
    result = stft.squared_magnitude(spectrum, torch.full(shape, np.nan))
    torch.testing.assert_close(result, spectrum.abs().square(), rtol=1e-6, atol=0.0)


@pytest.mark.parametrize("columns", [LANES, LANES + 1, 3 * LANES])
@pytest.mark.parametrize("size", [1, 2, 30, 31])
def test_compiled_medians_have_the_bits_of_numpy(size, columns):
    network = median.median_network(size)
    x = torch.randn((network.padded_length(50), columns + 3), generator=torch.Generator().manual_seed(3))
    x[::5] = 1e-42  # denormal
    expected = median._run(network, x.numpy())
    chosen = median.row_medians(x[:, 3:], torch.arange(len(x)), size)
    np.testing.assert_array_equal(chosen.numpy(), expected[:, 3:])
    assert median._compiled_network(size) is not None


def test_a_loop_carries_values_and_runs_at_least_once():
    def write(kernel: Kernel) -> None:
        numbers, stop = kernel.arguments
        zero = kernel.load(numbers, kernel.index(0))
        step = kernel.load(numbers, kernel.index(LANES))
        (total,) = kernel.repeat(stop, 2, lambda _, total: [kernel.build.fadd(total, step)], [zero])
        kernel.store(total, numbers, kernel.index(0))

    add = compiled.compiled(write, pointers=1, integers=1)
    for stop, times in ((0, 1), (1, 1), (2, 1), (3, 2), (8, 4)):
        numbers = np.repeat(np.float32([1.0, 10.0]), LANES)
        add(numbers.ctypes.data, stop)
        np.testing.assert_array_equal(numbers[:LANES], 1.0 + 10.0 * times)


def test_without_llvmlite_there_is_nothing_compiled(monkeypatch):
    monkeypatch.setattr(compiled, "_target", lambda: None)
    assert compiled.compiled(lambda kernel: None, pointers=0, integers=0) is None
