"""What lies in the folders of this machine: one call to the system per entry, links followed, every folder once."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any


class LocalFolders:
    """Lists folders below a root as `fsspec.AbstractFileSystem.ls` would: ``name``, ``type``, ``size`` and ``mtime``.

    Datasets are commonly folders of links (git-annex, DVC, the caches of model hubs). A link to a file is that file. A
    link to a folder is walked like a folder, unless it is walked anyway or leads around in a circle: not if its target
    lies below the root or above it, and each target once.

    Args:
        root: where the walk begins.
    """

    def __init__(self, root: str) -> None:
        self._root = Path(root).resolve()
        self._targets: set[Path] = set()

    def entries(self, folder: str) -> list[dict[str, Any]]:
        """The entries of ``folder``; one that is no file and no folder has a ``problem``, or the type ``other``.

        Raises:
            OSError: the folder cannot be listed.
        """
        found = []
        with os.scandir(folder) as scan:
            for entry in scan:
                listed = self._entry(entry)
                if listed is not None:
                    found.append(listed)
        return found

    def follows(self, entry: dict[str, Any]) -> bool:
        """Whether to walk into an entry of the type ``directory``."""
        if not entry.get("link"):
            return True
        target = Path(entry["name"]).resolve()
        if target in self._targets or target.is_relative_to(self._root) or self._root.is_relative_to(target):
            return False
        self._targets.add(target)
        return True

    @staticmethod
    def _entry(entry: os.DirEntry[str]) -> dict[str, Any] | None:
        link = entry.is_symlink()
        try:
            status = entry.stat()
        except OSError as error:
            if link:
                problem = "is a link that leads nowhere"
            elif isinstance(error, FileNotFoundError):  # gone in this moment
                return None
            else:
                problem = f"cannot be looked at: {error.strerror}"
            return {"name": entry.path, "type": "other", "problem": problem}
        mode = status.st_mode
        kind = "directory" if stat.S_ISDIR(mode) else "file" if stat.S_ISREG(mode) else "other"
        listed = {"name": entry.path, "type": kind, "size": status.st_size, "mtime": status.st_mtime}
        return {**listed, "link": True} if link else listed
