"""The network of pyannote's segmentation-3.0 (Bredin 2023): who of up to three people speaks when, in windows of 10 s.

PyanNet: learned band-pass filters (SincNet, Ravanelli and Bengio 2018), four bidirectional LSTM layers, two linear ones
and seven classes, the sets of at most two of three people ("powerset", Plaquet and Bredin 2023). Which of the three
somebody is differs from window to window.
"""

from __future__ import annotations

import math
import pickle

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from pipeline.commands import as_typed
from pipeline.errors import UserError
from pipeline.models import weights
from pipeline.models.device import set_threads
from pipeline.models.speech.base import BackendUnavailable

WEIGHTS = "segmentation-3.0"
SAMPLE_RATE = 16_000
WINDOW = 160_000
"""Length of a window, samples."""
FRAMES = 589
"""Frames of a window."""
FRAME_STEP = 270
"""From one frame to the next, samples: 16.875 ms."""
RECEPTIVE_FIELD = 991
"""What a frame's filters see, samples: frame i those from ``FRAME_STEP * i`` on."""
SPEAKERS = 3
POWERSET = np.array(
    [[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 0], [1, 0, 1], [0, 1, 1]], dtype=np.float32
)
"""Who of the three speaks in each of the seven classes, ``[7, 3]``."""

# Windows in one pass: few enough that a pass stays below 200 MB.
_BATCH = 16
_FILTERS = 80
_TAPS = 251
_STRIDE = 10
_LOWEST_HZ = 50.0
_NARROWEST_HZ = 50.0


class SegmentationNetwork:
    """Speaker activities of windows of 10 s.

    Args:
        network: the network, with its weights, in evaluation mode.
        weights_hash: sha256 of the weights, hex.
    """

    def __init__(self, network: PyanNet, weights_hash: str = "") -> None:
        self.network = network
        self.weights_hash = weights_hash

    @classmethod
    def load(cls, threads: int | None = None) -> SegmentationNetwork:
        """Build it with its weights from the store.

        Args:
            threads: of torch, in the whole process; None leaves them.

        Raises:
            BackendUnavailable: the weights are missing or damaged.
        """
        path = weights.find(WEIGHTS)
        if path is None:
            raise BackendUnavailable(weights.missing(WEIGHTS))
        network = PyanNet()
        try:
            digest = weights.weights_hash(path)
            network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True)["state_dict"])
        except UserError as error:
            raise BackendUnavailable(str(error)) from error
        except (RuntimeError, KeyError, TypeError, EOFError, pickle.UnpicklingError) as error:
            why = str(error).splitlines()[0] if str(error) else type(error).__name__
            fetch = as_typed(f"delete it, then python jobs/models.py fetch {WEIGHTS}")
            raise BackendUnavailable(f"{path} is damaged ({why}): {fetch}") from error
        if threads is not None:
            set_threads(threads)
        return cls(network.eval().requires_grad_(False), digest)

    def model_id(self) -> str:
        """Name and weights hash."""
        return f"{WEIGHTS}:{self.weights_hash[:12]}"

    def powerset_probabilities(self, windows: np.ndarray) -> np.ndarray:
        """How likely each of the seven sets of people is.

        Args:
            windows: float32 ``[n, 160000]`` within -1..1, 16 kHz; what is shorter is filled up with zeros.

        Returns:
            float32 ``[n, 589, 7]`` that add up to 1, in the order of `POWERSET`.

        Raises:
            ValueError: another shape or type, or samples that are no finite numbers.
        """
        windows = np.asarray(windows)
        if windows.ndim != 2 or windows.shape[1] != WINDOW or windows.dtype != np.float32:
            raise ValueError(f"windows must be float32 [n, {WINDOW}], not {windows.dtype} {windows.shape}")
        if not np.isfinite(windows).all():
            raise ValueError("windows hold samples that are no finite numbers")
        probabilities = np.empty((len(windows), FRAMES, len(POWERSET)), np.float32)
        with torch.inference_mode():
            for first in range(0, len(windows), _BATCH):
                batch = torch.from_numpy(np.ascontiguousarray(windows[first : first + _BATCH]))
                probabilities[first : first + _BATCH] = self.network(batch[:, None]).numpy()
        return probabilities

    def __call__(self, windows: np.ndarray) -> np.ndarray:
        """How likely each of three people speaks; arguments and errors as of `powerset_probabilities`.

        Returns:
            float32 ``[n, 589, 3]`` within 0..1.
        """
        return np.clip(self.powerset_probabilities(windows) @ POWERSET, 0.0, 1.0)


