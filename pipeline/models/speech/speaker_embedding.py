"""CAM++ speaker embeddings: a vector that is near for the same voice and far for another.

Network and weights are those of "CAM++: A Fast and Efficient Network for Speaker Verification Using Context-Aware
Masking" (Wang et al., Interspeech 2023), as 3D-Speaker publishes them for Chinese and English; written here anew, with
its names of layers, so that its checkpoint loads as it is. The features are Kaldi's: 80 mel bands, 25 ms every 10 ms.
"""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torchaudio.compliance import kaldi

from pipeline.models import weights
from pipeline.models.speech.base import BackendUnavailable
from pipeline.models.speech.embedding_batches import BatchEmbedder, checked

WEIGHTS = "campplus-zh-en"
SAMPLE_RATE = 16000
DIMENSIONS = 192
MEL_BANDS = 80
SHORTEST_S = 0.1
"""Less is repeated until it is so long: a vector of it says next to nothing."""

_GROWTH = 32
_BOTTLENECK = 128
_BLOCKS = ((12, 1), (24, 2), (16, 2))
"""Layers and dilation of each dense block."""
_CONTEXT_FRAMES = 100


class SpeakerEmbedder(BatchEmbedder):
    """CAM++ with its weights, on the CPU or a GPU.

    Args:
        network: in evaluation mode.
        digest: sha256 of its weights, hex; empty for weights from elsewhere.
    """

    name = "campplus"
    version = "1"
    sample_rate = SAMPLE_RATE
    dimensions = DIMENSIONS

    def __init__(self, network: CamPlusPlus, digest: str = "") -> None:
        self.network = network.eval()
        self.digest = digest

    @classmethod
    def load(cls, device: str = "cpu") -> SpeakerEmbedder:
        """Build it with the weights of the store.

        Raises:
            BackendUnavailable: there are none; the message says what to type.
        """
        path = weights.find(WEIGHTS)
        if path is None:
            raise BackendUnavailable(weights.missing(WEIGHTS))
        return cls(read_network(path).to(device), weights.weights_hash(path))

    def model_id(self) -> str:
        """Name and weights hash."""
        return f"{WEIGHTS}:{self.digest}"

    def _batch(self, windows: list[np.ndarray]) -> np.ndarray:
        device = next(self.network.parameters()).device
        features = torch.stack([fbank(window) for window in windows]).to(device)
        with torch.inference_mode():
            return self.network(features).cpu().numpy()


def fbank(samples: np.ndarray) -> Tensor:
    """Kaldi's log mel energies of a stretch without their mean, float32 ``[frames, 80]``.

    Args:
        samples: ``[n]`` at 16 kHz, n above 0; less than 0.1 s is repeated until it is so long.

    Raises:
        ValueError: there are none, or they hold what is no finite number.
    """
    samples = checked(samples)
    shortest = round(SHORTEST_S * SAMPLE_RATE)
    if len(samples) < shortest:
        samples = np.resize(samples, shortest)
    bands = kaldi.fbank(
        torch.from_numpy(samples)[None],
        num_mel_bins=MEL_BANDS,
        sample_frequency=SAMPLE_RATE,
        dither=0.0,
    )
    return bands - bands.mean(dim=0, keepdim=True)


