"""Where the weights of a demucs model are: a folder the user names, a cache, or, if asked for, the hub."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
import yaml
from torch import nn

from pipeline.errors import UserError
from pipeline.models.separation.base import BackendUnavailable
from pipeline.places import expanded, has_file

_TIMEOUT_SECONDS = 20.0


def find_model(name: str, repo: str | None = None, download: bool = False) -> nn.Module:
    """The model called ``name``, on the CPU.

    Args:
        name: as for ``demucs -n``: a bag, a signature, or ``hf://…``.
        repo: folder to take it from, and nowhere else.
        download: whether it may be fetched when no cache has it.

    Raises:
        UserError: the folder, or a model of that name in it, is not there.
        BackendUnavailable: the weights are not here or are damaged; says what to type.
    """
    if repo is not None:
        return _from_folder(name, expanded(repo))
    for look in (_from_hub_cache, _from_torch_cache):
        model = look(name)
        if model is not None:
            return model
    if not download:
        raise BackendUnavailable(
            f"{name} is in no cache of this machine: type separation.demucs_model={name} to download it, "
            "or separation.demucs_repo=FOLDER"
        )
    return _download(name)


def _from_folder(name: str, folder: Path) -> nn.Module:
    from demucs.pretrained import get_model

    if not folder.is_dir():
        raise UserError(
            f"separation.demucs_repo={folder} is not a folder",
            do="the folder with NAME.yaml and SIGNATURE.th files, or separation.demucs_model=NAME alone to download",
        )
    if not (folder / f"{name}.yaml").is_file() and not any(
        path.suffix == ".th" and path.stem.split("-")[0] == name for path in folder.iterdir()
    ):
        known = sorted(
            {path.stem.split("-")[0] for path in folder.iterdir() if path.suffix in (".yaml", ".th")}
        )
        raise UserError(
            f"separation.demucs_model={name}: {folder} holds {', '.join(known) or 'no model'} "
            "(NAME.yaml or SIGNATURE.th)"
        )
    return _loaded(name, folder, lambda: get_model(name, folder))


def _from_hub_cache(name: str) -> nn.Module | None:
    """From the hub's cache, without asking the hub whether there is something newer."""
    from demucs.apply import BagOfModels
    from demucs.hf import DEFAULT_NAMESPACE, hf_repo_name, load_safetensors_model
    from huggingface_hub import try_to_load_from_cache

    namespace, _, short = name.removeprefix("hf://").rpartition("/")
    repository = f"{namespace or DEFAULT_NAMESPACE}/{hf_repo_name(short)}"
    bag_file = try_to_load_from_cache(repository, f"{short}.yaml")
    if not isinstance(bag_file, str):
        return None
    bag = yaml.safe_load(Path(bag_file).read_text(encoding="utf-8"))
    files = [try_to_load_from_cache(repository, f"{signature}.safetensors") for signature in bag["models"]]
    if not all(isinstance(file, str) for file in files):
        return None

    def load() -> nn.Module:
        models = [load_safetensors_model(file) for file in files]
        return BagOfModels(models, bag.get("weights"), bag.get("segment"))

    return _loaded(name, Path(bag_file).parent, load)


def _from_torch_cache(name: str) -> nn.Module | None:
    """From torch's cache, where demucs 4.0 put its downloads; only files with the stated checksum."""
    from demucs.apply import BagOfModels
    from demucs.pretrained import REMOTE_ROOT, _parse_remote_files
    from demucs.repo import check_checksum
    from demucs.states import load_model

    urls = _parse_remote_files(REMOTE_ROOT / "files.txt")
    bag_file = REMOTE_ROOT / f"{name}.yaml"
    bag = yaml.safe_load(bag_file.read_text(encoding="utf-8")) if bag_file.is_file() else {"models": [name]}
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    files = [folder / urls[sig].rsplit("/", 1)[-1] for sig in bag["models"] if sig in urls]
    if len(files) < len(bag["models"]) or not all(map(has_file, files)):
        return None

    def load() -> nn.Module:
        for file in files:
            check_checksum(file, file.stem.rsplit("-", 1)[-1])
        return BagOfModels([load_model(file) for file in files], bag.get("weights"), bag.get("segment"))

    return _loaded(name, folder, load)


def _download(name: str) -> nn.Module:
    from demucs.pretrained import get_model

    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
        raise BackendUnavailable(f"{name} is in no cache of this machine and HF_HUB_OFFLINE is set: unset it")
    try:
        with socket_timeout():
            return get_model(name)
    # Whatever the clients of two hubs raise: the user gets one line.
    except (Exception, SystemExit) as error:
        why = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise BackendUnavailable(
            f"cannot download the demucs model {name} ({why}): try again online, or type "
            "separation.demucs_repo=FOLDER of its .th and .yaml files"
        ) from error


def _loaded(name: str, where: Path, load: Callable[[], nn.Module]) -> nn.Module:
    try:
        return load()
    # Unpickling raises anything; demucs's own `fatal` raises SystemExit.
    except (Exception, SystemExit) as error:
        why = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise BackendUnavailable(f"the demucs model {name} in {where} cannot be loaded: {why}") from error


@contextlib.contextmanager
def socket_timeout(seconds: float = _TIMEOUT_SECONDS) -> Iterator[None]:
    """No socket opened meanwhile waits longer for an answer."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
