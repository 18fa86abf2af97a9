"""What the backends with a network share."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import torch
from torch import nn

from pipeline.errors import UserError
from pipeline.models.device import bf16_supported

AMP = ("auto", "true", "false")


def use_amp(wanted: str, device: str) -> bool:
    """Decide on bfloat16 autocast.

    Args:
        wanted: one of `AMP`. ``auto`` asks for instructions that compute in bfloat16: without them torch gives
            right numbers ten times more slowly than in float32.
        device: where the network runs.
    """
    if wanted not in AMP:
        raise UserError(f"separation.amp={wanted} is not one of {', '.join(AMP)}")
    if wanted == "false" or not bf16_supported(device):
        return False
    return wanted == "true" or device != "cpu" or cpu_computes_bf16()


def cpu_computes_bf16() -> bool:
    """Whether this CPU has AVX512-BF16 or AMX, as far as torch can tell; not by timing, which load would change."""
    probes = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(getattr(torch.cpu, probe, bool)() for probe in probes)


def parameters_hash(models: Iterable[nn.Module], extra: str = "") -> str:
    """Sha256 over ``extra``, names and values, hex: the same however the weights were packed on disk."""
    sha = hashlib.sha256(extra.encode())
    for model in models:
        for name, tensor in sorted(model.state_dict().items()):
            sha.update(name.encode())
            sha.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return sha.hexdigest()
