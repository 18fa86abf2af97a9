"""Which backend denoises a recording, and why that one."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Callable, Sequence
from typing import NamedTuple

from pipeline.errors import Fallback, UserError
from pipeline.models.model_cache import MODELS, ModelKey
from pipeline.models.separation.names import SeparationOptions
from pipeline.models.speech.base import BackendUnavailable, Denoiser
from pipeline.models.speech.denoise.names import AUTO, BACKEND_NAMES
from pipeline.models.weights import root

# Imported when they are asked for: nobody pays for the runtime of a backend that is not used.
_CLASSES = {
    "deepfilternet": "DeepFilterNet",
    "dtln": "Dtln",
    "spleeter": "SpleeterDenoiser",
    "demucs": "DemucsDenoiser",
}

# Why a backend is not there; those that are lie in the cache of models.
_MISSING: dict[ModelKey, str] = {}
_ASKED: set[ModelKey] = set()


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
        known = [*BACKEND_NAMES, AUTO]
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {near[0]}?" if near else f"use one of {', '.join(known)}"
        raise UserError(f"there is no backend {name!r} for denoising", do=hint)
    # With the store in the key: what lies in another one is another model, or none.
    options = separation or SeparationOptions()
    key = ModelKey(f"denoise:{name}", f"threads={threads}, {options!r}, in {root()}", device)
    if key not in _MISSING:
        _ASKED.add(key)
        backend = getattr(importlib.import_module(f"pipeline.models.speech.denoise.{name}"), _CLASSES[name])
        try:
            return MODELS.get(key, lambda: backend.load(device, threads, options))
        except BackendUnavailable as error:
            _MISSING[key] = str(error)
    raise BackendUnavailable(_MISSING[key])


def forget_backends() -> None:
    """Load afresh from now on, for example after weights were fetched; the memory is given back."""
    _MISSING.clear()
    for key in _ASKED:
        MODELS.release(key)
    _ASKED.clear()


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
    auto, reasons = list(backends) == [AUTO], []
    for name in BACKEND_NAMES if auto else backends:
        try:
            denoiser = load(name)
        except BackendUnavailable as error:
            reasons.append(f"{name}: {error}")
            continue
        fallback = _fallback(backends[0], name, reasons) if reasons else None
        return DenoiserChoice(denoiser, "; ".join([AUTO if auto else "listed", *reasons]), fallback)
    return DenoiserChoice(None, "; ".join(reasons), _fallback(backends[0], "none", reasons))


def _fallback(wanted: str, used: str, reasons: list[str]) -> Fallback:
    return Fallback("denoise", wanted, used, "; ".join(reasons))
