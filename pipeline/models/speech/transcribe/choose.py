"""Which backend transcribes, and why that one."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from typing import NamedTuple

from pipeline.errors import Fallback, UserError
from pipeline.models.model_cache import MODELS, ModelKey
from pipeline.models.speech.base import BackendUnavailable
from pipeline.models.speech.transcribe import whisper
from pipeline.models.speech.transcribe.names import AUTO, BACKEND_NAMES, TranscribeOptions
from pipeline.models.speech.transcribe.transcript import Transcriber
from pipeline.models.weights import root

REGISTRY: dict[str, Callable[[str, TranscribeOptions], Transcriber]] = {whisper.NAME: whisper.load}
"""Name → how to load it for a device; a new backend is a module and a line here."""

# Why a backend is not there; those that are lie in the cache of models.
_MISSING: dict[ModelKey, str] = {}
_ASKED: set[ModelKey] = set()


class TranscriberChoice(NamedTuple):
    """What `choose` decided.

    Args:
        transcriber: None where no backend can do it.
        reason: why it was this one, with what was passed over.
        fallback: the step away from the first backend that was listed; None where there is none.
    """

    transcriber: Transcriber | None
    reason: str
    fallback: Fallback | None


def load_backend(name: str, device: str = "cpu", options: TranscribeOptions | None = None) -> Transcriber:
    """The backend called ``name``, loaded once per process and device; so is the reason why it is not there.

    Raises:
        BackendUnavailable: it cannot run here.
        UserError: there is no such name, or an option is not possible.
    """
    if name not in REGISTRY:
        known = [*BACKEND_NAMES, AUTO]
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {near[0]}?" if near else f"use one of {', '.join(known)}"
        raise UserError(f"there is no transcription backend {name!r}", do=hint)
    options = options or TranscribeOptions()
    # With the store in the key: what lies in another one is another model, or none.
    key = ModelKey(f"transcribe:{name}", f"{options!r} in {root()}", device)
    if key not in _MISSING:
        _ASKED.add(key)
        try:
            return MODELS.get(key, lambda: REGISTRY[name](device, options))
        except BackendUnavailable as error:
            _MISSING[key] = str(error)
    raise BackendUnavailable(_MISSING[key])


def forget_backends() -> None:
    """Load afresh from now on, for example after weights were fetched; the memory is given back."""
    _MISSING.clear()
    for key in _ASKED:
        MODELS.release(key)
    _ASKED.clear()


def choose(
    backends: Sequence[str],
    load: Callable[[str], Transcriber] = load_backend,
    *,
    language: str | None = None,
) -> TranscriberChoice:
    """Walk an ordered list and take the first backend that runs here and knows the language.

    Args:
        backends: names, the wanted one first, or ``["auto"]``, which is all of them, best first.
        load: name → backend; raises `BackendUnavailable`.
        language: ISO 639-1; None is found out.

    Raises:
        UserError: the list is empty, or holds an unknown name.
    """
    if not backends:
        raise UserError(
            "no transcription backend is named", do=f"use {AUTO} or some of {', '.join(BACKEND_NAMES)}"
        )
    auto = list(backends) == [AUTO]
    reasons = []
    for name in BACKEND_NAMES if auto else backends:
        try:
            transcriber = load(name)
            refusal = transcriber.refuses(language)
        except BackendUnavailable as error:
            refusal = str(error)
        if refusal is None:
            fallback = None if auto or not reasons else _fallback(backends[0], name, reasons)
            return TranscriberChoice(transcriber, "; ".join([AUTO if auto else "listed", *reasons]), fallback)
        reasons.append(f"{name}: {refusal}")
    return TranscriberChoice(None, "; ".join(reasons), _fallback(backends[0], "none", reasons))


def _fallback(wanted: str, used: str, reasons: list[str]) -> Fallback:
    return Fallback("transcribe", wanted, used, "; ".join(reasons))