def read_network(path: Path) -> CamPlusPlus:
    """The network with the weights of a checkpoint.

    Raises:
        BackendUnavailable: the file holds something else.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        network = CamPlusPlus()
        network.load_state_dict(state)
    except (RuntimeError, TypeError, AttributeError, EOFError, pickle.UnpicklingError) as error:
        why = " ".join(str(error).split())[:200]
        raise BackendUnavailable(
            f"{path} does not hold {WEIGHTS} ({why}): delete it and fetch again"
        ) from error
    return network.eval()


class CamPlusPlus(nn.Module):
    """Features ``[batch, frames, 80]`` → embeddings ``[batch, 192]``."""

    def __init__(self) -> None:
        super().__init__()
        self.head = _Front()
        channels = 128
        layers: dict[str, nn.Module] = {"tdnn": _FirstLayer(self.head.channels, channels)}
        for number, (count, dilation) in enumerate(_BLOCKS, 1):
            layers[f"block{number}"] = _DenseBlock(channels, count, dilation)
            channels += count * _GROWTH
            layers[f"transit{number}"] = _Transit(channels, channels // 2)
            channels //= 2
        layers["out_nonlinear"] = _norm_relu(channels)
        layers["stats"] = _Statistics()
        layers["dense"] = _Embedding(2 * channels, DIMENSIONS)
        self.xvector = nn.Sequential()
        for name, layer in layers.items():
            self.xvector.add_module(name, layer)

    def forward(self, features: Tensor) -> Tensor:
        return self.xvector(self.head(features.transpose(1, 2)))


class _Front(nn.Module):
    """Convolutions over bands and time that leave every eighth band: ``[b, 80, t]`` → ``[b, 320, t]``."""

    channels = 32 * MEL_BANDS // 8

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 32, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(32)
        self.layer1 = nn.Sequential(_Residual(2), _Residual(1))
        self.layer2 = nn.Sequential(_Residual(2), _Residual(1))
        self.conv2 = nn.Conv2d(32, 32, 3, stride=(2, 1), padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(32)

    def forward(self, bands: Tensor) -> Tensor:
        # Channels last: a CPU convolves faster so.
        x = bands[:, None].contiguous(memory_format=torch.channels_last)
        x = _normed(self.conv1, self.bn1, x).relu_()
        x = _normed(self.conv2, self.bn2, self.layer2(self.layer1(x))).relu_()
        return x.flatten(1, 2)


class _Residual(nn.Module):
    def __init__(self, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(32, 32, 3, stride=(stride, 1), padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(32)
        self.conv2 = nn.Conv2d(32, 32, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(32)
        self.shortcut = nn.Sequential()
        if stride != 1:
            shortcut = nn.Conv2d(32, 32, 1, stride=(stride, 1), bias=False)
            self.shortcut = nn.Sequential(shortcut, nn.BatchNorm2d(32))

    def forward(self, x: Tensor) -> Tensor:
        out = _normed(self.conv2, self.bn2, _normed(self.conv1, self.bn1, x).relu_())
        return out.add_(_normed(*self.shortcut, x) if len(self.shortcut) else x).relu_()


def _normed(convolution: nn.Conv2d, norm: nn.BatchNorm2d, x: Tensor) -> Tensor:
    """A convolution without a bias and the batch norm after it, at once: both are linear."""
    scale, shift = _scale_and_shift(norm)
    weight = (convolution.weight * scale[:, None, None, None]).contiguous(memory_format=torch.channels_last)
    return functional.conv2d(x, weight, shift, convolution.stride, convolution.padding)


def _scale_and_shift(norm: nn.BatchNorm1d | nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """What a batch norm does in evaluation: ``x * scale + shift``."""
    scale = norm.weight * torch.rsqrt(norm.running_var + norm.eps)  # type: ignore[operator, arg-type]
    return scale, norm.bias - norm.running_mean * scale  # type: ignore[operator]


def _norm_relu(channels: int) -> nn.Sequential:
    layer = nn.Sequential()
    layer.add_module("batchnorm", nn.BatchNorm1d(channels))
    layer.add_module("relu", nn.ReLU(inplace=True))
    return layer


class _FirstLayer(nn.Module):
    """Halves the frames: one for each 20 ms."""

    def __init__(self, channels: int, out: int) -> None:
        super().__init__()
        self.linear = nn.Conv1d(channels, out, 5, stride=2, padding=2, bias=False)
        self.nonlinear = _norm_relu(out)

    def forward(self, x: Tensor) -> Tensor:
        return self.nonlinear(self.linear(x))


class _MaskedConvolution(nn.Module):
    """A convolution whose output is masked by what its surroundings are: the whole stretch and 2 s of it."""

    def __init__(self, dilation: int) -> None:
        super().__init__()
        self.linear_local = nn.Conv1d(
            _BOTTLENECK, _GROWTH, 3, padding=dilation, dilation=dilation, bias=False
        )
        self.linear1 = nn.Conv1d(_BOTTLENECK, _BOTTLENECK // 2, 1)
        self.linear2 = nn.Conv1d(_BOTTLENECK // 2, _GROWTH, 1)

    def forward(self, x: Tensor) -> Tensor:
        frames = x.shape[-1]
        parts = functional.avg_pool1d(x, _CONTEXT_FRAMES, _CONTEXT_FRAMES, ceil_mode=True)
        # The mask is the same within a part, so it is computed once for each of them.
        context = x.mean(-1, keepdim=True) + parts
        mask = torch.sigmoid(_pointwise(self.linear2, functional.relu(_pointwise(self.linear1, context))))
        return self.linear_local(x) * mask.repeat_interleave(_CONTEXT_FRAMES, dim=-1)[..., :frames]


class _DenseLayer(nn.Module):
    def __init__(self, channels: int, dilation: int) -> None:
        super().__init__()
        self.nonlinear1 = _norm_relu(channels)
        self.linear1 = nn.Conv1d(channels, _BOTTLENECK, 1, bias=False)
        self.nonlinear2 = _norm_relu(_BOTTLENECK)
        self.cam_layer = _MaskedConvolution(dilation)

    def forward(self, x: Tensor) -> Tensor:
        """``[channels, batch, frames]`` → ``[batch, 32, frames]``."""
        scale, shift = _scale_and_shift(self.nonlinear2.batchnorm)
        # What a convolution over one frame is followed by is made a part of it: both are linear.
        mixed = torch.addmm(
            shift[:, None], self.linear1.weight[..., 0] * scale[:, None], _flat(self.nonlinear1, x)
        )
        return self.cam_layer(mixed.relu_().unflatten(1, x.shape[1:]).transpose(0, 1))


def _flat(norm_relu: nn.Sequential, x: Tensor) -> Tensor:
    """``[channels, batch, frames]`` after batch norm and ReLU, as the matrix ``[channels, batch * frames]``."""
    scale, shift = _scale_and_shift(norm_relu.batchnorm)
    return torch.addcmul(shift[:, None], x.flatten(1), scale[:, None]).relu_()


def _pointwise(layer: nn.Conv1d, x: Tensor) -> Tensor:
    """A convolution over one frame as a product of matrices, which a CPU does several times faster."""
    product = torch.matmul(layer.weight[..., 0], x)
    return product if layer.bias is None else product.add_(layer.bias[:, None])


class _DenseBlock(nn.Module):
    """Layers that each see what went into the block and what all before them made of it.

    Channels come first within it, so that all that a layer sees lies in one piece and is one product of matrices.
    """

    def __init__(self, channels: int, count: int, dilation: int) -> None:
        super().__init__()
        for index in range(count):
            self.add_module(f"tdnnd{index + 1}", _DenseLayer(channels + index * _GROWTH, dilation))

    def forward(self, x: Tensor) -> Tensor:
        batch, channels, frames = x.shape
        seen = x.new_empty(channels + _GROWTH * len(self._modules), batch, frames)
        seen[:channels] = x.transpose(0, 1)
        for layer in self.children():
            seen[channels : channels + _GROWTH] = layer(seen[:channels]).transpose(0, 1)
            channels += _GROWTH
        return seen.transpose(0, 1)


class _Transit(nn.Module):
    def __init__(self, channels: int, out: int) -> None:
        super().__init__()
        self.nonlinear = _norm_relu(channels)
        self.linear = nn.Conv1d(channels, out, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        product = self.linear.weight[..., 0] @ _flat(self.nonlinear, x.transpose(0, 1))
        return product.unflatten(1, (x.shape[0], x.shape[2])).transpose(0, 1)


class _Statistics(nn.Module):
    """Mean and standard deviation over time."""

    def forward(self, x: Tensor) -> Tensor:
        mean = x.mean(dim=-1)
        deviation = x.std(dim=-1) if x.shape[-1] > 1 else torch.full_like(mean, 1e-2)
        return torch.cat([mean, deviation], dim=-1)


class _Embedding(nn.Module):
    def __init__(self, channels: int, out: int) -> None:
        super().__init__()
        self.linear = nn.Conv1d(channels, out, 1, bias=False)
        self.nonlinear = nn.Sequential()
        self.nonlinear.add_module("batchnorm", nn.BatchNorm1d(out, affine=False))

    def forward(self, x: Tensor) -> Tensor:
        return self.nonlinear(self.linear(x[..., None])[..., 0])
