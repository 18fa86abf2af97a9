"""Files of a spool: written whole or not at all, moved without a moment in which they are nowhere."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import secrets
from collections.abc import Iterable, Iterator
from pathlib import Path

_LOCK = ".lock"
_PARTIAL = ".partial"


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Nobody else, in this process or another, is in this context with the same folder."""
    with (folder / _LOCK).open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # closing it lets go
        yield


def entries(folder: Path) -> list[Path]:
    """The files of entries in a folder; none where there is no folder."""
    try:
        with os.scandir(folder) as found:
            return [folder / one.name for one in found if one.name.endswith(".json")]
    except FileNotFoundError:
        return []


def oldest_first(folder: Path) -> list[Path]:
    """`entries` by their time, see `write`."""
    with os.scandir(folder) as found:
        timed = []
        for one in found:
            if one.name.endswith(".json"):
                with contextlib.suppress(FileNotFoundError):
                    timed.append((one.stat().st_mtime_ns, one.name))
    return [folder / name for _, name in sorted(timed)]


def write(path: Path, content: bytes, at: int | None = None) -> None:
    """Write a file: after a kill or a power cut the old one is there or the new one, whole.

    Args:
        at: the file's time, nanoseconds since 1970.

    Raises:
        OSError: as from writing; the old one is there.
    """
    partial = path.with_name(f"{path.name}{_PARTIAL}")
    try:
        with partial.open("wb") as file:
            file.write(content)
            file.flush()
            if at is not None:
                os.utime(file.fileno(), ns=(at, at))
            os.fsync(file.fileno())
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    sync(path.parent)


def sync(path: Path) -> None:
    """Have a file, or the names in a folder, outlast a power cut. Raises what the disk says."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def remove(path: Path) -> None:
    """Remove a file for good: one that comes back after a power cut would be older than what followed it."""
    path.unlink(missing_ok=True)
    sync(path.parent)


def stem(path: Path) -> str:
    """The part of a name that says whose entry it is."""
    return path.name.partition(".")[0]


def beside(path: Path) -> Path:
    """Another name for an entry of the same video."""
    return path.with_name(f"{stem(path)}.{secrets.token_hex(6)}.json")


def move(path: Path, folder: Path) -> None:
    """Move an entry to a folder, under a name of its own there. It is in one of them at any moment, if not in both."""
    target = beside(folder / path.name)
    try:
        path.rename(target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        # Another file system.
        write(target, path.read_bytes(), at=path.stat().st_mtime_ns)
        path.unlink()
    sync(folder)


def sweep(folder: Path) -> None:
    """Remove what was half written."""
    for left in folder.glob(f"*{_PARTIAL}"):
        left.unlink(missing_ok=True)


def clear(folder: Path, places: Iterable[Path]) -> None:
    """Remove the folder of a spool that has no entries any more; if somebody put one there, it stays.

    Args:
        places: the folder and those in it.
    """
    for place in sorted(places, reverse=True):  # what is inside goes first
        sweep(place)
        for left in (*place.glob("*.txt"), place / _LOCK):
            left.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            place.rmdir()
