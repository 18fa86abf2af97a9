"""Resemblyzer's voice encoder: a vector that is near for the same voice and far for another, by a small LSTM.

Network and weights are those of the package resemblyzer: generalized end-to-end training ("Generalized End-to-End Loss
for Speaker Verification", Wan et al., ICASSP 2018), three layers of 256 units over 40 mel bands. Written here anew,
with its names of layers, so that its checkpoint loads as it is. The features are librosa's mel powers, 25 ms every
10 ms, and no logarithms of them: how loud a stretch is matters, so that it is brought to a level before, as there.
"""

from __future__ import annotations

import functools
import pickle
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from pipeline.models import weights
from pipeline.models.speech.base import BackendUnavailable
from pipeline.models.speech.embedding_batches import BatchEmbedder, checked

WEIGHTS = "resemblyzer"
SAMPLE_RATE = 16000
DIMENSIONS = 256
MEL_BANDS = 40
LEVEL_DBFS = -30.0
"""What is softer is made as loud as this; what is louder stays as it is."""
COSINES = {
    "alike": 0.72,
    "alike_least": 0.6,
    "alike_most": 0.8,
    "stop": 0.84,
    "same": 0.87,
    "trust": 0.1,
    "against": 0.05,
    "unlike": 0.57,
    "steepness": 20.0,
}
"""Of `pipeline.speech.clustering.Cosines`: no value of a vector is negative, so that strangers are alike by 0.5."""

_FFT = 400
_HOP = 160
_LAYERS = 3


class VoiceEncoder(nn.Module):
    """Mel powers ``[batch, frames, 40]`` → embeddings ``[batch, 256]`` of unit length, no value negative."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(MEL_BANDS, DIMENSIONS, _LAYERS, batch_first=True)
        self.linear = nn.Linear(DIMENSIONS, DIMENSIONS)

    def forward(self, mels: Tensor) -> Tensor:
        _, (hidden, _) = self.lstm(mels)
        raw = self.linear(hidden[-1]).relu()
        return raw / raw.norm(dim=1, keepdim=True).clamp_min(1e-12)


class VoiceEmbedder(BatchEmbedder):
    """The voice encoder with its weights, on the CPU or a GPU.

    Args:
        network: in evaluation mode.
        digest: sha256 of its weights, hex; empty for weights from elsewhere.
    """

    dimensions = DIMENSIONS
    cosines = COSINES

    def __init__(self, network: VoiceEncoder, digest: str = "") -> None:
        self.network = network.eval()
        self.digest = digest

    @classmethod
    def load(cls, device: str = "cpu") -> VoiceEmbedder:
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
        mels = torch.stack([mel_powers(at_level(window)) for window in windows]).to(device)
        with torch.inference_mode():
            return self.network(mels).cpu().numpy()


def at_level(samples: np.ndarray) -> np.ndarray:
    """A stretch that is at least as loud as `LEVEL_DBFS` (root mean square), float32 ``[n]``; silence stays silent.

    Raises:
        ValueError: there are no samples, or they hold what is no finite number.
    """
    samples = checked(samples)
    loudness = np.sqrt(np.mean(np.square(samples, dtype=np.float64)))
    wanted = 10 ** (LEVEL_DBFS / 20)
    return samples * np.float32(wanted / loudness) if 0 < loudness < wanted else samples


def mel_powers(samples: np.ndarray) -> Tensor:
    """Librosa's mel spectrogram of a stretch, float32 ``[frames, 40]``: a frame around every 160th sample, silence on
    either side."""
    spectrum = torch.stft(
        torch.from_numpy(np.ascontiguousarray(samples, np.float32)),
        _FFT,
        _HOP,
        window=torch.hann_window(_FFT),
        pad_mode="constant",
        return_complex=True,
    )
    return (_mel_filters() @ spectrum.abs().square()).T


@functools.cache
def _mel_filters() -> Tensor:
    """Float32 ``[40, 201]``."""
    from librosa.filters import mel  # slow to import, and only this backend needs it

    return torch.from_numpy(mel(sr=SAMPLE_RATE, n_fft=_FFT, n_mels=MEL_BANDS))


def read_network(path: Path) -> VoiceEncoder:
    """The network with the weights of a checkpoint.

    Raises:
        BackendUnavailable: the file holds something else.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)["model_state"]
        # Two numbers beside the layers scale similarities in training.
        layers = {name: value for name, value in state.items() if not name.startswith("similarity_")}
        network = VoiceEncoder()
        network.load_state_dict(layers)
    except (RuntimeError, TypeError, AttributeError, KeyError, EOFError, pickle.UnpicklingError) as error:
        why = " ".join(str(error).split())[:200]
        raise BackendUnavailable(
            f"{path} does not hold {WEIGHTS} ({why}): delete it and fetch again"
        ) from error
    return network.eval()
