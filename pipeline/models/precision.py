"""In which number format a network's matrices run: bfloat16 where the device computes in it, else float32."""

from __future__ import annotations

import platform
from dataclasses import dataclass

from pipeline.errors import Fallback, UserError
from pipeline.late import torch
from pipeline.models.device import bf16_supported

AMP = ("auto", "true", "false")


@dataclass(frozen=True)
class Precision:
    """A number format and why it was taken.

    Args:
        dtype: ``torch.float32`` or ``torch.bfloat16``.
        wanted: what was asked for, one of `AMP`.
        reason: one line.
    """

    dtype: torch.dtype
    wanted: str
    reason: str

    @property
    def name(self) -> str:
        """``float32`` or ``bfloat16``."""
        return str(self.dtype).removeprefix("torch.")

    def fallback(self, stage: str) -> Fallback | None:
        """The step away from what was asked for, or None. ``auto`` asks for nothing in particular."""
        if self.wanted != "true" or self.dtype == torch.bfloat16:
            return None
        return Fallback(stage, "bfloat16", "float32", self.reason)


def normalise_amp(value: object, key: str = "amp") -> str:
    """``auto``, ``true`` or ``false`` from what a command line, YAML or environment variable gives for ``key``.

    Raises:
        UserError: it is none of them.
    """
    word = amp_word(value)
    if word not in AMP:
        raise UserError(f"{key}={value} is not one of {', '.join(AMP)}", do=f"{key}=auto")
    return word


def amp_word(value: object) -> str:
    """``value`` in the spelling of `AMP`, where it is one of them: ``True``, ``TRUE`` and ``1`` are ``true``."""
    word = str(value).strip().lower()
    return {"1": "true", "0": "false"}.get(word, word)


def pick_precision(wanted: object, device: str) -> Precision:
    """Choose the number format of a network's matrices on ``device``.

    The probe asks for the instructions and not for a stopwatch, which other work on the machine would sway:
    the processes of one run choose alike, and so does the next run. Where a CPU lacks them, bfloat16 is
    emulated at a fraction of the speed of float32 (measured on a Zen 3: 2 to 30 times slower).

    Args:
        wanted: ``auto``, ``true`` or ``false``; ``true`` falls back to float32 as ``auto`` does, and says so.
        device: ``cpu`` or ``cuda``.

    Raises:
        UserError: ``wanted`` is something else.
    """
    wanted = normalise_amp(wanted)
    if wanted == "false":
        return Precision(torch.float32, wanted, "asked for")
    if torch.device(device).type == "cpu" and not cpu_computes_bf16():
        return Precision(torch.float32, wanted, "this CPU has no bfloat16 instructions (AVX512-BF16 or AMX)")
    if not bf16_supported(device):
        return Precision(torch.float32, wanted, f"{device} does not run bfloat16")
    return Precision(torch.bfloat16, wanted, f"{device} computes in bfloat16")


def cpu_computes_bf16() -> bool:
    """Whether this CPU multiplies bfloat16 matrices in hardware, as far as torch would use it."""
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return False
    probes = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    # Private names: a torch without them is one whose kernels this version has not measured.
    return any(probe() for name in probes if (probe := getattr(torch.cpu, name, None)) is not None)
