"""What the backends with a network share."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import torch
from torch import nn

from pipeline.models.precision import pick_precision


def use_amp(wanted: str, device: str) -> bool:
    """Whether a backend runs in bfloat16 autocast, see `pick_precision`."""
    return pick_precision(wanted, device).dtype == torch.bfloat16


def parameters_hash(models: Iterable[nn.Module], extra: str = "") -> str:
    """Sha256 over ``extra``, names and values, hex: the same however the weights were packed on disk."""
    sha = hashlib.sha256(extra.encode())
    for model in models:
        for name, tensor in sorted(model.state_dict().items()):
            sha.update(name.encode())
            sha.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return sha.hexdigest()
