"""The files that songs are read from: found below the allowed roots, known by their content, and held open."""

from __future__ import annotations

import hashlib
import os
import stat
import tempfile
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

from pipeline.dataset.sources.addresses import WEB, file_name, scheme
from pipeline.dataset.storage import filesystem, is_local, one_line
from pipeline.service.destinations import Rules
from pipeline.service.listening.cache import Cache
from pipeline.service.listening.web import LedAway, client
from pipeline.service.logs import without_credentials
from pipeline.service.messages import (
    FILE_NOT_FOUND,
    FILE_UNREADABLE,
    PATH_NOT_ALLOWED,
    STORAGE_FAILED,
    Refused,
)

_CHUNK = 1 << 20
_HASHES = 1024


class Source:
    """An open file; the file of that name may be another one meanwhile. It is closed once nobody has it any more.

    Args:
        name: the last part of its path or URL, as it can be written down.
        content: SHA-256 of its bytes, hex.
        file: open for reading.
        folder: where a copy of it lies while it is decoded.
    """

    def __init__(self, name: str, content: str, file: BinaryIO, folder: str | None = None) -> None:
        self.name, self.content = name, content
        self._file, self._folder = file, folder
        weakref.finalize(self, file.close)

    @contextmanager
    def copied(self, told: Callable[[], object] = lambda: None) -> Iterator[BinaryIO]:
        """A copy of it, to decode: whoever maps a file that others cut off is killed by the system.

        Args:
            told: is called now and then while it is copied, and may raise to end it.

        Raises:
            OSError: its content is another one by now.
        """
        with _temporary(self._folder) as copy:
            if _hash(self._file, lambda chunk: (told(), copy.write(chunk))) != self.content:
                raise OSError(f"{self.name} was changed while it was read")
            copy.flush()
            yield copy


class Sources:
    """Finds files.

    Args:
        roots: folders and URL prefixes that they may lie below.
        options: storage options of URLs.
        largest: bytes of a file that is fetched from a URL.
        folder: where fetched files lie, and copies of those that are decoded.
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
        self._client = client(self._redirected)

    def find(self, path: str) -> Source:
        """The file at a path or URL; a URL is fetched.

        Raises:
            Refused: it lies below no root, is not there, is no regular file, or cannot be read.
        """
        place = self._rules.source(path)
        try:
            return self._local(place) if is_local(place) else self._remote(place)
        except Refused:
            raise
        except Exception as error:  # noqa: BLE001  a file system may raise anything; its words may hold a signed URL
            raise _refused(place, error) from None

    def _local(self, path: str) -> Source:
        # Whatever it was a moment ago, it may be a pipe now: nobody waits for one, nor follows a new link.
        flags = os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC
        file = os.fdopen(os.open(path, flags), "rb", buffering=0)
        try:
            # One of the folders in its path may be a link by now.
            if str(Path(f"/proc/self/fd/{file.fileno()}").readlink()) != path:
                raise Refused(PATH_NOT_ALLOWED, "the path leads elsewhere by now")
            content = self._hashes.get(_state(file), lambda: _hash(file))
        except BaseException:
            file.close()
            raise
        return Source(_name(path), content, file, self._folder)

    def _remote(self, uri: str) -> Source:
        web = {"get_client": self._client} if scheme(uri) in WEB else {}
        fs, path = filesystem(uri, {**self._options, **web})
        copy, size = _temporary(self._folder), 0
        digest = hashlib.sha256()
        try:
            with fs.open(path, "rb") as file:
                while chunk := file.read(_CHUNK):
                    size += len(chunk)
                    if size > self._largest:
                        raise Refused(FILE_UNREADABLE, f"{_name(uri)} has more than {self._largest} bytes")
                    digest.update(chunk)
                    copy.write(chunk)
            copy.flush()
        except BaseException:
            copy.close()
            raise
        return Source(_name(uri), digest.hexdigest(), copy, self._folder)

    def _redirected(self, uri: str) -> None:
        try:
            if scheme(uri) not in WEB:
                raise Refused(PATH_NOT_ALLOWED, "no place of the web")
            self._rules.source(uri)
        except Refused as error:
            raise LedAway(str(error)) from None


def _refused(place: str, error: Exception) -> Refused:
    # fsspec asks twice, and takes whatever ends the second time for a file that is not there.
    if isinstance(error, LedAway) or isinstance(error.__cause__, LedAway):
        return Refused(
            PATH_NOT_ALLOWED, f"{_name(place)} is redirected to a place below none of the allowed roots"
        )
    if isinstance(error, FileNotFoundError):
        return Refused(FILE_NOT_FOUND, f"there is no file {_name(place)}")
    code = FILE_UNREADABLE if is_local(place) else STORAGE_FAILED
    return Refused(code, f"{_name(place)} cannot be read: {without_credentials(one_line(error, 200))}")


def _name(place: str) -> str:
    """Of a file, as it can be written down, whatever bytes the system has for it."""
    name = PurePosixPath(place).name if is_local(place) else file_name(place)
    return name.encode(errors="replace").decode()


def _temporary(folder: str | None) -> BinaryIO:
    """A file without a name, which goes with the process."""
    return tempfile.TemporaryFile(prefix="soundmill-listening-", dir=folder)


def _state(file: BinaryIO) -> tuple[int, ...]:
    """What changes with the content."""
    found = os.fstat(file.fileno())
    if not stat.S_ISREG(found.st_mode):
        raise OSError("it is no regular file")
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def _hash(file: BinaryIO, each: Callable[[bytes], object] = lambda chunk: None) -> str:
    """Of the bytes of a file, each piece of which is handed on."""
    digest, at = hashlib.sha256(), 0
    while chunk := os.pread(file.fileno(), _CHUNK, at):
        digest.update(chunk)
        each(chunk)
        at += len(chunk)
    return digest.hexdigest()
