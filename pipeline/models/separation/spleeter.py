"""Spleeter's two-stem model on torch: vocals and accompaniment, with the weights Deezer published.

Two U-Nets estimate the magnitudes of the stems; their squares share out the mix (a Wiener-like ratio mask).
Source: Hennequin et al. 2020, "Spleeter: a fast and efficient music source separation tool with pre-trained
models", JOSS 5(50); network: Jansson et al. 2017, "Singing voice separation with deep U-Net convolutional
networks", ISMIR.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

from pipeline.commands import as_typed
from pipeline.errors import UserError
from pipeline.models import weights
from pipeline.models.separation.base import (
    BackendUnavailable,
    SeparationOptions,
    Separator,
    register,
)
from pipeline.models.separation.networks import use_amp
from pipeline.models.separation.spectrogram import HOP_LENGTH, frame_windows, spectrum, waveform
from pipeline.models.separation.window import Window

WEIGHTS = "spleeter-2stems"
BLOCK_FRAMES = 512  # frames the network sees at once
BINS = 1024  # lowest bins, up to 11 kHz; the model knows nothing above
EPSILON = 1e-10
FILTERS = (16, 32, 64, 128, 256, 512)


class UNet(nn.Module):
    """The magnitude of one stem from the magnitude of the mix.

    The skip connections take the convolutions' output before the batch norm, so those norms cannot be folded
    into the convolutions, nor can the decoder's, which follow a ReLU. Together they cost 3 % of the time.

    Args:
        filters: channels of the encoder, outermost first; the published model has `FILTERS`.

    Shape:
        - Input: ``[batch, 2, frames, bins]``; both multiples of ``2 ** len(filters)``.
        - Output: the same.
    """

    def __init__(self, filters: Sequence[int] = FILTERS) -> None:
        super().__init__()
        down = list(zip([2, *filters[:-1]], filters, strict=True))
        outputs = [*reversed(filters[:-1]), 1]
        # All but the innermost level also take the skip connection of their size.
        inputs = [filters[-1], *(2 * channels for channels in outputs[:-1])]
        self.encoder = nn.ModuleList(nn.Conv2d(i, o, 5, stride=2) for i, o in down)
        # The published model has a norm after its innermost convolution that nothing reads.
        self.encoder_norms = nn.ModuleList(nn.BatchNorm2d(o, eps=1e-3) for _, o in down[:-1])
        self.decoder = nn.ModuleList(
            nn.ConvTranspose2d(i, o, 5, stride=2, padding=1) for i, o in zip(inputs, outputs, strict=True)
        )
        self.decoder_norms = nn.ModuleList(nn.BatchNorm2d(o, eps=1e-3) for o in outputs)
        self.mask = nn.Conv2d(1, 2, 4, dilation=2, padding=3)
        self.eval()

    def forward(self, mix: Tensor) -> Tensor:
        skips, x = [], mix
        for level, convolution in enumerate(self.encoder):
            # TensorFlow's "same" at stride 2 pads one more at the end than at the start.
            x = convolution(functional.pad(x, (1, 2, 1, 2)))
            if level < len(self.encoder_norms):
                skips.append(x)
                x = functional.leaky_relu(self.encoder_norms[level](x), 0.2)
        for transposed, norm in zip(self.decoder, self.decoder_norms, strict=True):
            rows, columns = 2 * x.shape[-2], 2 * x.shape[-1]
            x = norm(functional.relu(transposed(x)[..., :rows, :columns]))
            if skips:
                x = torch.cat([skips.pop(), x], dim=1)
        return torch.sigmoid(self.mask(x)) * mix


def unet_from_tensorflow(tensors: Mapping[str, Tensor], stem: int, filters: Sequence[int] = FILTERS) -> UNet:
    """The U-Net of one stem from the variables of the published checkpoint.

    Args:
        tensors: TensorFlow variable name → float32 tensor, kernels as ``[height, width, in, out]``.
        stem: 0 for vocals, 1 for accompaniment; TensorFlow numbered the layers through.
        filters: as for `UNet`.

    Raises:
        ValueError: a variable is missing, has another shape, or holds NaN or infinity.
    """
    # Layers start out random: leave the caller's generator alone.
    with torch.random.fork_rng(devices=[]):
        unet, levels = UNet(filters), len(filters)
    convolutions = [*unet.encoder, unet.mask]
    with torch.no_grad():
        for i, layer in enumerate(convolutions):
            _fill(layer, tensors, _numbered("conv2d", stem * (levels + 1) + i))
        for i, layer in enumerate(unet.decoder):
            _fill(layer, tensors, _numbered("conv2d_transpose", stem * levels + i))
        for i, norm in enumerate([*unet.encoder_norms, None, *unet.decoder_norms]):
            if norm is not None:
                _fill_norm(norm, tensors, _numbered("batch_normalization", stem * 2 * levels + i))
    return unet


def _numbered(layer: str, index: int) -> str:
    return f"{layer}_{index}" if index else layer


def _fill(layer: nn.Module, tensors: Mapping[str, Tensor], name: str) -> None:
    # [h, w, in, out] for Conv2D but [h, w, out, in] for Conv2DTranspose: one permutation serves both.
    _copy(layer.weight, tensors, f"{name}/kernel", permute=(3, 2, 0, 1))
    _copy(layer.bias, tensors, f"{name}/bias")


def _fill_norm(norm: nn.BatchNorm2d, tensors: Mapping[str, Tensor], name: str) -> None:
    _copy(norm.weight, tensors, f"{name}/gamma")
    _copy(norm.bias, tensors, f"{name}/beta")
    _copy(norm.running_mean, tensors, f"{name}/moving_mean")
    _copy(norm.running_var, tensors, f"{name}/moving_variance")


def _copy(target: Tensor, tensors: Mapping[str, Tensor], name: str, permute: tuple[int, ...] = (0,)) -> None:
    value = tensors.get(name)
    if value is None:
        raise ValueError(f"{name} is missing")
    if value.ndim != len(permute) or value.permute(permute).shape != target.shape:
        raise ValueError(f"{name} has shape {list(value.shape)}")
    if not torch.isfinite(value).all():
        raise ValueError(f"{name} holds NaN or infinity")
    target.copy_(value.permute(permute))


@register
class Spleeter(Separator):
    """Spleeter 2stems. Takes any input; between them the stems hold the mix below 11 kHz and nothing above.

    Args:
        unets: estimators of vocals and accompaniment.
        device: where they run.
        weights_hash: sha256 of the weights file.
        amp: whether the U-Nets run in bfloat16; the spectra never do.
    """

    name = "spleeter"
    version = "2"
    cpu_speed = 16.0
    sources = ("vocals", "accompaniment")
    segment = BLOCK_FRAMES * HOP_LENGTH / 44100

    def __init__(
        self,
        unets: Sequence[UNet],
        device: str | torch.device = "cpu",
        weights_hash: str = "",
        amp: bool = False,
    ) -> None:
        self.device = torch.device(device)
        self.unets = [unet.to(self.device, memory_format=torch.channels_last) for unet in unets]
        self.batch_items = 1 if self.device.type == "cpu" else 16
        self.weights_hash = weights_hash
        self.amp = amp

    @classmethod
    def load(cls, device: str = "cpu", options: SeparationOptions | None = None) -> Spleeter:
        path = weights.find(WEIGHTS)
        fetch = as_typed(f"python jobs/models.py fetch {WEIGHTS}")
        if path is None:
            raise BackendUnavailable(weights.missing(WEIGHTS))
        try:
            digest = weights.weights_hash(path)
            tensors = load_file(path)
            unets = [unet_from_tensorflow(tensors, stem) for stem in range(len(cls.sources))]
        except UserError as error:
            raise BackendUnavailable(str(error)) from error
        except (SafetensorError, ValueError) as error:
            raise BackendUnavailable(f"{path} is damaged ({error}): delete it, then {fetch}") from error
        wanted = (options or SeparationOptions()).amp
        # Bfloat16 keeps the quality (0.01 dB), but was never seen to pay here on a CPU: `auto` leaves it.
        if wanted == "auto" and torch.device(device).type == "cpu":
            wanted = "false"
        return cls(unets, device, digest, use_amp(wanted, device))

    def model_id(self) -> str:
        return f"{WEIGHTS}:{self.weights_hash[:12]}"

    def windows(self, samples: int) -> Iterator[Window]:
        return frame_windows(samples, BLOCK_FRAMES, fill=True)  # as in the original

    def separate(self, batch: Tensor) -> Tensor:
        spectra = spectrum(batch)
        stems = spectra.new_zeros((len(batch), len(self.unets), *spectra.shape[1:]))
        stems[..., :BINS] = self._masks(spectra[..., :BINS].abs()) * spectra[:, None, ..., :BINS]
        return waveform(stems)

    def _masks(self, magnitude: Tensor) -> Tensor:
        """Each stem's share of each bin: ``[items, 2, frames, bins]`` → ``[items, stems, …]``; sums to 1."""
        magnitude = magnitude.contiguous(memory_format=torch.channels_last)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.amp):
            estimates = [unet(magnitude) for unet in self.unets]
        power = torch.stack([estimate.float().square() for estimate in estimates], dim=1)
        return (power + EPSILON / len(self.unets)) / (power.sum(1, keepdim=True) + EPSILON)
