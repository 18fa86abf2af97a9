"""Which backend denoises a recording, and why that one."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from typing import NamedTuple

from pipeline.errors import Fallback, UserError
from pipeline.models.backends import LoadedBackends, first_that_runs, no_backend
from pipeline.models.separation.names import SeparationOptions
from pipeline.models.speech.base import Denoiser
from pipeline.models.speech.denoise.names import AUTO, BACKEND_NAMES

# Imported when they are asked for: nobody pays for the runtime of a backend that is not used.
_CLASSES = {
    "deepfilternet": "DeepFilterNet",
    "dtln": "Dtln",
    "spleeter": "SpleeterDenoiser",
    "demucs": "DemucsDenoiser",
}

_LOADED = LoadedBackends()
forget_backends = _LOADED.forget


class DenoiserChoice(NamedTuple):
    """What `choose` decided.

    Args:
        denoiser: None where no backend runs here.
        reason: why it was this one, with what was passed over.
        fallback: the step away from the first that was listed, or that ``auto`` would take; None where there is none.
    """

    denoiser: Denoiser | None
    reason: str
    fallback: Fallback | None


def load_backend(
    name: str, device: str = "cpu", threads: int = 1, *, separation: SeparationOptions | None = None
) -> Denoiser:
    """The backend called ``name``, loaded once per process and device; so is the reason why it is not there.

    Args:
        name: one of `BACKEND_NAMES`.
        device: for the separation backends; the others run on the CPU.
        threads: of onnxruntime.
        separation: what the separation backends are told, such as which demucs model.

    Raises:
        BackendUnavailable: it cannot run here.
        UserError: there is no such name, or what ``separation`` names is not there.
    """
    if name not in _CLASSES:
        raise no_backend("there is no backend {} for denoising", name, [*BACKEND_NAMES, AUTO])
    options = separation or SeparationOptions()
    backend = getattr(importlib.import_module(f"pipeline.models.speech.denoise.{name}"), _CLASSES[name])
    told = f"threads={threads}, {options!r}"
    return _LOADED.get(f"denoise:{name}", told, device, lambda: backend.load(device, threads, options))


def choose(backends: Sequence[str], load: Callable[[str], Denoiser] = load_backend) -> DenoiserChoice:
    """Walk an ordered list and take the first backend that runs here.

    Args:
        backends: names, the wanted one first, or ``["auto"]``, which is `BACKEND_NAMES`.
        load: name → backend; raises `BackendUnavailable`.

    Raises:
        UserError: the list is empty, or holds an unknown name.
    """
    if not backends:
        raise UserError("no backend for denoising is named", do=f"use one of {', '.join(BACKEND_NAMES)}")
    auto = list(backends) == [AUTO]
    name, denoiser, reasons = first_that_runs(BACKEND_NAMES if auto else backends, load)
    if denoiser is None:
        return DenoiserChoice(None, "; ".join(reasons), _fallback(backends[0], name, reasons))
    fallback = _fallback(backends[0], name, reasons) if reasons else None
    return DenoiserChoice(denoiser, "; ".join([AUTO if auto else "listed", *reasons]), fallback)


def _fallback(wanted: str, used: str, reasons: list[str]) -> Fallback:
    return Fallback("denoise", wanted, used, "; ".join(reasons))
