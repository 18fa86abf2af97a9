"""Models of the Hugging Face hub that lie on this disk: in a folder, or in the hub's cache. Nothing is downloaded."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pipeline.errors import UserError
from pipeline.models.speech.base import BackendUnavailable
from pipeline.places import expanded, has_file


def model_folder(model: str, needs: Sequence[str]) -> Path:
    """Where the files of a model lie.

    Args:
        model: a folder, or ``owner/name`` of the hub, whose cache is looked into.
        needs: files that have to be there, relative to the folder.

    Raises:
        BackendUnavailable: it is not here, or not all of it; one line with what to type.
        UserError: that is no name of a model.
    """
    folder = expanded(model)
    get = "give another folder, or owner/name"
    if not folder.is_dir():
        if model.startswith((".", "/", "~")):
            raise BackendUnavailable(f"there is no folder {model}: {get}")
        folder = _in_cache(model)
        get = f"type `{download(model)}` where there is a network"
    missing = [name for name in needs if not has_file(folder / name)]
    if missing:
        raise BackendUnavailable(f"{folder} has no {missing[0]} that can be read: {get}")
    return folder


def download(model: str) -> str:
    """What is typed to bring a model of the hub into its cache."""
    return f"hf download {model}"


def _in_cache(model: str) -> Path:
    """The snapshot of a model in the cache of huggingface_hub."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(model, local_files_only=True))
    except HFValidationError as error:
        raise UserError(f"there is no model {model!r}", do="name a folder, or owner/name") from error
    except LocalEntryNotFoundError as error:
        raise BackendUnavailable(
            f"{model} is not in the hub's cache: type `{download(model)}` where there is a network, "
            "with HF_TOKEN set where its page asks for consent; or give the folder that it lies in"
        ) from error
