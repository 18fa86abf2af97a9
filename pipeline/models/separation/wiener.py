"""A multichannel Wiener filter for stereo, after one step of expectation maximisation, without a loop over frames.

Each target is a Gaussian with one spatial covariance matrix per bin, 2x2, constant for a stretch of frames, and one
power per bin and frame. Its matrix and its powers are taken from a first estimate, a mask times the mix, and from those
of all targets follows the filter. Source: Duong, Vincent, Gribonval 2010, "Under-determined reverberant audio source
separation using a full-rank spatial covariance model", IEEE TASLP 18(7); the approximate step is that of Nugraha,
Liutkus, Vincent 2016, "Multichannel audio source separation with deep neural networks", IEEE/ACM TASLP 24(9), as in
norbert and in ``openunmix.filtering.wiener``.

Sums, inverses and gains are in float64. In a mix whose channels are alike the matrix of the mix is singular but for its
regularisation, 1e-5 beside powers of up to 100 per unit of the squared masks: its determinant is lost in float32,
where a rounding error of the product of the diagonal is as large as itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

EPSILON = 1e-10  # smallest weight of a covariance, and the square of what is added to the mix's
LARGEST = 10.0  # magnitude to which louder stretches are scaled down


class _Spread(NamedTuple):
    """Power and spatial covariance, ``[[left, cross], [cross*, right]]``, of one target.

    Shape:
        - power: float64 ``[items, stretches, frames, bins]``
        - left, right: float64 ``[items, stretches, 1, bins]``
        - cross: the same in complex128
    """

    power: Tensor
    left: Tensor
    right: Tensor
    cross: Tensor


def wiener(mix: Tensor, masks: Iterable[Tensor], frames: int) -> Iterator[Tensor]:
    """The spectra of all targets, one after the other.

    Stretches of ``frames`` frames are filtered independently of each other, all at once; what is left over in the end
    is a shorter one. Nothing waits for the device.

    Args:
        mix: spectra of the mix, unnormalised: the regularisation counts on samples of ±1 and windows of some thousand.
        masks: of each target, >= 0: what the mix is multiplied by for a first estimate. Each is asked for once, before
            the first target comes out.
        frames: in a stretch, >= 1.

    Shape:
        - mix: complex64 ``[items, 2, frames, bins]``
        - masks: float32 ``[items, frames, 2, bins]`` each
        - yields: complex64 ``[items, 2, frames, bins]`` per target
    """
    total = mix.shape[2]
    whole = total - total % frames
    cuts = [cut for cut in (slice(0, whole), slice(whole, total)) if cut.stop > cut.start]
    parts = [_Part(mix[:, :, cut].unflatten(2, (-1, min(frames, cut.stop - cut.start)))) for cut in cuts]
    for mask in masks:
        for part, cut in zip(parts, cuts, strict=True):
            part.add(mask[:, cut].unflatten(1, (-1, part.frames)))
    for part in parts:
        part.invert()
    for target in range(len(parts[0].spreads)):
        spectra = torch.empty_like(mix)
        for part, cut in zip(parts, cuts, strict=True):
            part.write(target, spectra[:, :, cut].unflatten(2, (-1, part.frames)))
        yield spectra


class _Part:
    """Stretches of one length.

    Args:
        mix: complex64 ``[items, 2, stretches, frames, bins]``.
    """

    def __init__(self, mix: Tensor) -> None:
        self.frames = mix.shape[3]
        largest = mix.abs().amax(dim=(1, 3, 4))[..., None, None].double()
        self._scale = (largest / LARGEST).clamp(min=1.0)
        self._left, self._right = (mix[:, channel].to(torch.complex128) / self._scale for channel in (0, 1))
        self._power_left, self._power_right = _power(self._left), _power(self._right)
        self._cross = self._left * self._right.conj()
        self.spreads: list[_Spread] = []

    def add(self, mask: Tensor) -> None:
        """Take in a target's first estimate: float32 ``[items, stretches, frames, 2, bins]``."""
        left, right = mask[..., 0, :].double(), mask[..., 1, :].double()
        cross = _sum((left * right) * self._cross)
        left, right = left.square_().mul_(self._power_left), right.square_().mul_(self._power_right)
        sums = _sum(left), _sum(right)
        weight = EPSILON + 0.5 * (sums[0] + sums[1])
        power = left.add_(right).mul_(0.5)
        self.spreads.append(_Spread(power, *(value / weight for value in (*sums, cross))))

    def invert(self) -> None:
        """Multiply the mix by the inverse of its covariance matrix, which is the sum of the targets' and a little."""
        left = torch.full_like(self._power_left, EPSILON**0.5)
        right, cross = left.clone(), torch.zeros_like(self._cross)
        del self._power_left, self._power_right, self._cross
        for spread in self.spreads:
            left.addcmul_(spread.power, spread.left)
            right.addcmul_(spread.power, spread.right)
            cross.addcmul_(spread.power, spread.cross)
        share = self._scale / (left * right).sub_(_power(cross))
        for value in (left, right, cross):
            value.mul_(share)
        self._left, self._right = (
            (right * self._left).addcmul_(cross, self._right, value=-1),
            (left * self._right).addcmul_(cross.conj(), self._left, value=-1),
        )

    def write(self, target: int, spectra: Tensor) -> None:
        """One target's spectra into complex64 ``[items, 2, stretches, frames, bins]``."""
        power, *matrix = self.spreads[target]
        left, right, cross = (value.to(torch.complex128) for value in matrix)
        torch.mul((left * self._left).addcmul_(cross, self._right), power, out=spectra[:, 0])
        torch.mul((right * self._right).addcmul_(cross.conj(), self._left), power, out=spectra[:, 1])


def _power(spectra: Tensor) -> Tensor:
    return spectra.real.square().addcmul_(spectra.imag, spectra.imag)


def _sum(values: Tensor) -> Tensor:
    return values.sum(dim=2, keepdim=True)
