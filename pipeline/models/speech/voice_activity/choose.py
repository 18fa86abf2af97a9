"""Which backend says where somebody speaks, and why that one."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from typing import NamedTuple

from pipeline.errors import Fallback, UserError
from pipeline.models.backends import LoadedBackends, first_that_runs, no_backend
from pipeline.models.speech.base import VoiceActivity
from pipeline.models.speech.voice_activity.activity import ActivityOptions
from pipeline.models.speech.voice_activity.names import AUTO, BACKEND_NAMES

# Imported when they are asked for: nobody pays for the runtime of a backend that is not used.
_CLASSES = {
    "firered": "FireRed",
    "silero": "Silero",
    "seg3": "Segmentation",
    "energy": "Energy",
    AUTO: "Auto",
}

_LOADED = LoadedBackends()
forget_backends = _LOADED.forget


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
        raise no_backend("there is no backend {} for voice activity", name, [*BACKEND_NAMES, AUTO])
    options = options or ActivityOptions()
    module = importlib.import_module(f"pipeline.models.speech.voice_activity.{name}")
    backend = getattr(module, _CLASSES[name])
    told = f"threads={threads}, {options!r}"
    return _LOADED.get(f"activity:{name}", told, "cpu", lambda: backend.load(options, threads=threads))


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
    name, backend, reasons = first_that_runs(walked, load)
    if backend is None:
        return ActivityChoice(None, "; ".join(reasons), _fallback(walked[0], name, reasons))
    fallback = _fallback(walked[0], name, reasons) if reasons else None
    return ActivityChoice(backend, "; ".join([AUTO if walked[0] == AUTO else "listed", *reasons]), fallback)


def _fallback(wanted: str, used: str, reasons: list[str]) -> Fallback:
    return Fallback("vad", wanted, used, "; ".join(reasons))
