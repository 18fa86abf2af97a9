"""Where songs may come from, and where what is made of them goes: nothing that a message says leads elsewhere."""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from urllib.parse import unquote

from pipeline.dataset.sources.addresses import WEB, scheme
from pipeline.dataset.storage import is_local, local_path, public_uri
from pipeline.service.messages import FILE_NOT_FOUND, FILE_UNREADABLE, PATH_NOT_ALLOWED, Refused, Request


@dataclass(frozen=True)
class Place:
    """A song, and where its result goes.

    Args:
        source: path with every link followed, or URL.
        folder: of the result, a path with every link followed, or URL; it may not be there yet.
        name: of the result's file in it.
        told: path or URL of the result, by the names that whoever asked uses.
    """

    source: str
    folder: str
    name: str
    told: str

    @property
    def target(self) -> str:
        """Path or URL of the result."""
        return f"{self.folder.rstrip('/')}/{self.name}"


@dataclass(frozen=True)
class Rules:
    """What is allowed.

    Args:
        roots: folders and URL prefixes that songs may lie below.
        output_uri: where results go, a folder for each video; None is beside the original.
        name: of a result's file.
    """

    roots: Sequence[str]
    output_uri: str | None = None
    name: str = "vocals_removed.mp3"

    def place(self, request: Request) -> Place:
        """Where a request's song lies and its result goes. Raises `Refused`."""
        local = is_local(request.path)
        source = self.source(request.path)
        if self.output_uri is not None:
            folder = f"{self.output_uri.rstrip('/')}/{request.video_id}"
            return self._apart(Place(source, folder, self.name, f"{folder}/{self.name}"))
        beside = (local_path(request.path) if local else request.path).rpartition("/")[0]
        # Of a link that is the file itself, beside it: its folder has to be below a root as well.
        folder = self._allowed(beside or "/") if local else beside
        return self._apart(Place(source, folder, self.name, f"{beside}/{self.name}"))

    def source(self, path: str) -> str:
        """Where a song lies: its path with every link followed, or its URL. Raises `Refused`."""
        return self._local(path) if is_local(path) else self._remote(path)

    def _apart(self, place: Place) -> Place:
        target = os.path.realpath(place.target) if is_local(place.target) else place.target
        if target == place.source:
            raise Refused(PATH_NOT_ALLOWED, "the original lies where the result would go")
        return place

    def _local(self, path: str) -> str:
        given = local_path(path)
        if "\0" in given or not path.removeprefix("file://").startswith("/"):
            raise Refused(PATH_NOT_ALLOWED, "the path is not absolute")
        found = self._allowed(given)
        try:
            kind = Path(found).stat().st_mode
        except FileNotFoundError:
            raise Refused(FILE_NOT_FOUND, f"there is no file {PurePosixPath(given).name}") from None
        except OSError as error:
            raise Refused(FILE_UNREADABLE, f"{PurePosixPath(given).name}: {error.strerror}") from None
        if not stat.S_ISREG(kind):
            raise Refused(FILE_UNREADABLE, f"{PurePosixPath(given).name} is no regular file")
        return found

    def _allowed(self, path: str) -> str:
        """The path with every link followed, ".." among them as the kernel does: what lies below a root by its name
        may lead out of it. Raises `Refused`."""
        found = os.path.realpath(path)
        roots = [os.path.realpath(local_path(root)) for root in self.roots if is_local(root)]
        if not any(found == root or _below(found, root) for root in roots):
            raise Refused(PATH_NOT_ALLOWED, "the path lies below none of the allowed roots")
        return found

    def _remote(self, uri: str) -> str:
        web = scheme(uri) in WEB
        # A client of the web takes "%2e%2e" for "..", and drops tabs and line ends, wherever they are.
        parts = (unquote(uri) if web else uri).partition("://")[2].split("/")
        strange = any(c < " " or c in "?#\x7f" or (web and c == " ") for c in uri)
        if "::" in uri or strange or any(part in ("..", ".") for part in parts):
            raise Refused(PATH_NOT_ALLOWED, f"{_shown(uri)} is no plain URL of an object")
        roots = [root.rstrip("/") + "/" for root in self.roots if not is_local(root)]
        if not uri.startswith(tuple(roots)) or (web and not _asked_below(uri, roots)):
            raise Refused(PATH_NOT_ALLOWED, "the URL lies below none of the allowed roots")
        return uri


def _shown(uri: str) -> str:
    try:
        return " ".join(public_uri(uri).split())[:200]
    except ValueError:  # not even its host can be told
        return "what was sent"


def _asked_below(uri: str, roots: Sequence[str]) -> bool:
    """Whether what a client of the web makes of a URL lies below a root, too."""
    try:
        from yarl import URL
    except ImportError:  # neither is there a client: it comes with it
        return True
    try:
        return str(URL(uri)).startswith(tuple(str(URL(root)) for root in roots if scheme(root) in WEB))
    except ValueError:
        return False


def _below(path: str, root: str) -> bool:
    return root == "/" or path.startswith(root.rstrip("/") + "/")
