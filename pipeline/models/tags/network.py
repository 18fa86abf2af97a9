"""musicnn in torch: 50 tags of a patch, and the layer of 200 before them.

Two sizes of timbral filters (7 frames × 38 and 67 of 96 bands) and three of temporal ones (128, 64 and 32 frames × 1
band) see the spectrogram, each keeping its largest answer over all bands; three convolutions of 7 frames follow, the
last two added to what they got; the largest and the mean value over time of all of them go through two dense layers.
Source: Pons and Serra 2019, "musicnn: pre-trained convolutional neural networks for music audio tagging", late-breaking
demo at ISMIR; Pons et al. 2018, "End-to-end learning for music audio tagging at scale", ISMIR.

Most filters of the published networks are dead: weight decay left kernels of 1e-10 and less, so that what they give
does not depend on what they see. Those are left out, and the constant that each of them gives is put into the layers
that read it. Of 561 filters of the first layer 312 are left in MagnaTagATune's network and 64 in the Million Song
Dataset's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from pipeline.models.tags.filters import Affine, Filters, TemporalFilters, TimbralFilters
from pipeline.models.tags.names import PATCH_FRAMES, TAGS, UNITS

EPSILON = 1e-3
"""Of TensorFlow's batch norms."""

FRONT = ((7, 38, 204), (7, 67, 204), (128, 1, 51), (64, 1, 51), (32, 1, 51))
"""Frames, bands and number of the first layer's filters."""

MIDDLE = 64
REACH = 7
LARGEST_INPUT = 8.0
"""No normalised log-mel value of audio within full scale is further from 0."""

DEAD = 1e-5
"""A filter whose answers lie closer together than this is taken for constant."""