class PyanNet(nn.Module):
    """The network. Mono ``[n, 1, samples]`` comes in, probabilities ``[n, frames, 7]`` go out."""

    def __init__(self) -> None:
        super().__init__()
        self.sincnet = _SincNet()
        self.lstm = nn.LSTM(60, 128, num_layers=4, bidirectional=True, batch_first=True)
        self.linear = nn.ModuleList([nn.Linear(256, 128), nn.Linear(128, 128)])
        self.classifier = nn.Linear(128, len(POWERSET))

    def forward(self, samples: Tensor) -> Tensor:
        hidden, _ = self.lstm(self.sincnet(samples).transpose(1, 2))
        for linear in self.linear:
            hidden = functional.leaky_relu(linear(hidden))
        return self.classifier(hidden).softmax(dim=-1)


class _SincNet(nn.Module):
    """Filters, pooling and normalization, three times: ``[n, 1, samples]`` to ``[n, 60, frames]``."""

    def __init__(self) -> None:
        super().__init__()
        self.wav_norm1d = nn.InstanceNorm1d(1, affine=True)
        filters = nn.Module()
        filters.filterbank = _BandPasses()  # under the name that the checkpoint has for it
        self.conv1d = nn.ModuleList([filters, nn.Conv1d(_FILTERS, 60, 5), nn.Conv1d(60, 60, 5)])
        self.norm1d = nn.ModuleList([nn.InstanceNorm1d(size, affine=True) for size in (_FILTERS, 60, 60)])

    def forward(self, samples: Tensor) -> Tensor:
        outputs = self.wav_norm1d(samples)
        for index, (convolution, norm) in enumerate(zip(self.conv1d, self.norm1d, strict=True)):
            outputs = convolution.filterbank(outputs).abs() if index == 0 else convolution(outputs)
            outputs = functional.leaky_relu(norm(functional.max_pool1d(outputs, 3)))
        return outputs


class _BandPasses(nn.Module):
    """Forty band-pass filters, each even and odd, given by where they begin and how wide they are."""

    def __init__(self) -> None:
        super().__init__()
        self.low_hz_ = nn.Parameter(torch.zeros(_FILTERS // 2, 1))
        self.band_hz_ = nn.Parameter(torch.zeros(_FILTERS // 2, 1))
        half = _TAPS // 2
        self.register_buffer("window_", torch.from_numpy(np.hamming(_TAPS)[:half]).float())
        # Angle per Hz of each tap before the middle one.
        self.register_buffer("n_", 2 * math.pi * torch.arange(-half, 0.0)[None] / SAMPLE_RATE)

    def forward(self, samples: Tensor) -> Tensor:
        return functional.conv1d(samples, self._filters(), stride=_STRIDE)

    def _filters(self) -> Tensor:
        low = _LOWEST_HZ + self.low_hz_.abs()
        high = torch.clamp(low + _NARROWEST_HZ + self.band_hz_.abs(), _LOWEST_HZ, SAMPLE_RATE / 2)
        width = 2 * (high - low)
        angle_low, angle_high = low * self.n_, high * self.n_
        even = (angle_high.sin() - angle_low.sin()) / (self.n_ / 2) * self.window_
        odd = (angle_low.cos() - angle_high.cos()) / (self.n_ / 2) * self.window_
        evens = torch.cat([even, width, even.flip(1)], dim=1)
        odds = torch.cat([odd, torch.zeros_like(width), -odd.flip(1)], dim=1)
        return (torch.cat([evens, odds]) / width.repeat(2, 1))[:, None]
