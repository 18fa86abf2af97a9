"""What the backends with a network share."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from torch import nn

from pipeline.errors import UserError
from pipeline.models.device import bf16_supported

AMP = ("auto", "true", "false")


def use_amp(wanted: str, device: str, pays: bool = True) -> bool:
    """Decide on bfloat16 autocast.

    Args:
        wanted: one of `AMP`.
        device: where the network runs.
        pays: whether this backend was measured to gain from it; ``auto`` asks.
    """
    if wanted not in AMP:
        raise UserError(f"separation.amp={wanted} is not one of {', '.join(AMP)}")
    return wanted != "false" and bf16_supported(device) and (pays or wanted == "true")


def parameters_hash(models: Iterable[nn.Module], extra: str = "") -> str:
    """Sha256 over ``extra``, names and values, hex: the same however the weights were packed on disk."""
    sha = hashlib.sha256(extra.encode())
    for model in models:
        for name, tensor in sorted(model.state_dict().items()):
            sha.update(name.encode())
            sha.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return sha.hexdigest()
