"""What the backends share that cut a track into overlapping windows."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import torch
from torch import Tensor, nn


def triangle(size: int) -> Tensor:
    """demucs's transition weights with ``transition_power=1``: they rise to 1 in the middle and fall again.

    Shape:
        - returns: float32 ``[size]``
    """
    rising = torch.arange(1, size // 2 + 1)
    weight = torch.cat([rising, torch.arange(size - size // 2, 0, -1)])
    return weight / weight.max()


def parameters_hash(models: Iterable[nn.Module], extra: str = "") -> str:
    """Sha256 over ``extra``, names and values, hex: the same however the weights were packed on disk."""
    sha = hashlib.sha256(extra.encode())
    for model in models:
        for name, tensor in sorted(model.state_dict().items()):
            sha.update(name.encode())
            sha.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return sha.hexdigest()
