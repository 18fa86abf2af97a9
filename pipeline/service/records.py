"""What was made of a song, written beside it: a request that comes again is answered from there."""

from __future__ import annotations

import errno
import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

from pipeline.dataset.storage import filesystem, is_local
from pipeline.dataset.store import Store
from pipeline.service.spool_files import sync

SUFFIX = ".json"
_CHUNK = 1 << 20
_NOT_FOLDERS = (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS, errno.EBADF, errno.EACCES)
"""What file systems say that write no folder down when they are asked to, or let nobody ask."""


@dataclass(frozen=True)
class Record:
    """A result and what it was made of.

    Args:
        key: of the request, see `key_of`.
        sha256, size_bytes: of the result's file.
        score: ``karaoke_score``, None where there is none.
        method: that really ran.
        seconds: that it took.
        made_by: the program and its version.
    """

    key: str
    sha256: str
    size_bytes: int
    score: float | None
    method: str
    seconds: float
    made_by: str


def key_of(video_id: str, content: str, parameters: Mapping[str, Any]) -> str:
    """What tells one piece of work from another: the video, its song's SHA-256, and what it is done with."""
    text = json.dumps([video_id, content, parameters], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def content_of(uri: str, options: Mapping[str, Any], going_on: Callable[[], None]) -> str:
    """SHA-256 of a file, hex.

    Args:
        going_on: called between pieces; what it raises ends the reading.
    """
    fs, path = filesystem(uri, dict(options))
    with fs.open(path, "rb") as file:
        return _sha256(file, going_on)


def _sha256(file: BinaryIO, going_on: Callable[[], None]) -> str:
    digest = hashlib.sha256()
    while chunk := file.read(_CHUNK):
        digest.update(chunk)
        going_on()
    return digest.hexdigest()


class Results:
    """The results in one folder, local or not.

    Args:
        folder: path or URL.
        name: of a result's file in it.
        options: storage options.
    """

    def __init__(self, folder: str, name: str, options: Mapping[str, Any]) -> None:
        self._store, self._name = Store(folder, dict(options)), name

    def find(self, key: str, going_on: Callable[[], None] = lambda: None) -> Record | None:
        """The record of the result that is there; None where it is of another key, or its file is not as it says.

        Args:
            going_on: as for `content_of`.
        """
        try:
            record = Record(**json.loads(self._store.read(self._name + SUFFIX)))
        except (FileNotFoundError, ValueError, TypeError):  # or it is no record
            return None
        if record.key != key or not self._is_there(record, going_on):
            return None
        self._outlast()  # whoever wrote it may have been killed before that
        return record

    def put(self, file: Path, record: Record) -> None:
        """Write the file, then its record: each is there whole or not at all, and a file without one is made again.

        On return both outlast a power cut, as does the answer that follows.
        """
        self._store.upload(self._name, file)
        self._store.write(self._name + SUFFIX, json.dumps(asdict(record), indent=1).encode())
        self._outlast()

    def _outlast(self) -> None:
        """Have the disk write down the file, its record and their names; what an object store has taken it has."""
        if not is_local(self._store.uri):
            return
        paths = [Path(self._store.path(self._name + suffix)) for suffix in ("", SUFFIX)]
        for path in paths:
            sync(path)
        folder = paths[0].parent
        for one in (folder, folder.parent):  # a video may have a folder of its own, which is new as well
            try:
                sync(one)
            except OSError as error:
                if error.errno not in _NOT_FOLDERS:
                    raise

    def _is_there(self, record: Record, going_on: Callable[[], None]) -> bool:
        path = self._store.path(self._name)
        try:
            if self._store.fs.size(path) != record.size_bytes:
                return False
            with self._store.fs.open(path, "rb") as file:
                return _sha256(file, going_on) == record.sha256
        except FileNotFoundError:
            return False
