"""Which backend says where somebody speaks, and why that one."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Callable, Sequence
from typing import NamedTuple

from pipeline.errors import Fallback, UserError
from pipeline.models.model_cache import MODELS, ModelKey
from pipeline.models.speech.base import BackendUnavailable, VoiceActivity
from pipeline.models.speech.voice_activity.activity import ActivityOptions
from pipeline.models.speech.voice_activity.names import AUTO, BACKEND_NAMES
from pipeline.models.weights import root

# Imported when they are asked for: nobody pays for the runtime of a backend that is not used.
_CLASSES = {
    "firered": "FireRed",
    "silero": "Silero",
    "seg3": "Segmentation",
    "energy": "Energy",
    AUTO: "Auto",
}

# Why a backend is not there; those that are lie in the cache of models.
_MISSING: dict[ModelKey, str] = {}
_ASKED: set[ModelKey] = set()


class ActivityChoice(NamedTuple):
    """What `choose` decided.

    Args:
        backend: None where no backend of the list runs here.
        reason: why it was this one, with what was passed over.
        fallback: the step away from the first backend that was listed; None where there is none.
    """

    backend: VoiceActivity | None
    reason: str
    fallback: Fallback | None


def load_backend(name: str, options: ActivityOptions | None = None, threads: int = 1) -> VoiceActivity:
    """The backend called ``name``, loaded once per process; so is the reason why it is not there.

    Args:
        name: one of `BACKEND_NAMES`, or ``auto``, which chooses between the first two as it goes.
        options: what makes frames a region.
        threads: of the backend's runtime.

    Raises:
        BackendUnavailable: it cannot run here.
        UserError: there is no such name.
    """
    if name not in _CLASSES:
        near = difflib.get_close_matches(name, _CLASSES, n=1)
        hint = f"did you mean {near[0]}?" if near else f"use one of {', '.join((*BACKEND_NAMES, AUTO))}"
        raise UserError(f"there is no backend {name!r} for voice activity", do=hint)
    options = options or ActivityOptions()
    # With the store in the key: what lies in another one is another model, or none.
    key = ModelKey(f"activity:{name}", f"threads={threads}, {options!r}, in {root()}", "cpu")
    if key not in _MISSING:
        _ASKED.add(key)
        module = importlib.import_module(f"pipeline.models.speech.voice_activity.{name}")
        backend = getattr(module, _CLASSES[name])
        try:
            return MODELS.get(key, lambda: backend.load(options, threads=threads))
        except BackendUnavailable as error:
            _MISSING[key] = str(error)
    raise BackendUnavailable(_MISSING[key])


def forget_backends() -> None:
    """Load afresh from now on, for example after weights were fetched; the memory is given back."""
    _MISSING.clear()
    for key in _ASKED:
        MODELS.release(key)
    _ASKED.clear()


def choose(backends: Sequence[str], load: Callable[[str], VoiceActivity] = load_backend) -> ActivityChoice:
    """Walk an ordered list and take the first backend that runs here.

    Args:
        backends: names, the wanted one first, or ``["auto"]``: the choice between the first two of `BACKEND_NAMES`,
            and where one of them is missing the first that is not.
        load: name → backend; raises `BackendUnavailable`.

    Raises:
        UserError: the list is empty, or holds an unknown name.
    """
    if not backends:
        raise UserError("no backend for voice activity is named", do=f"use one of {', '.join(BACKEND_NAMES)}")
    walked = (AUTO, *BACKEND_NAMES) if list(backends) == [AUTO] else tuple(backends)
    reasons = []
    for name in walked:
        try:
            backend = load(name)
        except BackendUnavailable as error:
            reasons.append(f"{name}: {error}")
            continue
        how = AUTO if walked[0] == AUTO else "listed"
        fallback = _fallback(walked[0], name, reasons) if reasons else None
        return ActivityChoice(backend, "; ".join([how, *reasons]), fallback)
    return ActivityChoice(None, "; ".join(reasons), _fallback(walked[0], "none", reasons))


def _fallback(wanted: str, used: str, reasons: list[str]) -> Fallback:
    return Fallback("vad", wanted, used, "; ".join(reasons))
