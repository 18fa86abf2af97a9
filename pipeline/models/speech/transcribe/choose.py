"""Which backend transcribes, and why that one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from pipeline.errors import Fallback, UserError
from pipeline.models.backends import LoadedBackends, first_that_runs, no_backend
from pipeline.models.speech.transcribe import sphinx, whisper
from pipeline.models.speech.transcribe.names import AUTO, AUTOMATIC, BACKEND_NAMES, TranscribeOptions
from pipeline.models.speech.transcribe.transcript import Transcriber

REGISTRY: dict[str, Callable[[str, TranscribeOptions], Transcriber]] = {
    whisper.NAME: whisper.load,
    sphinx.NAME: sphinx.load,
}
"""Name → how to load it for a device; a new backend is a module and a line here."""

_LOADED = LoadedBackends()
forget_backends = _LOADED.forget


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
        raise no_backend("there is no transcription backend {}", name, [*BACKEND_NAMES, AUTO])
    options = options or TranscribeOptions()
    return _LOADED.get(f"transcribe:{name}", repr(options), device, lambda: REGISTRY[name](device, options))


def choose(
    backends: Sequence[str],
    load: Callable[[str], Transcriber] = load_backend,
    *,
    language: str | None = None,
) -> TranscriberChoice:
    """Walk an ordered list and take the first backend that runs here and knows the language.

    Args:
        backends: names, the wanted one first, or ``["auto"]``, which is `AUTOMATIC`.
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
    name, transcriber, reasons = first_that_runs(
        AUTOMATIC if auto else backends, load, lambda found: found.refuses(language)
    )
    if transcriber is None:
        return TranscriberChoice(None, "; ".join(reasons), _fallback(backends[0], name, reasons))
    fallback = None if auto or not reasons else _fallback(backends[0], name, reasons)
    return TranscriberChoice(transcriber, "; ".join([AUTO if auto else "listed", *reasons]), fallback)


def _fallback(wanted: str, used: str, reasons: list[str]) -> Fallback:
    return Fallback("transcribe", wanted, used, "; ".join(reasons))
