"""Where the files of a Whisper model lie, what they are called, and in which number format it runs."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import UserError
from pipeline.models import weights
from pipeline.models.speech.base import BackendUnavailable
from pipeline.models.speech.transcribe.names import AUTO, PRECISIONS, STORED_MODELS
from pipeline.optional import extra, look_up
from pipeline.places import expanded, has_file

MODEL_FILE = "model.bin"


@dataclass(frozen=True)
class ModelFiles:
    """A model on this disk.

    Args:
        folder: with ``model.bin`` and its json files.
        name: as in the configuration; of a folder its last part.
        sha256: of ``model.bin``, hex.
    """

    folder: Path
    name: str
    sha256: str


def find_model(model: str) -> ModelFiles:
    """The files of a model: from the store, a folder, or the hub's cache. Nothing is ever downloaded.

    Args:
        model: as `TranscribeOptions.model`.

    Raises:
        BackendUnavailable: it is not there; one line with what to type.
        UserError: the hub has no model of that name, or the files are damaged.
    """
    if model in STORED_MODELS:
        path = weights.find(STORED_MODELS[model])
        if path is None:
            raise BackendUnavailable(weights.missing(STORED_MODELS[model]))
        return ModelFiles(path.parent, model, weights.weights_hash(path))
    folder = expanded(model)
    name = model
    if folder.is_dir():
        name = folder.resolve().name
    elif model.startswith((".", "/", "~")):
        raise BackendUnavailable(f"there is no folder {model}: give one with {MODEL_FILE} and its json files")
    else:
        folder = _in_hub_cache(model)
    if not has_file(folder / MODEL_FILE):
        raise BackendUnavailable(f"{folder} has no {MODEL_FILE}: it is no Whisper model for CTranslate2")
    if not has_file(folder / "tokenizer.json"):
        # Without it faster-whisper would ask the hub, with a network or not.
        raise BackendUnavailable(f"{folder} has no tokenizer.json: copy that of the original model into it")
    return ModelFiles(folder, name, weights.file_sha256((folder / MODEL_FILE).resolve()))


def _in_hub_cache(model: str) -> Path:
    """The snapshot of a model in the cache of huggingface_hub."""
    needs_package()
    from faster_whisper.utils import _MODELS, download_model
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    repository = model if "/" in model else _MODELS.get(model)
    if repository is None:
        known = ", ".join(dict.fromkeys([*STORED_MODELS, *_MODELS]))
        raise UserError(
            f"there is no Whisper model {model!r}", do=f"name a folder, owner/name or one of {known}"
        )
    try:
        return Path(download_model(repository, local_files_only=True))
    except HFValidationError as error:
        raise UserError(f"there is no Whisper model {model!r}", do="name a folder, or owner/name") from error
    except LocalEntryNotFoundError as error:
        raise BackendUnavailable(
            f"Whisper {model} is not in the hub's cache: type `hf download {repository}` where there is a network, "
            "or give the folder that it lies in"
        ) from error


def needs_package() -> None:
    """Say what to install where faster-whisper does not load. Raises `BackendUnavailable`."""
    reason = _package_problem()
    if reason:
        raise BackendUnavailable(reason)


@functools.cache
def _package_problem() -> str | None:
    found = look_up("faster_whisper", load=True)
    if found.available:
        return None
    why = found.reason.split(";")[0]
    return f"{why}; type `{extra('speech')}`"


def compute_type(precision: str, device: str) -> str:
    """CTranslate2's name of a number format on ``cpu`` or ``cuda``.

    Raises:
        UserError: there is no such precision.
        BackendUnavailable: the device does not compute in it.
    """
    if precision not in PRECISIONS:
        raise UserError(f"precision={precision} is not one of {', '.join(PRECISIONS)}")
    needs_package()
    import ctranslate2

    try:
        supported = ctranslate2.get_supported_compute_types(device)
    except (RuntimeError, ValueError) as error:  # built without CUDA, or no card
        raise BackendUnavailable(f"CTranslate2 does not run on {device}: {error}") from error
    if precision == AUTO:
        order = ("int8",) if device == "cpu" else ("bfloat16", "float16", "float32")
        return next(name for name in order if name in supported or name == order[-1])
    if precision not in supported:
        known = ", ".join(name for name in PRECISIONS if name in supported)
        raise BackendUnavailable(f"CTranslate2 does not compute in {precision} on this {device}: use {known}")
    return precision
