"""The first layer of musicnn: filters over the spectrogram, each keeping its largest answer over all bands."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from pipeline.models.tags.front_end import N_MELS

_BINS = N_MELS // 2 + 1
# Frames at a time, so that what lies between the two products of `TimbralFilters` stays in a core's cache.
_FRAMES = 32
# Frames that `TemporalFilters` answers to with one product: more of them, and more of the matrix is zero.
_TOGETHER = 16


class Affine(NamedTuple):
    """A batch norm at work: ``x * scale + shift``, float32 ``[channels]`` each."""

    scale: Tensor
    shift: Tensor


class Filters(nn.Module):
    """Filters of one size, their largest answers over all bands: convolution, ReLU, batch norm, maximum.

    The bias, the ReLU and the batch norm come after the maximum, on a hundredth of the numbers: they do not change
    which answer is the largest, but that a batch norm with a negative factor makes it the smallest, whose filter is
    therefore negated.

    Args:
        kernel: float32 ``[filters, 1, frames, bands]``.
        bias: ``[filters]``.
        norm: what follows the ReLU.

    Shape: ``[batch, 1, frames, 96]`` → ``[batch, filters, frames]``.
    """

    def __init__(self, kernel: Tensor, bias: Tensor, norm: Affine) -> None:
        super().__init__()
        sign = torch.where(norm.scale < 0, -1.0, 1.0)
        self.register_buffer("kernel", kernel * sign[:, None, None, None])
        self.register_buffer("sign", sign[:, None])
        self.register_buffer("bias", bias[:, None])
        self.register_buffer("scale", norm.scale[:, None])
        self.register_buffer("shift", norm.shift[:, None])
        frames = kernel.shape[2]
        # TensorFlow's "same" pads one more at the end than at the start.
        self.padding = (0, 0, (frames - 1) // 2, frames // 2)

    def forward(self, x: Tensor) -> Tensor:
        largest = self.largest(functional.pad(x, self.padding)).float()
        return functional.relu(largest * self.sign + self.bias) * self.scale + self.shift

    def largest(self, x: Tensor) -> Tensor:
        """The largest answer of each filter to each frame of what is padded: ``[batch, filters, frames]``."""
        return functional.conv2d(x, self.kernel).amax(dim=3)


class TimbralFilters(Filters):
    """Filters over many bands. On a CPU they work on the discrete Fourier transform along the bands.

    There a filter is a product for each of 49 bins and 7 frames, and what takes the time is one transform back for each
    filter and frame, of which only the answers that count are computed: 2 to 3 times fewer multiplications than by
    convolution, in matrix products. No answer wraps around: filter and answers together have 96 bands.
    """

    def __init__(self, kernel: Tensor, bias: Tensor, norm: Affine) -> None:
        super().__init__(kernel, bias, norm)
        filters, _, frames, bands = kernel.shape
        self.register_buffer("spectrum_of", _parts(torch.fft.rfft(torch.eye(N_MELS, dtype=torch.float64))))
        bins = torch.fft.rfft(self.kernel[:, 0].double(), n=N_MELS).conj()  # [filters, frames, bins]
        real = torch.stack([bins.real, -bins.imag], dim=2)
        imaginary = torch.stack([bins.imag, bins.real], dim=2)
        for name, part in (("real", real), ("imaginary", imaginary)):
            by_bin = part.permute(3, 1, 2, 0).reshape(_BINS, 2 * frames, filters)
            self.register_buffer(name, by_bin.float().contiguous())
        answers = N_MELS - bands + 1
        units = torch.eye(_BINS, dtype=torch.complex128)
        for name, unit in (("real_back", units), ("imaginary_back", 1j * units)):
            back = torch.fft.irfft(unit, n=N_MELS)[:, :answers]
            self.register_buffer(name, back.T.float().contiguous())

    def largest(self, x: Tensor) -> Tensor:
        if x.device.type != "cpu":
            return super().largest(x)
        filters, _, reach, _ = self.kernel.shape
        batch, frames = len(x), x.shape[2] - reach + 1
        spectra = (x[:, 0] @ self.spectrum_of).view(batch, -1, _BINS, 2)
        # Per bin, one row for each frame: both parts of the frames that a filter reaches.
        rows = spectra.unfold(1, reach, 1).permute(2, 0, 1, 4, 3).reshape(_BINS, batch * frames, 2 * reach)
        found = x.new_empty((batch * frames, filters))
        for start in range(0, batch * frames, _FRAMES):
            some = rows[:, start : start + _FRAMES]
            answers = self.real_back @ torch.bmm(some, self.real).view(_BINS, -1)
            answers.addmm_(self.imaginary_back, torch.bmm(some, self.imaginary).view(_BINS, -1))
            torch.amax(answers.view(-1, some.shape[1], filters), dim=0, out=found[start : start + _FRAMES])
        return found.view(batch, frames, filters).transpose(1, 2)


class TemporalFilters(Filters):
    """Filters over many frames of one band. On a CPU the answers to 16 frames are one matrix product, by a matrix that
    holds each filter 16 times, one frame further down each time: a convolution with one channel is slower."""

    def __init__(self, kernel: Tensor, bias: Tensor, norm: Affine) -> None:
        super().__init__(kernel, bias, norm)
        filters, _, reach, _ = kernel.shape
        shifted = kernel.new_zeros((reach + _TOGETHER - 1, _TOGETHER, filters))
        for frame in range(_TOGETHER):
            shifted[frame : frame + reach, frame] = self.kernel[:, 0, :, 0].T
        self.register_buffer("shifted", shifted.flatten(1))

    def largest(self, x: Tensor) -> Tensor:
        if x.device.type != "cpu":
            return super().largest(x)
        filters, _, reach, _ = self.kernel.shape
        batch, frames = len(x), x.shape[2] - reach + 1
        seen = len(self.shifted)
        bands = functional.pad(x[:, 0].transpose(1, 2), (0, _TOGETHER))
        found = x.new_empty((batch, -(-frames // _TOGETHER), _TOGETHER, filters))
        for number in range(found.shape[1]):
            some = bands[:, :, number * _TOGETHER : number * _TOGETHER + seen]
            answers = some.reshape(-1, seen) @ self.shifted
            found[:, number] = answers.view(batch, N_MELS, _TOGETHER, filters).amax(dim=1)
        return found.flatten(1, 2)[:, :frames].transpose(1, 2)


def _parts(spectrum: Tensor) -> Tensor:
    """Complex ``[rows, bins]`` → float32 ``[rows, 2 * bins]``, real and imaginary parts side by side."""
    return torch.view_as_real(spectrum).flatten(1).float()
