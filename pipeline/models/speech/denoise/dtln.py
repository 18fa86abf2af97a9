"""DTLN through onnxruntime: two small LSTM networks one after the other, 16 kHz.

The first masks the magnitudes of a frame of 32 ms, the second refines its samples; frames are 8 ms apart and are added
where they overlap, as in the authors' own real-time code. Weights and code: Westhausen and Meyer 2020, "Dual-Signal
Transformation LSTM Network for Real-Time Noise Suppression", Interspeech; MIT.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from pipeline.models.separation.names import SeparationOptions
from pipeline.models.speech.base import DenoiseStream
from pipeline.models.speech.denoise.stored import stored
from pipeline.models.speech.denoise.streams import FrameStream, limited
from pipeline.models.speech.onnx_session import onnx_session

WEIGHTS = "dtln"
FILES = ("model_1.onnx", "model_2.onnx")
BLOCK, HOP = 512, 128
DELAY = BLOCK - HOP
"""Samples until what overlaps a sample is complete."""


class Dtln:
    """DTLN. Takes any recording at 16 kHz, so nothing above 8 kHz comes out.

    Args:
        masker, refiner: sessions of the two networks; several streams may share them.
        weights_hash: sha256 of the two files.
    """

    name = "dtln"
    version = "1"
    sample_rate = 16000

    def __init__(self, masker: Any, refiner: Any, weights_hash: str = "") -> None:
        self._networks = (masker, refiner)
        self._hash = weights_hash

    @classmethod
    def load(cls, device: str = "cpu", threads: int = 1, options: SeparationOptions | None = None) -> Dtln:
        """Build it with its real weights, on the CPU whatever the device; ``options`` are not for it.

        Raises:
            BackendUnavailable: onnxruntime or weights are missing.
        """
        paths, digest = stored(WEIGHTS, FILES)
        return cls(*(onnx_session(path, threads) for path in paths), digest)

    def model_id(self) -> str:
        """Name and hash of the weights."""
        return f"{WEIGHTS}:{self._hash[:12]}"

    def stream(self, *, limit_db: float | None = None) -> DenoiseStream:
        """Begin a recording, see `pipeline.models.speech.base.Denoiser`; a few kB of state."""
        return limited(FrameStream(_Frames(*self._networks), HOP, DELAY), limit_db)


class _Frames:
    """The two networks with the state of one recording."""

    def __init__(self, masker: Any, refiner: Any) -> None:
        self._masker, self._refiner = masker, refiner
        self._names = [[value.name for value in network.get_inputs()] for network in (masker, refiner)]
        self._states = [np.zeros(network.get_inputs()[1].shape, np.float32) for network in (masker, refiner)]
        self._block = np.zeros(BLOCK, np.float32)
        self._sum = np.zeros(BLOCK, np.float32)

    def __call__(self, samples: np.ndarray) -> np.ndarray:
        """Whole hops in, as many samples out, `DELAY` late."""
        done = np.empty(len(samples), np.float32)
        for start in range(0, len(samples), HOP):
            self._block = np.concatenate([self._block[HOP:], samples[start : start + HOP]])
            self._sum = np.concatenate([self._sum[HOP:], np.zeros(HOP, np.float32)])
            self._sum += self._denoised(self._block)
            done[start : start + HOP] = self._sum[:HOP]
        return done

    def _denoised(self, block: np.ndarray) -> np.ndarray:
        spectrum = np.fft.rfft(block)
        magnitude = np.abs(spectrum).astype(np.float32)
        mask = self._run(0, self._masker, magnitude[None, None])
        masked = np.fft.irfft(spectrum * mask[0, 0], BLOCK).astype(np.float32)
        return self._run(1, self._refiner, masked[None, None])[0, 0]

    def _run(self, place: int, network: Any, values: np.ndarray) -> np.ndarray:
        inputs = dict(zip(self._names[place], (values, self._states[place]), strict=True))
        result, self._states[place] = network.run(None, inputs)
        return result
