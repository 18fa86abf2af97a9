"""What lies in a folder of this machine, links followed: one call to the system per entry."""

from __future__ import annotations

import errno
import os
import stat
from typing import Any

_NOWHERE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)


def local_entries(folder: str) -> list[dict[str, Any]]:
    """As `fsspec.AbstractFileSystem.ls` would: ``name``, ``type``, ``size`` and ``mtime``, those of a link's target.

    Datasets are commonly folders of links (git-annex, DVC, the caches of model hubs). An entry that is a link has
    ``link``; one that cannot be looked at has a ``problem`` and the type ``other``.

    Raises:
        OSError: the folder cannot be listed.
    """
    with os.scandir(folder) as scan:
        return [listed for entry in scan if (listed := _entry(entry)) is not None]


def real_folder(entry: dict[str, Any], inside: str) -> str:
    """Where an entry of the type ``directory`` really is; ``inside`` is where its folder really is."""
    if entry.get("link"):
        return os.path.realpath(entry["name"])
    return f"{inside.rstrip('/')}/{entry['name'].rpartition('/')[2]}"


def lies_above(folder: str, others: tuple[str, ...]) -> bool:
    """Whether one of ``others`` is below ``folder``; all are real."""
    return any(other.startswith(folder.rstrip("/") + "/") for other in others)


def _entry(entry: os.DirEntry[str]) -> dict[str, Any] | None:
    link = entry.is_symlink()
    try:
        status = entry.stat()
    except OSError as error:
        if error.errno == errno.ENOENT and not link:  # gone in this moment
            return None
        nowhere = link and error.errno in _NOWHERE
        problem = "is a link that leads nowhere" if nowhere else f"cannot be looked at: {error.strerror}"
        return {"name": entry.path, "type": "other", "problem": problem}
    mode = status.st_mode
    kind = "directory" if stat.S_ISDIR(mode) else "file" if stat.S_ISREG(mode) else "other"
    listed = {"name": entry.path, "type": kind, "size": status.st_size, "mtime": status.st_mtime}
    return {**listed, "link": True} if link else listed
