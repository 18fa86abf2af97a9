"""The files that songs are read from: found below the allowed roots, known by their content, and held open."""

from __future__ import annotations

import hashlib
import os
import stat
import tempfile
import weakref
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any, BinaryIO

from pipeline.audio.stream import PcmStream, open_file
from pipeline.audio.validate import Limits
from pipeline.dataset.sources.addresses import file_name
from pipeline.dataset.storage import filesystem, is_local, one_line
from pipeline.service.destinations import Rules
from pipeline.service.listening.cache import Cache
from pipeline.service.logs import without_credentials
from pipeline.service.messages import FILE_NOT_FOUND, FILE_UNREADABLE, STORAGE_FAILED, Refused

_CHUNK = 1 << 20
_HASHES = 1024


class Source:
    """An open file; the file of that name may be another one meanwhile. It is closed once nobody has it any more.

    Args:
        name: the last part of its path or URL.
        content: SHA-256 of its bytes, hex.
        file: open for reading.
    """

    def __init__(self, name: str, content: str, file: BinaryIO) -> None:
        self.name, self.content = name, content
        self._file, self._state = file, _state(file)
        weakref.finalize(self, file.close)

    def open(self, limits: Limits) -> PcmStream:
        """Its samples. Raises `pipeline.audio.decode.DecodeError`."""
        return open_file(f"/proc/self/fd/{self._file.fileno()}", limits)

    def check(self) -> None:
        """Raise `OSError` where the file was written to since its content was looked at."""
        if _state(self._file) != self._state:
            raise OSError(f"{self.name} was changed while it was read")


class Sources:
    """Finds files.

    Args:
        roots: folders and URL prefixes that they may lie below.
        options: storage options of URLs.
        largest: bytes of a file that is fetched from a URL.
        folder: where fetched files lie.
    """

    def __init__(
        self,
        roots: Sequence[str],
        options: Mapping[str, Any] | None = None,
        largest: int = 1 << 30,
        folder: str | None = None,
    ) -> None:
        self._rules = Rules(roots)
        self._options, self._largest, self._folder = dict(options or {}), largest, folder
        self._hashes: Cache[str] = Cache(_HASHES)

    def find(self, path: str) -> Source:
        """The file at a path or URL; a URL is fetched.

        Raises:
            Refused: it lies below no root, is not there, is no regular file, or cannot be read.
        """
        place = self._rules.source(path)
        try:
            return self._local(place) if is_local(place) else self._remote(place)
        except FileNotFoundError:
            raise Refused(FILE_NOT_FOUND, f"there is no file {_name(place)}") from None
        except Refused:
            raise
        except Exception as error:  # noqa: BLE001  a file system may raise anything; its words may hold a signed URL
            code = FILE_UNREADABLE if is_local(place) else STORAGE_FAILED
            why = without_credentials(one_line(error, 200))
            raise Refused(code, f"{_name(place)} cannot be read: {why}") from None

    def _local(self, path: str) -> Source:
        # Whatever it was a moment ago, it may be a pipe now: nobody waits for one, nor follows a new link.
        flags = os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC
        file = os.fdopen(os.open(path, flags), "rb", buffering=0)
        try:
            content = self._hashes.get(_state(file), lambda: _hash(file))
        except BaseException:
            file.close()
            raise
        return Source(_name(path), content, file)

    def _remote(self, uri: str) -> Source:
        fs, path = filesystem(uri, self._options)
        copy = tempfile.TemporaryFile(prefix="soundmill-listening-", dir=self._folder, buffering=0)  # noqa: SIM115  `Source` closes it
        try:
            digest, size = hashlib.sha256(), 0
            with fs.open(path, "rb") as file:
                while chunk := file.read(_CHUNK):
                    size += len(chunk)
                    if size > self._largest:
                        raise Refused(FILE_UNREADABLE, f"{_name(uri)} has more than {self._largest} bytes")
                    digest.update(chunk)
                    copy.write(chunk)
        except BaseException:
            copy.close()
            raise
        return Source(_name(uri), digest.hexdigest(), copy)


def _name(place: str) -> str:
    return PurePosixPath(place).name if is_local(place) else file_name(place)


def _state(file: BinaryIO) -> tuple[int, ...]:
    found = os.fstat(file.fileno())
    if not stat.S_ISREG(found.st_mode):
        raise OSError("it is no regular file")
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def _hash(file: BinaryIO) -> str:
    digest, at = hashlib.sha256(), 0
    while chunk := os.pread(file.fileno(), _CHUNK, at):
        digest.update(chunk)
        at += len(chunk)
    return digest.hexdigest()