class Middle(nn.Module):
    """A convolution of 7 frames over all channels, ReLU and batch norm.

    Args:
        kernel: ``[64, channels, 7]``.
        bias: ``[64]``, or ``[64, frames]`` where it depends on the place in the patch.
        norm: what follows the ReLU.

    Shape: ``[batch, channels, frames]`` → ``[batch, 64, frames]``.
    """

    def __init__(self, kernel: Tensor, bias: Tensor, norm: Affine) -> None:
        super().__init__()
        self.register_buffer("kernel", kernel)
        self.register_buffer("bias", bias if bias.ndim == 2 else bias[:, None])
        self.register_buffer("scale", norm.scale[:, None])
        self.register_buffer("shift", norm.shift[:, None])

    def forward(self, x: Tensor) -> Tensor:
        answers = functional.conv1d(x, self.kernel, padding=REACH // 2).float() + self.bias
        return functional.relu(answers) * self.scale + self.shift


class Musicnn(nn.Module):
    """One network.

    Args:
        variables: TensorFlow's name → float32 array, kernels as ``[height, width, in, out]``.

    Shape:
        - patches: float32 ``[batch, 187, 96]``, see `pipeline.models.tags.front_end.log_mel`
        - returns: float32 ``[batch, 250]``: the probabilities of the 50 tags, then the 200 values of the layer before

    Raises:
        ValueError: a variable is missing, has another shape, or holds NaN or infinity.
    """

    def __init__(self, variables: Mapping[str, np.ndarray]) -> None:
        super().__init__()
        take = _Variables(variables)
        self.input = tuple(float(part) for part in take.norm(0, 1))
        filters, live, constants = _front(take)
        self.filters = nn.ModuleList(filters)
        # What the dead filters give: as much everywhere but at the ends of a patch, where zeros are beside it.
        kernel = take.kernel(5, (REACH, len(live), 1, MIDDLE))[..., 0, :].permute(2, 1, 0)
        steady = torch.where(live, 0.0, constants)[None, :, None].expand(1, len(live), PATCH_FRAMES)
        beside = functional.conv1d(steady, kernel, take("conv2d_5/bias", MIDDLE), padding=REACH // 2)[0]
        layers = [Middle(kernel[:, live], beside, take.norm(6, MIDDLE))]
        for number in (6, 7):
            kernel = take.kernel(number, (REACH, MIDDLE, 1, MIDDLE))[..., 0, :].permute(2, 1, 0)
            layers.append(
                Middle(kernel, take(f"conv2d_{number}/bias", MIDDLE), take.norm(number + 1, MIDDLE))
            )
        self.middle = nn.ModuleList(layers)
        self._dense(take, live, constants)
        self.requires_grad_(False).eval()

    def _dense(self, take: _Variables, live: Tensor, constants: Tensor) -> None:
        """The two dense layers with the batch norms before them; the first takes largest values, then means."""
        channels = len(live) + 3 * MIDDLE
        scale, shift = take.norm(9, 2 * channels)
        kernel, bias = take("dense/kernel", 2 * channels, UNITS), take("dense/bias", UNITS)
        bias = bias + shift @ kernel
        # As they are stored, the largest value and the mean of a channel lie side by side.
        kernel = (kernel * scale[:, None]).view(channels, 2, UNITS)
        bias = bias + torch.where(live, 0.0, constants) @ kernel[: len(live)].sum(dim=1)
        used = torch.cat([live, live.new_ones(3 * MIDDLE)])
        self.register_buffer("units", kernel[used].permute(1, 0, 2).reshape(-1, UNITS).T.contiguous())
        self.register_buffer("units_bias", bias)
        scale, shift = take.norm(10, UNITS)
        self.register_buffer("scale", scale)
        self.register_buffer("shift", shift)
        self.register_buffer("tags", take("dense_1/kernel", UNITS, TAGS).T.contiguous())
        self.register_buffer("tags_bias", take("dense_1/bias", TAGS))

    def forward(self, patches: Tensor) -> Tensor:
        scale, shift = self.input
        x = patches[:, None] * scale + shift
        front = torch.cat([filters(x) for filters in self.filters], dim=1)
        first, second, third = self.middle
        one = first(front)
        two = second(one) + one
        three = third(two) + two
        every = torch.cat([front, one, two, three], dim=1)
        pooled = torch.cat([every.amax(dim=2), every.mean(dim=2)], dim=1)
        units = functional.relu(functional.linear(pooled, self.units, self.units_bias).float())
        units = units * self.scale + self.shift
        tags = torch.sigmoid(functional.linear(units, self.tags, self.tags_bias).float())
        return torch.cat([tags, units], dim=1)


def _front(take: _Variables) -> tuple[list[Filters], Tensor, Tensor]:
    """The filters that are alive, which of all are, and what each of the others gives."""
    filters, live, constants = [], [], []
    for number, (frames, bands, count) in enumerate(FRONT):
        kernel = take.kernel(number, (frames, bands, 1, count)).permute(3, 2, 0, 1)
        bias = take(f"{_numbered('conv2d', number)}/bias", count)
        norm = take.norm(number + 1, count)
        reach = norm.scale.abs() * kernel.abs().sum(dim=(1, 2, 3)) * LARGEST_INPUT
        alive = reach > DEAD
        kind = TemporalFilters if bands == 1 else TimbralFilters
        filters.append(kind(kernel[alive], bias[alive], Affine(norm.scale[alive], norm.shift[alive])))
        live.append(alive)
        constants.append(functional.relu(bias) * norm.scale + norm.shift)
    return filters, torch.cat(live), torch.cat(constants)


class _Variables:
    """The variables of a network as tensors.

    Args:
        variables: as for `Musicnn`.
    """

    def __init__(self, variables: Mapping[str, np.ndarray]) -> None:
        self._variables = variables

    def __call__(self, name: str, *shape: int) -> Tensor:
        """A variable, float32 of this shape. Raises ``ValueError``."""
        value = self._variables.get(name)
        if value is None:
            raise ValueError(f"{name} is missing")
        if value.shape != shape:
            raise ValueError(f"{name} has shape {list(value.shape)}, not {list(shape)}")
        if not np.isfinite(value).all():
            raise ValueError(f"{name} holds NaN or infinity")
        return torch.tensor(value, dtype=torch.float32)

    def kernel(self, number: int, shape: Sequence[int]) -> Tensor:
        """Of a convolution."""
        return self(f"{_numbered('conv2d', number)}/kernel", *shape)

    def norm(self, number: int, channels: int) -> Affine:
        """A batch norm, as it works after training."""
        name = _numbered("batch_normalization", number)
        gamma, beta, mean, variance = (
            self(f"{name}/{part}", channels).double()
            for part in ("gamma", "beta", "moving_mean", "moving_variance")
        )
        scale = gamma / (variance + EPSILON).sqrt()
        return Affine(scale.float(), (beta - mean * scale).float())


def _numbered(layer: str, number: int) -> str:
    return f"{layer}_{number}" if number else layer
