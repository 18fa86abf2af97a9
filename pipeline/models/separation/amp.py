"""Whether a backend runs in bfloat16."""

from __future__ import annotations

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
