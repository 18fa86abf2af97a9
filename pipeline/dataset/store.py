"""The atomic store: whole files below a root, each there whole or not at all, and nothing outside the root."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from pipeline.dataset.storage import absolute, filesystem, is_local, join

PUT_ATTEMPTS = 3
_SAFE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*(/[A-Za-z0-9_][A-Za-z0-9_.-]*)*")


class Store:
    """Files below ``uri``. Cheap to build; picklable, so every process opens its own connection.

    Args:
        uri: local folder or fsspec URL.
        options: storage options, as for `pipeline.dataset.storage.filesystem`.
    """

    def __init__(self, uri: str, options: dict[str, Any] | None = None) -> None:
        self.uri = absolute(uri)
        self.options = dict(options or {})
        self._fs = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_fs": None}

    @property
    def fs(self):
        """The file system, opened on first use."""
        if self._fs is None:
            self._fs, self._root = filesystem(self.uri, self.options)
        return self._fs

    def path(self, relative: str) -> str:
        """Path of ``relative`` in the file system. Raises ``ValueError`` for anything that could leave the root."""
        if not _SAFE.fullmatch(relative) or ".." in relative.split("/"):
            raise ValueError(f"unsafe output name {relative!r}")
        _ = self.fs
        return join(self._root, relative)

    def write(self, relative: str, data: bytes) -> None:
        """Write a file whole or not at all: temporary name and rename locally, one object elsewhere."""
        path = self.path(relative)
        if not is_local(self.uri):
            _retried(lambda: self.fs.pipe_file(path, data))
            return
        with _appearing(Path(path)) as temporary:
            temporary.write_bytes(data)

    def upload(self, relative: str, file: Path) -> None:
        """Copy a local file below the root without holding it in memory; whole or not at all, as `write`."""
        path = self.path(relative)
        if is_local(self.uri):
            with _appearing(Path(path)) as temporary:
                shutil.copyfile(file, temporary)
        else:
            _retried(lambda: self.fs.put_file(str(file), path))

    def discard(self, relative: str) -> None:
        """Remove a file if it is there."""
        path = self.path(relative)
        if self.fs.exists(path):
            self.fs.rm(path)

    def read(self, relative: str) -> bytes:
        """The bytes of a file."""
        return self.fs.cat_file(self.path(relative))

    def names(self, folder: str) -> list[str]:
        """Names of what lies directly in a folder, sorted; none where the folder is not there."""
        try:
            listed = self.fs.ls(self.path(folder), detail=False)
        except FileNotFoundError:
            return []
        return sorted(str(path).rstrip("/").rsplit("/", 1)[-1] for path in listed)


@contextlib.contextmanager
def _appearing(target: Path) -> Iterator[Path]:
    """A temporary name to write to, which becomes ``target`` at the end unless something was raised."""
    target.parent.mkdir(parents=True, exist_ok=True)
    # The leading dot keeps a half-written file out of every *.parquet glob.
    temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        yield temporary
        os.replace(temporary, target)  # noqa: PTH105  Path.replace is the same call
    finally:
        temporary.unlink(missing_ok=True)


def _retried(put: Callable[[], object]) -> None:
    for attempt in range(1, PUT_ATTEMPTS + 1):
        try:
            put()
        except PermissionError:
            raise
        except Exception:
            if attempt == PUT_ATTEMPTS:
                raise
            time.sleep(0.2 * 4 ** (attempt - 1))
        else:
            return
