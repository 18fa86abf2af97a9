"""ECAPA-TDNN speaker embeddings, of the package speechbrain and with weights that its user has.

Network and features are SpeechBrain's own, put together as its model ``spkrec-ecapa-voxceleb`` describes them: 80 mel
bands without their mean over the stretch, and 192 values. Built here and not by the model's own description, which
would be run as code and would ask the hub. Of the model nothing but ``embedding_model.ckpt`` is read. What similarities
of its vectors mean nobody has measured here: they are taken to be as CAM++'s.
"""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipeline.models import weights
from pipeline.models.speech.base import BackendUnavailable
from pipeline.models.speech.diarize_names import OWN_MODELS
from pipeline.models.speech.embedding_batches import BatchEmbedder, checked
from pipeline.models.speech.hub_model import model_folder
from pipeline.optional import look_up

NAME = "ecapa"
PACKAGE = "speechbrain>=1,<2"
WEIGHTS_FILE = "embedding_model.ckpt"
DIMENSIONS = 192
MEL_BANDS = 80

_SHORTEST = 1600
"""Samples, 0.1 s: less is repeated until it is so long."""
_SHAPE = {
    "channels": [1024, 1024, 1024, 1024, 3072],
    "kernel_sizes": [5, 3, 3, 3, 1],
    "dilations": [1, 2, 3, 4, 1],
    "attention_channels": 128,
    "lin_neurons": DIMENSIONS,
}


class EcapaEmbedder(BatchEmbedder):
    """SpeechBrain's ECAPA-TDNN with its weights, on the CPU or a GPU.

    Args:
        features: samples ``[batch, n]`` → log mel energies ``[batch, frames, 80]``.
        network: those → ``[batch, 1, 192]``; in evaluation mode.
        digest: sha256 of its weights, hex.
    """

    dimensions = DIMENSIONS

    def __init__(self, features: Any, network: Any, digest: str = "") -> None:
        self.features, self.network, self.digest = features, network, digest

    @classmethod
    def load(cls, device: str = "cpu", model: str | None = None) -> EcapaEmbedder:
        """Build it with the weights of a folder, or of the hub's cache.

        Args:
            device: ``cpu`` or ``cuda``.
            model: a folder with `WEIGHTS_FILE`, or ``owner/name``; None is SpeechBrain's own.

        Raises:
            BackendUnavailable: the package or the weights are missing, or do not fit; what to type.
            UserError: there can be no model of that name.
        """
        package = look_up("speechbrain", load=True)
        if not package.available:
            raise BackendUnavailable(f"{package.reason.split(';')[0]}; type `pip install '{PACKAGE}'`")
        path = model_folder(model or OWN_MODELS[NAME], [WEIGHTS_FILE]) / WEIGHTS_FILE
        from speechbrain.lobes.features import Fbank
        from speechbrain.lobes.models.ECAPA_TDNN import ECAPA_TDNN

        features, network = Fbank(n_mels=MEL_BANDS), ECAPA_TDNN(MEL_BANDS, **_SHAPE)
        _read_into(network, path)
        digest = weights.file_sha256(path.resolve())
        return cls(features.to(device).eval(), network.to(device).eval(), digest)

    def model_id(self) -> str:
        """Name and weights hash."""
        return f"{NAME}:{self.digest}"

    def _batch(self, windows: list[np.ndarray]) -> np.ndarray:
        device = next(self.network.parameters()).device
        long = [w if len(w) >= _SHORTEST else np.resize(w, _SHORTEST) for w in map(checked, windows)]
        with torch.inference_mode():
            bands = self.features(torch.from_numpy(np.stack(long)).to(device))
            return self.network(bands - bands.mean(dim=1, keepdim=True))[:, 0].cpu().numpy()


def _read_into(network: Any, path: Path) -> None:
    """Give a network the weights of a checkpoint. Raises `BackendUnavailable` where the file holds something else."""
    try:
        network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    except (RuntimeError, TypeError, AttributeError, EOFError, pickle.UnpicklingError) as error:
        why = " ".join(str(error).split())[:200]
        raise BackendUnavailable(
            f"{path} does not hold the weights of {OWN_MODELS[NAME]} ({why}): give another folder"
        ) from error
